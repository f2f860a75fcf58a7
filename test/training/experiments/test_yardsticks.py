"""Yardsticks: merged classes, boxes, exchanged embeddings, and the page on made-up folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events, Prediction, RgbxSample
from segrgbx_core.labels.label_space import VOID, synthetic_label_space
from segrgbx_core.labels.tables import DELIVER, SYNTHETIC_STREET
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_checkpoint
from training.data.datasets import Labelled, open_reader
from training.experiments.yardsticks import (
    CAMVID,
    ROADSCENE,
    BoxCount,
    Embeddings,
    batches,
    count_groups,
    deliver_items,
    exchange_embeddings,
    group_table,
    main,
    read_boxes,
)
from training.world.records import Record, save_record


class Painter:
    """A segmenter whose answer is the red channel of RGB, as ids of the rendered street."""

    classes = SYNTHETIC_STREET

    def predict(self, samples):
        return [
            Prediction(one.rgb[..., 0], one.rgb[..., 0], one.rgb, one.modality, 0, "")
            for one in samples
        ]


def frame(answer, truth):
    rgb = np.repeat(np.asarray(answer, np.uint8)[..., None], 3, axis=2)
    return Labelled(RgbxSample(rgb, rgb, Modality.THERMAL), np.asarray(truth, np.uint8), "frame")


def test_merged_names_count_as_one_class():
    names = SYNTHETIC_STREET.names
    road, line, car = (names.index(name) for name in ("road", "road line", "car"))
    truth_names = ("road", "car", "unknown")
    items = [
        frame([[road, line, car, car]], [[0, 0, 0, 2]]),
        frame([[car, 255, car]], [[1, 1, 1]]),
    ]
    counts = count_groups(Painter(), items, truth_names, ROADSCENE)
    groups = list(ROADSCENE)
    at_road, at_car = groups.index("road"), groups.index("car")
    assert counts.shape == (2, len(groups), len(groups) + 1)
    assert counts[0, at_road, at_road] == 2
    assert counts[0, at_road, at_car] == 1
    assert counts[0].sum() == 3  # truth in no group does not count
    assert (counts[1, at_car, at_car], counts[1, at_car, -1]) == (2, 1)


@pytest.mark.parametrize("groups", [CAMVID, ROADSCENE])
def test_no_name_counts_twice(groups):
    members = [name for one in groups.values() for name in one]
    assert len(members) == len(set(members))
    table = group_table(SYNTHETIC_STREET.names, groups)
    assert table[SYNTHETIC_STREET.names.index("terrain")] == list(groups).index(
        "tree" if groups is CAMVID else "vegetation"
    )
    assert table[SYNTHETIC_STREET.names.index("water")] == VOID


def test_a_box_is_found_when_a_quarter_is_labelled():
    labels = np.zeros((100, 100), bool)
    labels[0:5, 0:20] = True  # a quarter of the first box
    labels[50:54, 0:20] = True  # a fifth of the second
    labels[90:, 90:] = True  # in a box of 100 pixels, which is too small to be looked for
    labels[70, 70] = True
    count = BoxCount()
    count.add(labels, [(0, 0, 20, 20), (0, 50, 20, 70), (90, 90, 100, 100)])
    assert (count.found, count.boxes) == (1, 2)
    assert (count.pixels, count.inside) == (281, 280)
    assert str(count).startswith("1 of 2 (100 %")


def test_boxes_are_read_in_pixels_and_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "boxes.txt"
    path.write_text("2 0.5 0.5 0.2 0.5\n0 0.0 0.0 0.2 0.2\n")
    assert read_boxes(path, 100, 200) == [(2, (80, 25, 120, 75)), (0, (0, 0, 20, 10))]
    path.write_text("0 0.5 0.5 0.2 0.5\nperson\n")
    with pytest.raises(DataError, match=r"line 2: 'person'"):
        read_boxes(path, 100, 200)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, []),
        (1, [[0]]),
        (3, [[0, 1, 2]]),
        (4, [[0, 1], [2, 3]]),
        (5, [[0, 1], [2, 3, 4]]),
        (6, [[0, 1], [2, 3], [4, 5]]),
    ],
)
def test_no_frame_is_left_alone_in_its_batch(count, expected):
    assert list(batches(range(count), 2)) == expected


@pytest.mark.parametrize("kind", Embeddings)
def test_embeddings_are_exchanged(kind):
    class Clip(torch.nn.Module):
        def forward(self, rgb):
            return rgb, 2 * rgb

    clip, images = Clip(), torch.arange(1.0, 4).reshape(3, 1)
    exchange_embeddings(clip, kind)
    expected = {
        Embeddings.OWN: images,
        Embeddings.OTHER: torch.tensor([[3.0], [1.0], [2.0]]),
        Embeddings.ZERO: torch.zeros(3, 1),
    }[kind]
    rgb, x = clip(images)
    assert torch.equal(rgb, expected)
    assert torch.equal(x, 2 * expected)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def test_dithered_colours_become_the_nearest_class(tmp_path):
    sky = np.array(DELIVER.palette[DELIVER.names.index("Sky")])
    colours = np.stack([sky + 5, [255, 255, 255]])[None].astype(np.uint8)
    write(tmp_path / "00_semantic.png", colours[..., ::-1])
    for kind in ("rgb", "depth"):
        write(tmp_path / f"00_{kind}.png", colours)
    (item,) = deliver_items(tmp_path, Modality.DEPTH)
    assert item.labels.tolist() == [[DELIVER.names.index("Sky"), VOID]]


def test_the_page_of_made_up_folders(tmp_path, capsys):
    rng = np.random.default_rng(0)

    def picture(*size):
        return rng.integers(0, 255, size, dtype=np.uint8)

    for name, x in (("camvid", {}), ("roadscene", {"modality": "thermal", "x": "thermal/*.png"})):
        for index in range(2):
            write(tmp_path / name / f"rgb/{index}.png", picture(32, 48, 3))
            write(tmp_path / name / f"thermal/{index}.png", picture(32, 48))
            write(tmp_path / name / f"labels/{index}.png", picture(32, 48) % 2)
        classes = [
            {"name": name, "value": i, "unified": name} for i, name in enumerate(("road", "sky"))
        ]
        layout = {"rgb": "rgb/*.png", "labels": "labels/*.png", **x, "classes": classes}
        layout["splits"] = {"val": "val.txt"}
        (tmp_path / name / "val.txt").write_text("0\n1\n")
        (tmp_path / name / "dataset.yaml").write_text(yaml.safe_dump(layout))
    for stem in ("0N", "1D"):
        write(tmp_path / f"msrs/{stem}_rgb.png", picture(48, 64, 3))
        write(tmp_path / f"msrs/{stem}_thermal.png", picture(48, 64))
        (tmp_path / f"msrs/{stem}_boxes.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    for kind in ("rgb", "depth", "event"):
        write(tmp_path / f"deliver_small/00_{kind}.png", picture(32, 32, 3))
    sky = DELIVER.palette[DELIVER.names.index("Sky")]
    write(
        tmp_path / "deliver_small/00_semantic.png", np.full((32, 32, 3), sky, np.uint8)[..., ::-1]
    )
    checkpoint = tmp_path / "random.safetensors"
    random_checkpoint(checkpoint, label_space=synthetic_label_space().to_dict())
    folders = ["--data", str(tmp_path), "--samples", str(tmp_path), "--device", "cpu"]
    assert main([str(checkpoint), *folders]) == 0
    printed = capsys.readouterr().out
    assert "camvid val (2), X none" in printed
    for source in ("own", "none", "other"):
        assert f"roadscene val (2), X {source}" in printed
    assert "of 1 (" in printed
    assert "| depth |" in printed


def test_embeddings_are_exchanged_for_every_sensor_of_rendered_scenes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    high, wide = 32, 48
    (tmp_path / "test").mkdir()
    for seed in range(2):
        events = Events(
            x=rng.integers(0, wide, 50).astype(np.uint16),
            y=rng.integers(0, high, 50).astype(np.uint16),
            t_ns=np.sort(rng.integers(0, 50_000_000, 50)),
            p=rng.integers(0, 2, 50, dtype=np.uint8),
            width=wide,
            height=high,
        )
        record = Record(
            seed=seed,
            stamp_ns=0,
            x_stamp_ns=50_000_000,
            rgb=rng.integers(0, 256, (high, wide, 3), dtype=np.uint8),
            labels=rng.integers(0, 16, (high, wide), dtype=np.uint8),
            thermal=rng.integers(28000, 31000, (high, wide), dtype=np.uint16),
            depth=rng.uniform(1, 50, (high, wide)).astype(np.float32),
            depth_truth=rng.uniform(1, 50, (high, wide)).astype(np.float32),
            events=events,
            polarization=rng.integers(0, 4096, (high, wide, 4), dtype=np.uint16),
            light_field=rng.integers(0, 256, (1, high, wide, 3), dtype=np.uint8),
        )
        save_record(tmp_path / "test" / f"{seed:05d}_00.npz", record)
    checkpoint = tmp_path / "random.safetensors"
    random_checkpoint(
        checkpoint,
        input=InputConfig(height=high, width=wide),
        label_space=synthetic_label_space().to_dict(),
    )
    assert main([str(checkpoint), "--scenes", str(tmp_path), "--device", "cpu"]) == 0
    rows = capsys.readouterr().out.splitlines()[4:]
    cells = [row.strip("| ").split(" | ") for row in rows if row]
    assert [name for name, *_ in cells] == [str(one) for one in MODALITIES]
    for _, miou, *changes in cells:
        assert 0 < float(miou) < 100
        assert all("±" in change for change in changes)


@pytest.mark.parametrize("groups", [CAMVID, ROADSCENE])
def test_the_real_folders_name_every_group(groups):
    name = "camvid" if groups is CAMVID else "roadscene"
    folder = Path(__file__).resolve().parents[4] / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"real data: {folder} is absent")
    reader = open_reader("folder", folder, "val", Modality.THERMAL)
    table = group_table(reader.label_space.native(reader.native).names, groups)
    assert set(range(len(groups))) <= set(table.tolist())
