"""Real frames as short recordings, through replay and through the live node.

The weights are random: what counts here is that sensors are decoded, paired and encoded sensibly.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.images import read_image
from segrgbx_ros.replay.replay import main

ROOT = Path(__file__).resolve().parents[3]
START = 1_700_000_000_000_000_000
STEP = 200_000_000
FRAMES = 5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from segrgbx_core.runtime.checkpoint import random_checkpoint

    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    random_checkpoint(path)
    return str(path)


def write_bag(path, pair, frames, rgb_encoding, x_encoding):
    """Repeats (RGB, X) frames to a recording of 5 Hz, raw transport, X 4 ms after RGB."""
    with BagWriter(path) as bag:
        for index in range(FRAMES):
            rgb, x = frames[index % len(frames)]
            stamp = START + index * STEP
            message = bag.image(rgb, rgb_encoding, stamp, "camera_optical")
            bag.write(f"/{pair}/rgb/image", message, stamp + 5_000_000)
            message = bag.image(x, x_encoding, stamp + 4_000_000, "x_optical")
            bag.write(f"/{pair}/x/image", message, stamp + 9_000_000)
    return path


def kinect(samples):
    folder = samples / "kinect2_sample"
    return [(read_image(folder / "rgb.png"), read_image(folder / "depth.png"))]


def deliver(samples):
    folder = samples / "deliver_small"
    return [
        tuple(read_image(folder / f"{index:02}_{name}.png") for name in ("rgb", "event"))
        for index in range(FRAMES)
    ]


def mosaic(samples):
    """Polarization mosaics; the mean of each 2x2 cell stands in for the RGB camera."""
    frames = []
    for name in ("fruits", "polarizer"):
        pixels = read_image(samples / "polarization_raw" / f"{name}_IMX250MZR.png")
        pixels = np.ascontiguousarray(pixels[512:1536, 512:1792])
        frames.append((cv2.resize(pixels, (640, 512), interpolation=cv2.INTER_AREA), pixels))
    return frames


# The Kinect picture's counts are tenths of a millimetre: a room of 2.5 m has a median of 24525.
# DeLiVER's events are drawn pictures.
OPTIONS = {
    "depth": ["--set", "sensor.depth.unit_16u=0.0001"],
    "event": ["--set", "event.x_form=image"],
}
CASES = {
    "depth": (kinect, "rgb8", "16UC1"),
    "event": (deliver, "rgb8", "rgb8"),
    "polarization": (mosaic, "mono8", "mono8"),
}


def replayed(pair, samples, checkpoint, folder):
    frames, rgb_encoding, x_encoding = CASES[pair]
    bag = write_bag(folder / f"real_{pair}", pair, frames(samples), rgb_encoding, x_encoding)
    out = folder / "out"
    config = ROOT / "config" / f"{pair}.yaml"
    options = ["--config", str(config), "--checkpoint", checkpoint, "--out", str(out)]
    options += ["--set", "model.device=cpu", *OPTIONS.get(pair, [])]
    assert main([str(bag), *options, "--quiet"]) == 0
    return bag, out


@pytest.mark.parametrize("pair", list(CASES))
def test_real_frames_replay(pair, samples_dir, checkpoint, tmp_path):
    _, out = replayed(pair, samples_dir, checkpoint, tmp_path)
    report = json.loads((out / "report.json").read_text())["pairs"][pair]
    assert (report["rgb_messages"], report["paired"], report["dropped"]) == (FRAMES, FRAMES, {})
    assert report["skew_ms"]["max"] == pytest.approx(4.0)
    assert report["modality"] == pair
    assert read_image(out / "contact_sheet.png").std() > 20


@pytest.mark.ros
@pytest.mark.parametrize("pair", list(CASES))
def test_real_frames_through_the_live_node(pair, samples_dir, checkpoint, tmp_path):
    """Depth's RGB frames of 651 kB vanish under best effort without the shipped profile."""
    pytest.importorskip("rclpy", reason="rclpy is not installed")
    frames, rgb_encoding, x_encoding = CASES[pair]
    bag = write_bag(tmp_path / f"real_{pair}", pair, frames(samples_dir), rgb_encoding, x_encoding)
    config = tmp_path / f"{pair}.yaml"
    shipped = yaml.safe_load((ROOT / "config" / f"{pair}.yaml").read_text())
    for option in OPTIONS.get(pair, [])[1::2]:
        name, value = option.split("=")
        shipped["/**"]["ros__parameters"][name] = yaml.safe_load(value)
    config.write_text(yaml.safe_dump(shipped))
    command = [sys.executable, "-m", "segrgbx_ros.tools.demo", "--modality", pair]
    command += ["--recording", str(bag), "--checkpoint", checkpoint]
    command += ["--config", str(config), "--out", str(tmp_path / "demo"), "--rate", "0.5"]
    environment = {
        name: value for name, value in os.environ.items() if "PROFILES_FILE" not in name
    }
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "demo" / pair / "metrics.json").read_text())
    assert metrics["frames_sent"] == metrics["masks_received"] == FRAMES
    assert metrics["miou"] is None  # no truth was recorded
