"""Writes small data sets of one's own: a folder with a `dataset.yaml`, frames and labels."""

import numpy as np
import yaml
from PIL import Image

from segrgbx_core.base.images import write_image

SIZE = (48, 64)


def dataset(classes=("road", "person", "pallet"), **changes):
    """Content of a `dataset.yaml` of thermal pairs.

    Args:
        classes: names, which get values from 0 on, or whole entries.
        changes: other keys; None removes one.
    """
    content = {
        "modality": "thermal",
        "rgb": "rgb/*.png",
        "x": "thermal/*.png",
        "labels": "labels/*.png",
        "splits": {"train": "train.txt", "val": "val.txt"},
        "classes": [
            entry if isinstance(entry, dict) else {"name": entry, "value": i, "color": colour(i)}
            for i, entry in enumerate(classes)
        ],
        "ignore": [255],
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


def colour(value):
    """A colour that no other value below 250 has."""
    return [(value * 53 + 10) % 256, (value * 91) % 256, value]


def write_dataset(root, content=None, frames=6, size=SIZE, form="ids", rng=None):
    """Writes frames whose labels are vertical stripes, warmer and brighter from left to right.

    Args:
        root: the folder.
        content: of `dataset.yaml`, as `dataset` makes it.
        frames: number of frames; the last third is val.
        size: height and width.
        form: of labels: ids, colors or indexed.
        rng: source of noise.

    Returns:
        the label ids of each frame by stem.
    """
    content = content or dataset()
    rng = rng or np.random.default_rng(5)
    for name in ("rgb", "thermal", "labels"):
        (root / name).mkdir(parents=True, exist_ok=True)
    number = len(content["classes"])
    truth = {}
    for frame in range(frames):
        stem = f"{frame:04d}"
        stripes = (np.arange(size[1]) + 7 * frame) * number // size[1] % number
        ids = np.broadcast_to(stripes.astype(np.uint8), size).copy()
        ids[0] = 255
        truth[stem] = ids
        level = np.where(ids == 255, 0, ids.astype(int) * 200 // max(number - 1, 1) + 20)
        noise = rng.integers(0, 10, (*size, 3))
        write_image(root / f"rgb/{stem}.png", (level[..., None] + noise).astype(np.uint8))
        if "x" in content:
            counts = (28000 + 8 * level + noise[..., 0]).astype(np.uint16)
            write_image(root / f"thermal/{stem}.png", counts)
        write_labels(root / f"labels/{stem}.png", ids, content, form)
    stems = sorted(truth)
    cut = len(stems) - len(stems) // 3
    (root / "train.txt").write_text("\n".join(stems[:cut]) + "\n")
    (root / "val.txt").write_text("\n".join(stems[cut:]) + "\n")
    write_yaml(root, content)
    return truth


def write_labels(path, ids, content, form="ids"):
    """Writes a label file: void is the first ignored entry."""
    void = content["ignore"][0]
    if form == "colors":
        table = np.zeros((256, 3), np.uint8)
        for index, row in enumerate(content["classes"]):
            table[index] = row["color"]
        table[255] = void
        write_image(path, table[ids])
        return
    table = np.zeros(256, np.uint16)
    for index, row in enumerate(content["classes"]):
        table[index] = row["value"]
    table[255] = void
    values = table[ids]
    values = values.astype(np.uint8) if values.max() < 256 else values
    if form == "ids":
        write_image(path, values)
        return
    image = Image.fromarray(values, mode="P")
    image.putpalette([part for value in range(256) for part in colour(value)])
    image.save(path)


def write_yaml(root, content):
    """Writes the `dataset.yaml` with one class a line, as people do."""
    rows = content["classes"]
    rest = {key: value for key, value in content.items() if key != "classes"}
    lines = [yaml.safe_dump(rest, sort_keys=False), "classes:\n"]
    lines += [f"  - {yaml.safe_dump(row, default_flow_style=True, width=1000)}" for row in rows]
    (root / "dataset.yaml").write_text("".join(lines))


def line_of(root, text):
    """Number of the first line of a `dataset.yaml` that holds a text."""
    lines = (root / "dataset.yaml").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)
