"""The tables of a replay."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from segrgbx_core.base.tables import Summary
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_ros.replay.report import PairReport, Report, Scores

NAMES = ("road", "person", "car", "sky")


def scores(truth, labels):
    confusion = ConfusionMatrix(len(NAMES))
    confusion.update(np.array(truth, np.uint8), np.array(labels, np.uint8))
    return Scores(NAMES, confusion, 1)


def report(pair_scores=None, **more):
    pair = PairReport(
        modality="thermal",
        topics={"rgb": "/thermal/rgb/image", "x": "/thermal/x/image"},
        rgb=12,
        x=11,
        paired=9,
        held=0,
        rgb_only=0,
        dropped={"too_far": 2, "no_x": 1},
        dropped_x={"unused": 2},
        skew_ms=Summary.of([1.0, 3.0]),
        mean_offset_ms=-1.0,
        scores=pair_scores,
        **more,
    )
    return Report(
        recording="/data/street",
        recording_s=1.25,
        checkpoint={"path": "a.safetensors", "hash": "0123456789abcdef"},
        label_space={"name": "unified", "hash": "fedc", "classes": 4},
        device="cpu, fp32",
        config={"pairs": ["thermal"]},
        pairs={"thermal": pair},
        stages_ms={"total": Summary.of([10.0, 20.0])},
        wall_s=0.5,
    )


def test_both_conventions_are_given_when_a_class_is_absent():
    # road 2/3, person 1/2; car and sky appear nowhere
    found = scores([0, 0, 1, 1, 0], [0, 0, 1, 0, 255])
    data = found.to_dict()
    assert data["per_class_iou"] == {"road": 0.5, "person": 0.5}
    assert data["miou"] == 0.5
    assert data["miou_absent_as_zero"] == 0.25
    assert data["pixel_accuracy"] == 0.6
    assert data["confusion"]["columns"] == ["road", "person", "void"]
    assert data["confusion"]["matrix"] == [[2, 0, 1], [1, 1, 0]]
    text = report(found).to_markdown()
    assert "mIoU 50.0 % over the 2 classes" in text
    assert "25.0 % with the 2 absent classes counted as 0" in text
    assert "| 0 | road | 50.0 % | 3 | void (33.3 %) |" in text
    assert "| road | 67 |  |  | 33 |" in text


def test_one_number_is_enough_when_all_classes_occur():
    text = report(scores([0, 1, 2, 3], [0, 1, 2, 3])).to_markdown()
    assert "mIoU 100.0 % over the 4 classes" in text
    assert "counted as 0" not in text


def test_classes_that_are_only_predicted_count_in_the_mean_but_not_among_true_classes():
    data = scores([0, 0, 0, 0], [0, 0, 0, 3]).to_dict()
    assert data["miou"] == pytest.approx(0.375)
    assert data["miou_true_classes"] == pytest.approx(0.75)
    text = report(scores([0, 0, 0, 0], [0, 0, 0, 3])).summary()
    assert "mIoU 75.0 % over the 1 classes of the truth" in text
    assert "(37.5 % with 1 more that only the prediction has; 18.8 % with the 2 absent" in text


def test_the_page_shows_pictures_and_links_the_options(tmp_path):
    one = replace(report(), pictures=("contact_sheet.png", "overlay_thermal_5.png"))
    one.save(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "![contact sheet](contact_sheet.png)" in text
    assert "![overlay thermal 5](overlay_thermal_5.png)" in text
    assert "[options.yaml](options.yaml)" in text
    assert "```" not in text
    assert yaml.safe_load((tmp_path / "options.yaml").read_text()) == {"pairs": ["thermal"]}


def test_no_truth_no_scores(tmp_path):
    empty = report()
    assert "No truth was given." in empty.to_markdown()
    empty.save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["pairs"]["thermal"]["scores"] is None
    assert data["pairs"]["thermal"]["dropped"] == {"no_x": 1, "too_far": 2}


def test_void_truth_alone_gives_no_number():
    data = scores([255, 255], [0, 1]).to_dict()
    assert data["miou"] is None
    assert data["pixel_accuracy"] is None
    assert "mIoU - %" in report(scores([255], [0])).summary()


def test_pairing_is_told(tmp_path):
    text = report(first_fault="topic '/thermal/rgb/image': no data", jumps=1).to_markdown()
    for part in (
        "| RGB dropped: no_x | 1 |",
        "| X dropped: unused | 2 |",
        "| stamp difference, mean with sign | -1.00 ms |",
        "| stamps jumped back | 1 times |",
        "topic '/thermal/rgb/image': no data",
    ):
        assert part in text
    assert "9 of 12 RGB images segmented (dropped: no_x 1, too_far 2)" in report().summary()
