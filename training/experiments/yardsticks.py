"""Scores checkpoints on real frames in classes that rendered scenes have too, on one page.

    python -m training.experiments.yardsticks CHECKPOINT ... --data DATA --samples SAMPLES

DATA holds `camvid` (street frames, hand-made labels) and `roadscene` (street pairs of RGB and
thermal, labels made by a network: agreement, no accuracy); SAMPLES holds `msrs` (pairs with boxes
drawn by hand) and `deliver_small` (rendered frames of another world). What is absent is left out.
With `--scenes SCENES`, a folder with the rendered split `test`, also what MA-CLIP's embeddings are
worth: the same frames with embeddings of another frame, and with zeros.

Decide with `--split val`; the split `test` is for the end.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError, command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.images import read_image
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Array, RgbxSample, XForm
from segrgbx_core.base.tables import markdown_table, number
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.metrics import ConfusionMatrix, iou_of
from segrgbx_core.labels.tables import DELIVER, SYNTHETIC_STREET
from segrgbx_core.runtime.checkpoint import load_checkpoint
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.data.datasets import Labelled, open_reader, sensor_of
from training.data.datasets.synthetic import XSource
from training.experiments.trials import SceneScores, difference

Groups = Mapping[str, tuple[str, ...]]
"""A class that is scored to the names that count as it, in truth and answers alike."""

CAMVID: Groups = {
    "sky": ("sky",),
    "building": ("building", "glass"),
    "pole": ("pole",),
    "road": ("road", "road line"),
    "sidewalk": ("pavement", "sidewalk"),
    "tree": ("tree", "vegetation", "terrain"),
    "sign": ("sign symbol", "traffic sign", "traffic light"),
    "fence": ("fence",),
    "car": ("car", "truck", "bus"),
    "pedestrian": ("pedestrian", "person"),
    "bicyclist": ("bicyclist", "bike", "rider"),
}
ROADSCENE: Groups = {
    "road": ("road", "road line"),
    "sidewalk": ("sidewalk",),
    "building": ("building", "glass"),
    "vegetation": ("vegetation", "terrain"),
    "sky": ("sky",),
    "person": ("person", "rider"),
    "car": ("car", "truck", "bus"),
}
MIN_BOX_PIXELS = 200
"""Smaller boxes are not looked for."""
FOUND_SHARE = 0.25
"""Part of a box that must be labelled as its class."""
BOX_CLASSES = {0: "person", 2: "car"}
"""Class of a line of a box file to the class of answers."""
_FAR_COLOUR = 40
"""Distance in RGB from which a dithered colour belongs to no class."""


class Embeddings(str, Enum):
    """What stands in the place of MA-CLIP's embeddings."""

    OWN = "own"
    """Those of the frame."""
    OTHER = "other"
    """Those of another frame of the batch."""
    ZERO = "zero"
    """Zeros."""


def street_segmenter(path: Path, device: str = "auto") -> Segmenter:
    """A checkpoint that answers with the classes of the rendered street, the others left aside."""
    config = InferenceConfig(device=device)
    return Segmenter(load_checkpoint(path), config, label_space=SYNTHETIC_STREET.name)


def group_table(names: Sequence[str], groups: Groups) -> NDArray[np.uint8]:
    """Class ids to places in `groups`, `VOID` for a class that is in none, (256,)."""
    table = np.full(256, VOID, np.uint8)
    for place, members in enumerate(groups.values()):
        for index, name in enumerate(names):
            if name in members:
                table[index] = place
    return table


def count_groups(
    segmenter: Segmenter, items: Iterable[Labelled], names: Sequence[str], groups: Groups
) -> NDArray[np.int64]:
    """Counts frames in merged classes.

    Args:
        segmenter: gives the answers.
        items: frames with truth.
        names: what the ids of the truth mean; truth that is in no group does not count.
        groups: the classes; an answer that is in none is wrong.

    Returns:
        int64 (frames, groups, groups + 1), the confusion matrix of each frame.
    """
    truths, answers = group_table(names, groups), group_table(segmenter.classes.names, groups)
    counts = []
    for batch in batches(items):
        for item, answer in zip(
            batch, segmenter.predict([one.sample for one in batch]), strict=True
        ):
            matrix = ConfusionMatrix(len(groups))
            matrix.update(truths[item.labels], answers[answer.labels])
            counts.append(matrix.matrix)
    return np.stack(counts)


def batches(items: Iterable[Labelled], size: int = 4) -> Iterator[list[Labelled]]:
    """Frames in groups of `size`; a single one left over joins the last group.

    So every frame has another one beside it, whose embeddings it can be given.
    """
    batch: list[Labelled] = []
    for item in items:
        if len(batch) > size:
            yield batch[:size]
            batch = batch[size:]
        batch.append(item)
    if batch:
        yield batch


def folder_rows(
    segmenter: Segmenter, root: Path, split: str, groups: Groups, sources: Sequence[XSource]
) -> list[list[str]]:
    """One row per kind of X: mIoU and the IoU of every class, in per cent."""
    rows = []
    for source in sources:
        reader = open_reader("folder", root, split, Modality.THERMAL, {"x": source.value})
        names = reader.label_space.native(reader.native).names  # type: ignore[attr-defined]
        items = (reader[index] for index in range(len(reader)))
        counts = count_groups(segmenter, items, names, groups).sum(axis=0)
        iou = 100 * iou_of(counts[None])[0]
        title = f"{root.name} {split} ({len(reader)}), X {source.value}"
        rows.append([title, number(float(np.nanmean(iou))), *map(number, iou)])
    return rows


@dataclass
class BoxCount:
    """How many boxes of one class are found.

    Attributes:
        boxes: boxes of at least `MIN_BOX_PIXELS`.
        found: of them, those of which `FOUND_SHARE` is labelled as their class.
        pixels: pixels labelled as the class.
        inside: of them, those inside any box of it.
    """

    boxes: int = 0
    found: int = 0
    pixels: int = 0
    inside: int = 0

    def add(self, is_class: NDArray[np.bool_], boxes: Sequence[tuple[int, int, int, int]]) -> None:
        """Counts one frame; boxes are left, top, right and bottom in pixels."""
        covered = np.zeros_like(is_class)
        for left, top, right, bottom in boxes:
            part = is_class[top:bottom, left:right]
            covered[top:bottom, left:right] = True
            if part.size >= MIN_BOX_PIXELS:
                self.boxes += 1
                self.found += bool(part.mean() >= FOUND_SHARE)
        self.pixels += int(is_class.sum())
        self.inside += int((is_class & covered).sum())

    def __str__(self) -> str:
        share = 100 * self.inside / self.pixels if self.pixels else float("nan")
        return f"{self.found} of {self.boxes} ({number(share, 0)} % inside)"


def read_boxes(path: Path, height: int, width: int) -> list[tuple[int, tuple[int, int, int, int]]]:
    """Class and edges in pixels of every line: class, centre x, y, width, height as shares.

    Raises:
        DataError: naming the line that holds something else.
    """
    boxes = []
    for place, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            kind, x, y, across, down = map(float, line.split())
        except ValueError:
            raise DataError(
                f"{path}, line {place}: '{line}'; expected class, x, y, w, h"
            ) from None
        edges = np.array([x - across / 2, y - down / 2, x + across / 2, y + down / 2])
        scaled = np.round(edges * [width, height, width, height]).astype(int)
        left, top, right, bottom = np.clip(scaled, 0, [width, height, width, height]).tolist()
        boxes.append((int(kind), (left, top, right, bottom)))
    return boxes


def box_rows(segmenter: Segmenter, root: Path) -> list[list[str]]:
    """People and cars that are found by night and by day, with thermal and without."""
    rows = []
    for source in (XSource.OWN, XSource.NONE):
        counts = {(light, name): BoxCount() for light in "ND" for name in BOX_CLASSES.values()}
        for file in sorted(root.glob("*_boxes.txt")):
            stem = file.name.removesuffix("_boxes.txt")
            rgb = read_image(root / f"{stem}_rgb.png")
            x = read_image(root / f"{stem}_thermal.png")
            x = x if source is XSource.OWN else np.zeros_like(x)
            sample = RgbxSample(rgb, x, Modality.THERMAL, x_form=XForm.IMAGE)
            labels = segmenter.predict([sample])[0].labels
            boxes = read_boxes(file, *labels.shape)
            for kind, name in BOX_CLASSES.items():
                is_class = labels == segmenter.classes.names.index(name)
                own = [edges for one, edges in boxes if one == kind]
                counts[stem[-1], name].add(is_class, own)
        rows.append([f"X {source.value}", *map(str, counts.values())])
    return rows


def deliver_items(root: Path, modality: Modality) -> Iterator[Labelled]:
    """The sample frames of DeLiVER; their colours are dithered, far ones are void."""
    palette = DELIVER.palette_array().astype(np.int32)
    for file in sorted(root.glob("*_semantic.png")):
        stem = file.name.removesuffix("_semantic.png")
        colours = read_image(file)[..., :3].astype(np.int32)
        distance = np.square(colours[..., None, :] - palette).sum(axis=-1)  # (H, W, C)
        labels = distance.argmin(axis=-1).astype(np.uint8)
        labels[distance.min(axis=-1) > _FAR_COLOUR**2] = VOID
        sample = RgbxSample(
            read_image(root / f"{stem}_rgb.png")[..., :3],
            read_image(root / f"{stem}_{modality.value}.png")[..., :3],
            modality,
            x_form=XForm.IMAGE,
        )
        yield Labelled(sample, labels, stem)


def without_x(item: Labelled) -> Labelled:
    """The frame with a black X."""
    sample = item.sample
    black: Array = np.zeros_like(np.asarray(sample.x))
    return Labelled(
        RgbxSample(sample.rgb, black, sample.modality, x_form=sample.x_form),
        item.labels,
        item.name,
    )


def deliver_rows(segmenter: Segmenter, root: Path) -> list[list[str]]:
    """Mean IoU over the classes of the rendered street, with X and without."""
    unified = segmenter.label_space.names
    names = [unified[place] for place in DELIVER.to_unified]
    groups = {name: (name,) for name in SYNTHETIC_STREET.names if name in names}
    rows = []
    for modality in (Modality.EVENT, Modality.DEPTH):
        if modality not in segmenter.contract.modalities:
            continue
        values = []
        for own in (True, False):
            items = deliver_items(root, modality)
            shown = items if own else map(without_x, items)
            counts = count_groups(segmenter, shown, names, groups).sum(axis=0)
            seen = counts.sum(axis=1) > 0
            values.append(100 * float(np.nanmean(iou_of(counts[None])[0][seen])))
        rows.append([str(modality), *map(number, values)])
    return rows


def exchange_embeddings(ma_clip: torch.nn.Module, kind: Embeddings) -> None:
    """Makes MA-CLIP answer with other embeddings from now on; batches must have two frames."""

    def exchanged(_: torch.nn.Module, __: Any, output: tuple[torch.Tensor, ...]) -> Any:
        if kind is Embeddings.ZERO:
            return tuple(map(torch.zeros_like, output))
        return tuple(one.roll(1, dims=0) for one in output)

    if kind is not Embeddings.OWN:
        ma_clip.register_forward_hook(exchanged)


def embedding_rows(checkpoint: Path, scenes: Path, device: str) -> list[list[str]]:
    """Mean IoU on rendered scenes with the own embeddings, and what others change, by modality."""
    names = SYNTHETIC_STREET.names
    groups = {name: (name,) for name in names}
    rows = []
    served = load_checkpoint(checkpoint).contract.modalities
    for modality in (one for one in MODALITIES if one in served):
        scores = {}
        for kind in Embeddings:
            loaded = load_checkpoint(checkpoint)
            exchange_embeddings(loaded.ma_clip, kind)
            reader = open_reader("synthetic_street", scenes, "test", modality)
            segmenter = Segmenter(
                loaded,
                InferenceConfig(device=device),
                sensor_of(reader, None),
                label_space=SYNTHETIC_STREET.name,
            )
            items = (reader[index] for index in range(len(reader)))
            scores[kind] = SceneScores(count_groups(segmenter, items, names, groups), {})
        own = scores[Embeddings.OWN]
        changes = [
            str(difference([scores[kind]], [own])) for kind in (Embeddings.OTHER, Embeddings.ZERO)
        ]
        rows.append([str(modality), number(own.miou), *changes])
    return rows


def page(checkpoint: Path, args: argparse.Namespace) -> str:
    """What one checkpoint scores, as Markdown, in per cent."""
    segmenter = street_segmenter(checkpoint, args.device)
    parts = [f"## {checkpoint.name} ({segmenter.checkpoint.hash})"]
    for name, groups, sources in (
        ("camvid", CAMVID, (XSource.NONE,)),
        ("roadscene", ROADSCENE, (XSource.OWN, XSource.NONE, XSource.OTHER)),
    ):
        if args.data and (args.data / name).is_dir():
            rows = folder_rows(segmenter, args.data / name, args.split, groups, sources)
            parts.append(markdown_table(("frames", "mIoU", *groups), rows))
    if args.samples and (args.samples / "msrs").is_dir():
        titles = [
            f"{name}, {light}" for light in ("night", "day") for name in BOX_CLASSES.values()
        ]
        parts.append(
            markdown_table(("msrs boxes", *titles), box_rows(segmenter, args.samples / "msrs"))
        )
    if args.samples and (args.samples / "deliver_small").is_dir():
        rows = deliver_rows(segmenter, args.samples / "deliver_small")
        if rows:
            parts.append(markdown_table(("deliver_small", "mIoU", "without X"), rows))
    if args.scenes:
        rows = embedding_rows(checkpoint, args.scenes, args.device)
        titles = ["embeddings", "mIoU", "of another frame", "zeros"]
        parts.append(markdown_table(titles, rows))
    return "\n\n".join(parts)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoints", type=user_path, nargs="+", help="trained on rendered scenes alone")
    add("--data", type=user_path, help="folder with camvid and roadscene")
    add("--samples", type=user_path, help="folder with msrs and deliver_small")
    add("--scenes", type=user_path, help="folder with the rendered split test, for embeddings")
    add("--split", default="val", help="of camvid and roadscene: train, val or, at the end, test")
    add("--device", default="auto", help="auto or cpu")
    args = parser.parse_args(arguments)
    for checkpoint in args.checkpoints:
        sys.stdout.write(f"{page(checkpoint, args)}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
