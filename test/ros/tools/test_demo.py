"""The demo: a recording through the live node, scored."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed")

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import encode_image, read_image, read_labels
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import VOID
from segrgbx_ros.config.node import read_node_yaml
from segrgbx_ros.tools import demo
from segrgbx_ros.tools.demo import PROFILE, complaint, demo_recording, main, summary

pytestmark = pytest.mark.ros

START = 1_700_000_000_000_000_000
STEP = 200_000_000
FRAMES = 8
SIZE = 48, 64
CONFIG = """
/**:
  ros__parameters:
    pairs: [thermal]
    model: {device: cpu, input_height: 64, input_width: 64}
    sync: {wait_ms: 200.0}
"""


@pytest.fixture
def files(tmp_path):
    (tmp_path / "thermal.yaml").write_text(CONFIG)
    rng = np.random.default_rng(4)
    with BagWriter(tmp_path / "street") as bag:
        for index in range(FRAMES):
            stamp = START + index * STEP
            rgb = cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), SIZE[::-1])
            thermal = cv2.resize(rng.integers(28000, 31000, (6, 8), dtype=np.uint16), SIZE[::-1])
            truth = np.full(SIZE, 3, np.uint8)
            truth[:, :10] = VOID
            for topic, array, form, delay in (
                ("x/image", thermal, "16UC1; png compressed ", 2_000_000),
                ("rgb/image", rgb, "rgb8; png compressed bgr8", 0),
                ("label", truth, "mono8; png compressed ", 0),
            ):
                message = bag.compressed(encode_image(array), form, stamp + delay, "cam")
                bag.write(f"/thermal/{topic}/compressed", message, stamp + 3_000_000)
    return tmp_path


def arguments(folder, checkpoint):
    names = {"--recording": "street", "--checkpoint": checkpoint, "--config": "thermal.yaml"}
    paths = [text for name, value in names.items() for text in (name, str(folder / value))]
    return [*paths, "--out", str(folder / "out"), "--modality", "thermal"]


@pytest.fixture
def no_profile(monkeypatch):
    """Keeps the demo from setting the variable for all tests of this process."""
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "")


def test_demo_scores_what_the_live_node_answers(files, capsys, no_profile):
    from segrgbx_core.runtime.checkpoint import default_contract, random_weights, save_checkpoint

    contract = default_contract("tiny")
    weights = random_weights(contract)
    save_checkpoint(files / "tiny.safetensors", weights.model, weights.ma_clip, contract)
    beside = ["--rgb-only", str(files / "tiny.safetensors")]
    assert main([*arguments(files, "tiny.safetensors"), *beside]) == 0, capsys.readouterr().err
    out = files / "out" / "thermal"
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["frames_sent"] == metrics["masks_received"] == FRAMES
    assert metrics["frames_scored"] == FRAMES
    assert 0 <= metrics["miou"] <= 1
    assert "person" in metrics["per_class_iou"]
    assert 0 < metrics["latency_ms_p50"] <= metrics["latency_ms_p95"]
    assert 0 < metrics["pair_latency_ms_p50"] <= metrics["latency_ms_p50"]
    assert metrics["checkpoint"] == "tiny.safetensors"
    assert metrics["label_space"] == "unified"
    assert metrics["synthetic"] is False  # not the shipped recording
    assert metrics["rate"] == 1.0
    assert metrics["sensor_classes"] == ["person"]  # glass is not in the truth
    assert metrics["sensor_classes_miou"] == pytest.approx(metrics["per_class_iou"]["person"])
    # The same weights without X answer otherwise, on the same frames.
    assert set(metrics["rgb_only"]) < set(metrics)
    assert metrics["rgb_only"]["per_class_iou"] != metrics["per_class_iou"]
    masks = sorted(out.glob("mask_*.png"))
    assert [int(path.stem[5:]) for path in masks] == [START + i * STEP for i in range(FRAMES)]
    assert read_labels(masks[0]).shape == SIZE
    assert read_image(masks[0]).shape == (*SIZE, 3)  # an indexed file with the classes' colours
    assert 3 <= len(list(out.glob("overlay_*.png"))) <= FRAMES
    assert read_image(out / "contact_sheet.png").shape[1] > 4 * SIZE[1]
    assert "ready after" in (out / "node.log").read_text()


def test_node_that_does_not_start_is_quoted(files, capsys, no_profile):
    (files / "foreign.safetensors").write_bytes(b"no checkpoint")
    assert main(arguments(files, "foreign.safetensors")) == 2
    error = capsys.readouterr().err
    assert "the node ended with status 1" in error
    assert "cannot be configured" in error


def test_missing_file_is_named(files, capsys, no_profile):
    assert main(arguments(files, "nowhere.safetensors")) == 2
    assert "nowhere.safetensors: is missing" in capsys.readouterr().err


def test_complaints(tmp_path):
    good = {"frames_sent": 80, "masks_received": 76, "lost": {"replaced_by_newer": 4}}
    assert complaint(good, tmp_path) == ""
    text = complaint({**good, "masks_received": 75}, tmp_path)
    assert "only 75 of 80 frames came back" in text
    assert "replaced_by_newer 4" in text
    assert "none of 80 frames" in complaint({**good, "masks_received": 0}, tmp_path)
    assert "no RGB image" in complaint({**good, "frames_sent": 0}, tmp_path)


def test_shipped_files_fit_the_demo():
    assert PROFILE.exists()
    config = read_node_yaml(PROFILE.parent / "thermal.yaml")
    assert "thermal" in config.pairs


def test_recordings_are_shipped_or_rendered_once(tmp_path, monkeypatch):
    assert demo_recording(Modality.THERMAL, tmp_path) == demo.SHIPPED / "thermal"
    calls = []

    def run(command, **_):
        calls.append(command)
        Path(command[-1]).mkdir(parents=True)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(demo.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        demo_recording(Modality.EVENT, tmp_path)
    first, second = (demo_recording(Modality.EVENT, tmp_path) for _ in range(2))
    assert first == second
    assert len(calls) == 2, "half a recording is not taken for one"
    assert calls[0][-4:-1] == ["--demo", "event", "--out"]
    monkeypatch.setattr(demo, "_renderer", lambda: "another")
    newer = demo_recording(Modality.EVENT, tmp_path)
    assert len(calls) == 3
    assert list((tmp_path / "recordings").iterdir()) == [newer]


def test_machine_that_cannot_render_is_told_why(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 2, stderr="a\nembreex has no wheel here\n")
    monkeypatch.setattr(demo.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DataError, match=r"embreex has no wheel here; MODALITY=thermal plays"):
        demo_recording(Modality.DEPTH, tmp_path)


def test_summary_lays_five_beside_rgb_only():
    one = {"masks_received": 49, "frames_sent": 50, "miou_true_classes": 0.512,
           "sensor_classes": ["water"], "sensor_classes_miou": 0.4, "note": "Synthetic.",
           "rgb_only": {"miou_true_classes": 0.4, "sensor_classes_miou": 0.123}}  # fmt: skip
    text = summary({str(modality): one for modality in MODALITIES})
    assert text.count("49 of 50 | 51.2 | 40.0 | water | 40.0 | 12.3 |") == 5
    assert text.count("Synthetic.") == 1
