"""What the writers of layouts put on disk, against lists written by hand."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import read_image, read_labels
from segrgbx_core.base.samples import Events
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.labels.tables import DELIVER, MFNET, NYU
from training.data.datasets import READERS, open_reader
from training.data.datasets.export import (
    Frame,
    NyuLayout,
    UrbanLfLayout,
    export_deliver,
    export_mfnet,
    export_nyu,
    export_urbanlf,
    export_zju,
    file_values,
)
from training.data.datasets.export_rendered import EXPORTS, frame_of, main
from training.world.records import Record, save_record


def tree(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_deliver(tmp_path, make, rng):
    frame = make["deliver"](rng, "cloud/MAP_10_point102/045050")
    export_deliver([frame], tmp_path, "test", has_alpha=True)
    scene = "cloud/test/MAP_10_point102/045050"
    assert tree(tmp_path) == {
        f"img/{scene}_rgb_front.png",
        f"depth/{scene}_depth_front.png",
        f"hha/{scene}_depth_front.png",
        f"event/{scene}_event_front.png",
        f"lidar/{scene}_lidar_front.png",
        f"semantic/{scene}_semantic_front.png",
    }
    label = read_image(tmp_path / "semantic" / f"{scene}_semantic_front.png")
    assert label.shape == (36, 54, 4)
    assert set(np.unique(label[..., 0])) == set(range(26))
    assert read_image(tmp_path / "img" / f"{scene}_rgb_front.png").shape == (36, 54, 4)


def test_mfnet(tmp_path, make, rng):
    frame = make["mfnet"](rng, "01234N")
    export_mfnet([frame], tmp_path, "train", flips=True)
    assert tree(tmp_path) == {
        "images/01234N.png",
        "images/01234N_flip.png",
        "labels/01234N.png",
        "labels/01234N_flip.png",
        "train.txt",
    }
    assert (tmp_path / "train.txt").read_text() == "01234N\n01234N_flip\n"
    assert read_image(tmp_path / "images/01234N.png").shape == (36, 54, 4)
    np.testing.assert_array_equal(read_labels(tmp_path / "labels/01234N.png"), frame.labels)


@pytest.mark.parametrize(
    ("layout", "files", "line"),
    [
        (NyuLayout.CMX, {"RGB/7.jpg", "HHA/7.jpg", "Label/7.png"}, "7"),
        (
            NyuLayout.DFORMER,
            {"RGB/7.jpg", "Depth/7.png", "Label/7.png"},
            "RGB/7.jpg Label/7.png",
        ),
        (NyuLayout.STITCHFUSION, {"RGB/7.jpg", "HHA/7.png", "Labels/7.png"}, "7"),
        (
            NyuLayout.TOKENFUSION,
            {"rgb/7.png", "depth/7.png", "masks/7.png"},
            "rgb/7.png\tmasks/7.png\tdepth/7.png",
        ),
        (
            NyuLayout.ESANET,
            {"train/rgb/7.png", "train/depth/7.png", "train/labels_40/7.png"},
            "7",
        ),
    ],
)
def test_nyu(tmp_path, make, rng, layout, files, line):
    export_nyu([make["nyu"](rng, "7")], tmp_path, "train", layout)
    assert tree(tmp_path) == {*files, "train.txt"}
    assert (tmp_path / "train.txt").read_text() == f"{line}\n"


def test_zju(tmp_path, make, rng):
    export_zju([make["zju_rgbp"](rng, "a_image0")], tmp_path, "val", sign="°")
    assert tree(tmp_path) == {
        "val/0/a_image0_0°.png",
        "val/45/a_image0_45°.png",
        "val/90/a_image0_90°.png",
        "val/135/a_image0_135°.png",
        "val/val_label/a_image0.png",
    }


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        (UrbanLfLayout.REAL, {"5_5.png", "1_1.png", "9_1.png", "label.npy", "label.png"}),
        (UrbanLfLayout.SYNTHETIC, {"5_5.png", "1_1.png", "9_1.png", "5_5_label.npy"}),
    ],
)
def test_urbanlf(tmp_path, make, rng, layout, files):
    export_urbanlf([make["urbanlf"](rng, "Image019")], tmp_path, "val", layout)
    assert tree(tmp_path) == {f"val/Image019/{name}" for name in files}


def test_urbanlf_re_pack(tmp_path, make, rng):
    export_urbanlf([make["urbanlf"](rng, "19")], tmp_path, "val", UrbanLfLayout.REPACK)
    views = {f"View/V{view}/19.png" for view in ("55", "11", "91")}
    assert tree(tmp_path) == {*views, "Label/19.png", "Val_list.txt"}


class TestFileValues:
    def test_tables(self):
        labels = np.array([[0, 24, VOID]], np.uint8)
        assert file_values(labels, DELIVER).tolist() == [[1, 25, 0]]
        assert file_values(np.array([[0, 39, VOID]], np.uint8), NYU, 0, 255).tolist() == [
            [0, 39, 255]
        ]

    def test_void_has_no_value_in_mfnet(self):
        with pytest.raises(DataError, match="'mfnet' has no label file value for void"):
            file_values(np.array([[VOID]], np.uint8), MFNET)

    def test_ids_beyond_the_table(self):
        with pytest.raises(DataError, match="no label file value for id 9"):
            file_values(np.array([[9]], np.uint8), MFNET)


@pytest.fixture
def record(rng):
    """What the renderer delivers, without rendering."""
    height, width = 24, 32
    count = 200
    return Record(
        seed=3,
        stamp_ns=0,
        rgb=rng.integers(20, 200, (height, width, 3), dtype=np.uint8),
        labels=np.resize(np.arange(16, dtype=np.uint8), (height, width)),
        meta={"time_of_day": "night", "corruption": "motion_blur"},
        thermal=rng.integers(28000, 31000, (height, width), dtype=np.uint16),
        depth=rng.uniform(2, 40, (height, width)).astype(np.float32),
        events=Events(
            rng.integers(0, width, count).astype(np.uint16),
            rng.integers(0, height, count).astype(np.uint16),
            np.sort(rng.integers(0, 10_000_000, count)),
            rng.integers(0, 2, count).astype(np.uint8),
            width,
            height,
        ),
        polarization=rng.integers(1500, 1800, (height, width, 4), dtype=np.uint16),
        light_field=rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8),
    )


@pytest.mark.parametrize("name", EXPORTS)
def test_rendered_records_become_each_data_set(tmp_path, record, name):
    frame = frame_of(record, name, 5)
    assert isinstance(frame, Frame)
    (tmp_path / "in" / "train").mkdir(parents=True)
    save_record(tmp_path / "in" / "train" / "00003_00.npz", record)
    assert main([name, str(tmp_path / "in"), str(tmp_path / "out"), "--splits", "train"]) == 0
    options = {"coding": "from_one"} if name == "nyu" else {}  # a street has few of its classes
    modality = READERS[name].modalities[0]
    reader = open_reader(name, tmp_path / "out", "train", modality, options)
    item = reader[0]
    expected = frame_of(record, name, 0)
    np.testing.assert_array_equal(item.labels, expected.labels)
    assert (item.labels != VOID).any()
    if name == "zju_rgbp":
        mean = open_reader(name, tmp_path / "out", "train", modality, {"rgb": "mean"})
        assert np.abs(mean[0].sample.rgb.astype(int) - record.rgb).max() <= 1
    elif name != "nyu":  # JPEG there
        np.testing.assert_array_equal(item.sample.rgb, record.rgb)


def test_facts_of_a_record_are_in_the_names(record):
    assert frame_of(record, "mfnet", 5).name == "00005N"
    assert frame_of(record, "deliver", 5).name == "night/MAP_3_point1_motionblur/000005"


def test_a_record_without_the_sensor_is_refused(tmp_path, record, capsys):
    (tmp_path / "train").mkdir()
    bare = Record(seed=1, stamp_ns=0, rgb=record.rgb, labels=record.labels)
    save_record(tmp_path / "train" / "a.npz", bare)
    for name in EXPORTS:
        assert main([name, str(tmp_path), str(tmp_path / "out"), "--splits", "train"]) == 2
    assert "render it with --sensors all" in capsys.readouterr().err
    assert main(["mfnet", str(tmp_path), str(tmp_path / "out"), "--splits", "val"]) == 2


def test_the_former_package_name_finds_the_same_command():
    former, present = (
        find_spec(f"training.{package}.export_rendered")
        for package in ("datasets", "data.datasets")
    )
    assert former.origin == present.origin


def test_the_command_of_the_former_name_runs():
    command = [sys.executable, "-m", "training.datasets.export_rendered", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "export_rendered" in done.stdout
