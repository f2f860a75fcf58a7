"""From a recording to a data set: what is written, chosen, drafted and refused."""

import csv
import json

import cv2
import numpy as np
import pytest
import yaml

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.images import read_image, read_labels
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.runtime.checkpoint import random_checkpoint
from segrgbx_core.runtime.segmenter import Segmenter
from segrgbx_ros.tools.extract import main
from segrgbx_ros.tools.labels import main as labels_main

START = 1_700_000_000_000_000_000
STEP = 100_000_000
SIZE = (24, 32)


def config(tmp_path, pair="thermal", **changes):
    path = tmp_path / "config.yaml"
    options = {"pairs": [pair], "model": {"device": "cpu"}, **changes}
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": options}}))
    return path


def scene(index):
    rng = np.random.default_rng(index)
    rgb = cv2.resize(rng.integers(0, 255, (4, 6, 3), dtype=np.uint8), SIZE[::-1])
    return rgb, cv2.resize(rng.integers(28000, 31000, (4, 6), dtype=np.uint16), SIZE[::-1])


def info(bag, stamp):
    return bag.message(
        "sensor_msgs/msg/CameraInfo", stamp, "camera", height=SIZE[0], width=SIZE[1],
        distortion_model="plumb_bob", d=np.zeros(5), k=np.array([30.0, 0, 16, 0, 30, 12, 0, 0, 1]),
        r=np.eye(3).ravel(), p=np.array([30.0, 0, 16, 0, 0, 30, 12, 0, 0, 0, 1, 0]),
        binning_x=0, binning_y=0,
    )  # fmt: skip


def record(path, frames=6, x=None, shown=None, pair="thermal", without=()):
    """Frames with X 5 ms later; `shown` says which scene each frame shows."""
    with BagWriter(path) as bag:
        for index in range(frames):
            stamp = START + index * STEP
            rgb, thermal = scene((shown or range(frames))[index])
            x_array, encoding = (thermal, "mono16") if x is None else x(index)
            if "info" not in without:
                bag.write(f"/{pair}/rgb/camera_info", info(bag, stamp), stamp)
            bag.write(f"/{pair}/rgb/image", bag.image(rgb, "rgb8", stamp, "cam"), stamp)
            if "x" not in without:
                message = bag.image(x_array, encoding, stamp + 5_000_000, "x")
                bag.write(f"/{pair}/x/image", message, stamp + 5_000_000)
    return path


def extracted(tmp_path, bag, *more, **options):
    arguments = [str(bag), "--config", str(config(tmp_path, **options)), "--quiet"]
    return main([*arguments, "--out", str(tmp_path / "out"), *more])


def read_yaml(tmp_path):
    return yaml.safe_load((tmp_path / "out/dataset.yaml").read_text())


def stems(tmp_path):
    return [path.stem for path in sorted((tmp_path / "out/rgb").glob("*.png"))]


def test_pairs_in_raw_units_with_stamps_and_calibration(tmp_path, capsys):
    bag = record(tmp_path / "bag")
    assert extracted(tmp_path, bag, "--every", "200ms") == 0
    assert "3 pairs in" in capsys.readouterr().out
    assert stems(tmp_path) == [str(START + 2 * index * STEP) for index in range(3)]
    for index, stem in enumerate(stems(tmp_path)):
        rgb, thermal = scene(2 * index)
        assert np.array_equal(read_image(tmp_path / f"out/rgb/{stem}.png"), rgb)
        assert np.array_equal(read_image(tmp_path / f"out/x/{stem}.png"), thermal)
        assert read_image(tmp_path / f"out/x_picture/{stem}.png").shape == (*SIZE, 3)
    rows = list(csv.DictReader((tmp_path / "out/stamps.csv").open()))
    assert rows[1] == {
        "stem": str(START + 2 * STEP), "rgb_stamp_ns": str(START + 2 * STEP),
        "x_stamp_ns": str(START + 2 * STEP + 5_000_000), "dt_ms": "5.0",
    }  # fmt: skip
    calibration = yaml.safe_load((tmp_path / "out/calibration.yaml").read_text())
    assert calibration["rgb"]["k"][:3] == [30.0, 0.0, 16.0]
    content = read_yaml(tmp_path)
    assert content["modality"] == "thermal"
    assert (content["x"], content["x_form"]) == ("x/*.png", "raw")
    assert "classes" not in content
    assert (tmp_path / "out/sheet.png").is_file()


def test_near_duplicates_are_left_out(tmp_path, capsys):
    bag = record(tmp_path / "bag", shown=[0, 0, 0, 1, 1, 2])
    assert extracted(tmp_path, bag, "--every", "0") == 0
    assert stems(tmp_path) == [str(START + index * STEP) for index in (0, 3, 5)]
    assert "left out: 3 alike" in capsys.readouterr().out
    (tmp_path / "out/dataset.yaml").unlink()
    assert extracted(tmp_path, bag, "--every", "0", "--similar", "0", "--limit", "4") == 0
    assert len(stems(tmp_path)) == 5  # one of the first round is among them


def ramp(first, dtype, channels=0):
    """Values that rise from left to right."""
    plane = np.broadcast_to(first + np.arange(SIZE[1]), SIZE)
    return (np.stack([plane] * channels, axis=-1) if channels else plane).astype(dtype)


@pytest.mark.parametrize(
    ("pair", "make", "suffix", "options"),
    [
        ("depth", lambda i: (ramp(1000 + i, np.uint16), "16UC1"), ".png", {}),
        ("depth", lambda i: (ramp(1.5 + i, np.float32), "32FC1"), ".tiff", {}),
        (
            "polarization",
            lambda i: (ramp(900 + i, np.uint16, 4), "16UC4"),
            ".npy",
            {"sensor": {"polarization": {"layout": "channels4", "full_scale": 4095}}},
        ),
        ("light_field", lambda i: (ramp(9 + i, np.uint8, 3), "rgb8"), ".png", {}),
    ],
)
def test_every_kind_of_x_keeps_its_values(tmp_path, pair, make, suffix, options):
    bag = record(tmp_path / "bag", x=make, pair=pair)
    assert extracted(tmp_path, bag, "--every", "0", pair=pair, **options) == 0
    content = read_yaml(tmp_path)
    assert content["x"] == f"x/*{suffix}"
    path = tmp_path / f"out/x/{stems(tmp_path)[1]}{suffix}"
    stored = np.load(path) if suffix == ".npy" else read_image(path)
    assert np.array_equal(stored, make(1)[0])
    assert stored.dtype == make(1)[0].dtype
    if options:
        assert content["sensor"]["polarization"] == options["sensor"]["polarization"]


def test_registered_x_is_a_picture(tmp_path):
    bag = record(tmp_path / "bag")
    section = {
        "registration": "homography",
        "homography": [1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    }
    assert extracted(tmp_path, bag, thermal=section) == 0
    assert read_yaml(tmp_path)["x_form"] == "image"


def test_drafts_are_what_the_node_would_publish(tmp_path):
    bag = record(tmp_path / "bag", frames=2)
    checkpoint = tmp_path / "a.safetensors"
    random_checkpoint(checkpoint)
    assert extracted(tmp_path, bag, "--every", "0", "--labels", str(checkpoint)) == 0
    segmenter = Segmenter.from_checkpoint(checkpoint)
    names = segmenter.classes.names
    out = tmp_path / "out"
    assert labels_main(["import", str(out / "drafts"), "--into", str(out)]) == 0
    rows = [row["name"] for row in read_yaml(tmp_path)["classes"]]
    for index, stem in enumerate(stems(tmp_path)):
        rgb, thermal = scene(index)
        [answer] = segmenter.predict([RgbxSample(rgb, thermal, Modality.THERMAL)])
        drafted = np.array(rows)[read_labels(out / f"labels/{stem}.png")]
        assert np.array_equal(drafted, np.array(names)[answer.labels])


@pytest.mark.slow
def test_drafts_by_a_network_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "segformer"
    names = {0: "ground", 1: "crate", 2: "sky"}
    config_of = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=16, id2label=names, label2id={v: k for k, v in names.items()},
    )  # fmt: skip
    transformers.SegformerForSemanticSegmentation(config_of).save_pretrained(folder)
    transformers.SegformerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    bag = record(tmp_path / "bag", frames=2)
    assert extracted(tmp_path, bag, "--every", "0", "--labels", str(folder)) == 0
    out = tmp_path / "out"
    assert labels_main(["import", str(out / "drafts"), "--into", str(out)]) == 0
    assert {row["name"] for row in read_yaml(tmp_path)["classes"]} <= set(names.values())
    assert read_labels(out / f"labels/{stems(tmp_path)[0]}.png").shape == SIZE


def broken_folder(tmp_path):
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return "--labels", str(folder)


@pytest.mark.parametrize(
    ("without", "more", "message"),
    [
        (("x",), (), "topic '/thermal/x/image'"),
        (
            (),
            ("--pair", "thermos"),
            "--pair: 'thermos' is not configured (did you mean 'thermal'?)",
        ),
        ((), ("--set", "sync.max_dt_ms=1"), "no pair of 'thermal' in the recording"),
        ((), ("--labels", "none.safetensors"), "none.safetensors: does not exist"),
        ((), broken_folder, "is no network for semantic segmentation that transformers can load"),
    ],
)
def test_what_is_missing_is_named_in_one_line(tmp_path, capsys, without, more, message):
    bag = record(tmp_path / "bag", without=without)
    more = more(tmp_path) if callable(more) else more
    assert extracted(tmp_path, bag, *more) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_older_data_set_is_never_overwritten(tmp_path, capsys):
    bag = record(tmp_path / "bag")
    assert extracted(tmp_path, bag) == 0
    assert extracted(tmp_path, bag) == 2
    assert "holds a dataset.yaml already; choose another --out" in capsys.readouterr().err


def test_several_pairs_need_a_name(tmp_path, capsys):
    bag = record(tmp_path / "bag")
    assert extracted(tmp_path, bag, pairs=["thermal", "depth"]) == 2
    assert "--pair: name one of thermal, depth" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["soon", "2h", "1e9"])
def test_a_wrong_time_is_refused(tmp_path, capsys, text):
    with pytest.raises(SystemExit):
        extracted(tmp_path, tmp_path / "bag", "--every", text)
    assert "is no time; write such as 0.5s or 200ms" in capsys.readouterr().err
