"""Readings of mIoU against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from segrgbx_core.labels.label_space import UNIFIED, synthetic_label_space
from segrgbx_core.labels.metrics import AbsentClass, ConfusionMatrix
from segrgbx_core.labels.tables import DELIVER, MFNET, PUBLIC_SPACES, ZJU
from training.data.datasets.deliver import Case, Weather
from training.eval.protocols import PROTOCOLS, protocol_of
from training.eval.report import Conditions, JointReport, Report, confusion_shares, draw_confusion

SPACE = synthetic_label_space()


def counts(num_classes, *cells):
    """A matrix of (truth, answer, pixels) cells."""
    matrix = ConfusionMatrix(num_classes)
    for truth, answer, pixels in cells:
        matrix.matrix[truth, answer] += pixels
    return matrix


def reading(native, key):
    return next(f for f in PROTOCOLS[native].readings if f.key == key)


# 80 of 90 unlabeled pixels are right, 10 are taken for car; 30 of 40 car pixels are right, 10 are
# taken for unlabeled; 5 of 10 person pixels are right, 5 are taken for car. The other six classes
# are in neither. IoU: unlabeled 80 / 100, car 30 / 55, person 5 / 10.
STREET = [(0, 0, 80), (0, 1, 10), (1, 1, 30), (1, 0, 10), (2, 2, 5), (2, 1, 5)]


@pytest.mark.parametrize(
    ("key", "skip", "zero"),
    [
        ("miou_9", (0.8 + 30 / 55 + 0.5) / 3, (0.8 + 30 / 55 + 0.5) / 9),
        ("miou_8", (30 / 55 + 0.5) / 2, (30 / 55 + 0.5) / 8),
        # Without unlabeled in truth or answer: car 30 / 35, person 5 / 10, and one class at zero.
        ("miou_mfnet_script", (30 / 35 + 0.5) / 3, (30 / 35 + 0.5) / 9),
    ],
)
def test_mfnet_has_nine_classes_or_eight(key, skip, zero):
    figure, matrix = reading("mfnet", key), counts(9, *STREET)
    assert figure.value(matrix) == pytest.approx(skip)
    assert figure.value(matrix, AbsentClass.ZERO) == pytest.approx(zero)
    assert matrix.matrix.sum() == 140  # reading takes nothing away


def test_published_iou_of_cmx_gives_both_published_means():
    published = [98.3, 90.1, 75.2, 64.5, 50.2, 35.3, 8.5, 54.2, 60.6]  # CMX-B4 on MFNet's test
    matrix = ConfusionMatrix(9)
    for index, iou in enumerate(published):
        # Misses go unanswered, so that they lower no other class.
        matrix.matrix[index, index], matrix.matrix[index, 9] = 10 * iou, 1000 - 10 * iou
    assert 100 * reading("mfnet", "miou_9").value(matrix) == pytest.approx(59.7, abs=0.05)
    assert 100 * reading("mfnet", "miou_8").value(matrix) == pytest.approx(54.8, abs=0.05)


def test_zju_background_counts_as_a_ninth_class_at_zero():
    matrix = counts(8, *((index, index, 10) for index in range(8)))
    eight, nine = reading("zju_rgbp", "miou_8"), reading("zju_rgbp", "miou_9")
    assert eight.value(matrix) == 1
    assert nine.value(matrix) == nine.value(matrix, AbsentClass.ZERO) == pytest.approx(8 / 9)
    assert 100 * nine.value(matrix) * 0.924 == pytest.approx(82.1, abs=0.1)  # the paper's CMX
    half = counts(8, (0, 0, 10), (1, 1, 5), (1, 0, 5))  # building 10 / 15, glass 5 / 10
    assert nine.value(half) == pytest.approx((10 / 15 + 0.5) / 3)
    assert nine.value(half, AbsentClass.ZERO) == pytest.approx((10 / 15 + 0.5) / 9)


def test_nothing_counted_is_undefined_not_zero():
    for native, protocol in PROTOCOLS.items():
        empty = ConfusionMatrix(SPACE.native(native).num_classes)
        for figure in protocol.readings:
            assert math.isnan(figure.value(empty)), (native, figure.key)
        assert protocol.values(empty)[protocol.primary.key]["skip"] is None


def test_every_public_data_set_has_a_protocol_over_its_classes():
    assert set(PROTOCOLS) == {space.name for space in PUBLIC_SPACES}
    for space in PUBLIC_SPACES:
        protocol = PROTOCOLS[space.name]
        assert protocol.primary.classes == tuple(range(space.num_classes))
        assert protocol.counts[protocol.split] > 0
    assert PROTOCOLS["deliver"].counts == {"train": 3983, "val": 2005, "test": 1897}
    assert PROTOCOLS["urbanlf"].counts["val"] == 108


def test_unified_answers_are_read_over_all_and_over_own_classes():
    protocol = protocol_of(SPACE, UNIFIED, "zju_rgbp")
    to_unified = ZJU.to_unified
    foreign = next(i for i in range(SPACE.num_classes) if i not in to_unified)
    own = to_unified[0]
    matrix = counts(SPACE.num_classes, (own, own, 30), (own, foreign, 10))
    values = protocol.values(matrix)
    assert values["miou_own"]["skip"] == 0.75
    assert values["miou"]["skip"] == 0.375  # the foreign class is answered, never true: IoU 0
    assert protocol_of(SPACE, "synthetic_street", "synthetic_street").primary.key == "miou"


def report(native="urbanlf", synthetic=False, groups=None, matrix=None, **conditions):
    space = SPACE.native(native)
    groups = groups or {}
    total = matrix or ConfusionMatrix(space.num_classes)
    for part in groups.values():
        total.merge(part)
    conditions = Conditions(
        **{"native": native, "modality": "x", "split": "val", "whole": 2, **conditions},
        is_synthetic=synthetic,
    )
    return Report(
        "c.safetensors", "ab" * 32, native, native, space.names, total,
        protocol_of(SPACE, native, native), conditions, groups, dict.fromkeys(groups, 1), 2,
    )  # fmt: skip


def test_urbanlf_pools_pixels_and_also_averages_its_parts():
    # Bike and building. Real: 6 of 10 bike right, the rest building; 10 of 10 building.
    real = counts(14, (0, 0, 6), (0, 1, 4), (1, 1, 10))
    # Synthetic: 10 of 10 bike, 20 of 30 building right, the rest bike.
    synthetic = counts(14, (0, 0, 10), (1, 1, 20), (1, 0, 10))
    found = report(groups={"real": real, "synthetic": synthetic})
    by_part = [(6 / 10 + 10 / 14) / 2, (10 / 20 + 20 / 30) / 2]
    pooled = (16 / (10 + 10 + 10) + 30 / (14 + 30)) / 2
    assert found.miou == pytest.approx(pooled)
    assert found.part_mean() == pytest.approx(sum(by_part) / 2)
    assert found.part_mean(AbsentClass.ZERO) == pytest.approx(sum(by_part) / 2 * 2 / 14)
    plain = found.to_dict()
    assert plain["figures"]["miou"]["skip"] == pytest.approx(pooled, abs=1e-6)
    part = plain["groups"]["real"]["figures"]["miou"]["skip"]
    assert part == pytest.approx(by_part[0], abs=1e-6)
    page = found.to_markdown()
    assert f"| real | 1 | {100 * by_part[0]:.2f} | {100 * by_part[0] / 7:.2f} |" in page
    assert "plain mean of real and synthetic" in page
    alone = report(groups={"real": real})
    assert math.isnan(alone.part_mean())
    assert "plain mean" not in alone.to_markdown()


def test_deliver_tells_weathers_from_failures():
    one = counts(25, (6, 6, 3), (6, 7, 1))
    groups = dict.fromkeys(("rain", "cloud", "motionblur", "normal", "odd"), one)
    sections = PROTOCOLS["deliver"].ordered(groups)
    assert sections == {
        "weather": ["cloud", "rain"],
        "sensor failure": ["normal", "motionblur"],
        "group": ["odd"],
    }
    assert {*Weather, *Case} >= {*sections["weather"], *sections["sensor failure"]}
    page = report("deliver", groups={"rain": one, "normal": one}).to_markdown()
    assert "| weather | samples | miou | absent 0 | pixel accuracy |" in page
    assert "| rain | 1 | 37.50 | 3.00 | 75.00 |" in page
    assert "| Road | 75.00 | 75.00 | 100.00 % |" in page
    assert "In neither truth nor answers: Building" in page


def test_joint_table_has_plain_means_and_keeps_synthetic_apart():
    all_right = [counts(14, *((i, i, 5) for i in range(14))), counts(9, (0, 0, 4), (0, 1, 4))]
    joint = JointReport((report(matrix=all_right[0]), report("mfnet", matrix=all_right[1])))
    # MFNet: unlabeled 4 / 8 and car 0 over 9; car alone, 0, over 8.
    means = joint.means()["real"]
    assert means["first reading"] == pytest.approx((1 + 0.25) / 2)
    zero = means["first reading, absent classes count 0"]
    assert zero == pytest.approx((1 + 0.5 / 9) / 2, abs=1e-6)
    assert means["second reading"] == pytest.approx(0.5)
    mixed = JointReport((*joint.reports, report("synthetic_street", synthetic=True)))
    assert mixed.means()["real"] == means
    page = mixed.to_markdown()
    tables = [line for line in page.splitlines() if line.startswith("| mIoU |")]
    assert tables == [
        "| mIoU | mean | urbanlf x | mfnet x |",
        "| mIoU | mean | synthetic_street x |",
    ]
    assert page.index("**Synthetic**") < page.index(tables[1])
    json.dumps(mixed.to_dict(), allow_nan=False)


def test_reports_say_what_they_are_not():
    facts = {"is_random": True, "whole": 393, "options": "time=day"}
    page = report("mfnet", synthetic=True, **facts).to_markdown()
    assert "**Synthetic**" in page
    assert "**Untrained**" in page
    assert "**2 of 393 samples**" in page
    assert "time=day" in page


def test_confusion_picture_shows_shares_of_each_row(tmp_path):
    matrix = counts(9, *STREET, (2, 9, 10))
    shares, rows, columns = confusion_shares(matrix, MFNET.names)
    assert rows == ["unlabeled", "car", "person"]
    assert columns == ["unlabeled", "car", "person", "no answer"]
    np.testing.assert_allclose(shares[2], [0, 0.25, 0.25, 0.5])
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    for name, drawn in (("few", matrix), ("none", ConfusionMatrix(9))):
        draw_confusion(drawn, MFNET.names, tmp_path / f"{name}.png", "title")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    full = counts(25, *((i, j, 1 + 20 * (i == j)) for i in range(25) for j in range(25)))
    draw_confusion(full, DELIVER.names, tmp_path / "full.png")
