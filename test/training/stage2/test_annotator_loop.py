"""The annotator's loop on rendered frames: extract, draft, correct, import, fine-tune, score."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from segrgbx_core.base.images import write_image
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_ros.config.node import Stream, read_node_yaml
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.ground_truth import recorded_ground_truth
from segrgbx_ros.replay.topic_routes import find_routes
from segrgbx_ros.tools.extract import main as extract
from segrgbx_ros.tools.labels import main as labels
from training.evaluate import main as evaluate
from training.train_segmentation import main as train

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "resource/demo"
CONFIG = ROOT / "config/thermal.yaml"
OWN = {"way": ("road", "road line", "sidewalk"), "person": ("person",), "car": ("car",)}
COLOURS = {"way": (128, 64, 128), "person": (220, 20, 60), "car": (0, 0, 142)}


def annotate(folder):
    """Plays the annotator: three classes of the recorded truth in CVAT's layout."""
    names = synthetic_label_space().names
    table = np.zeros((256, 3), np.uint8)
    for own, unified in OWN.items():
        for name in unified:
            table[names.index(name)] = COLOURS[own]
    drafts = sorted((folder / "drafts/SegmentationClass").glob("*.png"))
    with Bag(DEMO / "thermal") as bag:
        config = read_node_yaml(CONFIG)
        routes = find_routes(bag, config, ["thermal"])
        truth = recorded_ground_truth(bag, routes, "thermal", "unified")
        topic = routes.topic("thermal", Stream.RGB)
        stamps = {stamp_ns(message.raw) for message in bag.messages({topic})}
        assert {int(path.stem) for path in drafts} <= stamps
        for path in drafts:
            write_image(path, table[truth.labels(int(path.stem))])
    lines = ["background:0,0,0::", *(f"{n}:{','.join(map(str, c))}::" for n, c in COLOURS.items())]
    (folder / "drafts/labelmap.txt").write_text("\n".join(lines) + "\n")


@pytest.mark.slow
def test_from_a_recording_to_own_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    folder, checkpoint = tmp_path / "mine", str(DEMO / "segrgbx_tiny.safetensors")
    arguments = [str(DEMO / "thermal"), "--config", str(CONFIG), "--every", "0", "--quiet"]
    arguments += ["--limit", "12", "--labels", checkpoint, "--out", str(folder)]
    assert extract(arguments) == 0
    annotate(folder)
    assert labels(["import", str(folder / "drafts"), "--into", str(folder)]) == 0
    rows = yaml.safe_load((folder / "dataset.yaml").read_text())["classes"]
    assert [row["name"] for row in rows] == list(OWN)
    assert [row.get("unified") for row in rows] == [None, "person", "car"]
    run = tmp_path / "run"
    changes = [f"data.0.root={folder}", f"run.out={run}", "run.steps=12", "run.batch_size=4",
               "run.score_every=12", "run.pictures=0", "augment.crop_height=96",
               "augment.crop_width=128", "run.threads=1", "run.device=cpu"]  # fmt: skip
    assert train(["config/train/your_data.yaml", "--set", *changes]) == 0
    out = str(tmp_path / "report")
    best = [str(run / "best.safetensors"), "--reader", "folder", "--root", str(folder)]
    assert evaluate([*best, "--split", "val", "--out", out]) == 0
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert list(report["iou"]) == list(OWN)
    assert report["iou"]["way"] > 0.5
    capsys.readouterr()
