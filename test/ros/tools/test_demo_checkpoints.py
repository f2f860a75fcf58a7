"""What the front page says about the shipped checkpoints, on the shipped recording; no rclpy."""

import pytest

from segrgbx_core.base.modality import Modality
from segrgbx_ros.config.node import read_node_yaml
from segrgbx_ros.load_model import load_segmenter
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.evaluation import evaluate
from segrgbx_ros.replay.ground_truth import recorded_ground_truth
from segrgbx_ros.replay.topic_routes import find_routes
from segrgbx_ros.tools.demo import CHECKPOINT, RGB_ONLY, SHIPPED, DemoFiles, score_rgb_only

pytestmark = pytest.mark.slow

PAIR = Modality.THERMAL
CONFIG = SHIPPED.parents[1] / "config" / "thermal.yaml"


def test_thermal_pays_by_ten_points_on_its_classes(tmp_path):
    files = DemoFiles(SHIPPED / PAIR.value, CHECKPOINT, CONFIG, tmp_path, RGB_ONLY)
    with Bag(files.recording) as bag:
        changes = {
            "model.checkpoint": str(CHECKPOINT),
            "model.device": "cpu",
        }
        config = read_node_yaml(CONFIG, changes)
        routes = find_routes(bag, config, [PAIR])
        truth = recorded_ground_truth(bag, routes, PAIR)
        report = evaluate(bag, config, load_segmenter(config), routes, {PAIR: truth})
        alone = score_rgb_only(bag, files, changes, routes, truth, truth.stamps)
    both = report.pairs[PAIR].scores
    assert both.frames == alone.frames == len(truth.stamps)
    classes = [both.names.index(name) for name in PAIR.facts.reveals]
    for shown in (both.true_classes, classes):
        with_x, without = (scores.confusion.miou(classes=shown) for scores in (both, alone))
        assert with_x - without > 0.1
