"""The joint stream: shares, fairness, epochs, resuming, ranks; and what an item holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample, XForm
from segrgbx_core.labels.label_space import VOID, synthetic_label_space
from segrgbx_core.runtime.batch import InputConfig, Window
from segrgbx_core.sensors import EncodingConfig, PolarizationEncoding, SensorConfig
from training.data.augment import AugmentConfig, Variant, crop_resized
from training.data.datasets.labelled_sample import Labelled
from training.data.embeddings import WholeFrames
from training.data.mixing import (
    JointDataset,
    Sampling,
    StepSampler,
    TrainingSplit,
    count_classes,
    plan_draws,
    shares,
)
from training.data.preparation import Preparation, prepare

SIZES = {"deliver": 3983, "mfnet": 784, "zju": 344}


def test_shares_by_size_equal_or_as_stated():
    by_size = shares(SIZES, {}, Sampling.PROPORTIONAL)
    assert by_size["deliver"] == pytest.approx(3983 / 5111)
    assert shares(SIZES, {}, Sampling.EQUAL) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    mixed = shares(SIZES, {"zju": 0.4}, Sampling.EQUAL)
    assert mixed == pytest.approx({"deliver": 0.3, "mfnet": 0.3, "zju": 0.4})
    stated = shares(SIZES, {"deliver": 0.2, "mfnet": 0.1, "zju": 0.1}, Sampling.EQUAL)
    assert stated == pytest.approx({"deliver": 0.5, "mfnet": 0.25, "zju": 0.25})


def test_shares_that_cannot_be():
    with pytest.raises(ConfigError, match="no training samples"):
        shares({"mfnet": 0}, {}, Sampling.EQUAL)
    with pytest.raises(ConfigError, match="nothing is left for 'zju'"):
        shares(SIZES, {"deliver": 0.7, "mfnet": 0.5}, Sampling.EQUAL)


def test_every_stretch_keeps_the_shares_and_every_epoch_is_complete():
    plan = plan_draws([40, 10, 5], [0.5, 0.3, 0.2], 1000, seed=3)
    assert len(plan) == 1000
    for start in range(0, 1000, 50):
        counts = np.bincount(plan.source[start : start + 50], minlength=3)
        assert np.abs(counts - [25, 15, 10]).max() <= 2
    for source, size in enumerate((40, 10, 5)):
        drawn = plan.index[plan.source == source]
        first, second = drawn[:size], drawn[size : 2 * size]
        assert sorted(first) == sorted(second) == list(range(size))
        assert first.tolist() != second.tolist()


def test_plans_follow_the_seed_alone():
    first, again = (plan_draws([40, 10], [0.5, 0.5], 100, seed=3) for _ in range(2))
    other = plan_draws([40, 10], [0.5, 0.5], 100, seed=4)
    assert np.array_equal(first.index, again.index)
    assert not np.array_equal(first.index, other.index)
    assert first.rng(7).random() == again.rng(7).random() != first.rng(8).random()


def test_steps_resume_and_split_over_ranks():
    plan = plan_draws([40], [1.0], 80, seed=0)
    whole = list(StepSampler(plan, 0, 8, 0, 1))
    assert [draw for step in whole for draw in step] == list(range(80))
    assert list(StepSampler(plan, 4, 8, 0, 1)) == whole[4:]
    ranks = [list(StepSampler(plan, 0, 8, rank, 2)) for rank in range(2)]
    for step, both in zip(whole, zip(*ranks, strict=True), strict=True):
        assert sorted(both[0] + both[1]) == step
    assert len(StepSampler(plan, 4, 8, 0, 1)) == 6


class Frames:
    native = "synthetic_street"

    def __init__(self, modality, x, x_form=XForm.RAW, size=4):
        self.modality, self.x, self.x_form, self.size = modality, x, x_form, size
        self.reads = 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads += 1
        rgb = np.full((48, 64, 3), 10 * index, np.uint8)
        labels = np.full((48, 64), index, np.uint8)
        labels[:, :8] = VOID
        return Labelled(
            RgbxSample(rgb, self.x, self.modality, x_form=self.x_form), labels, str(index)
        )


def thermal():
    return Frames(Modality.THERMAL, np.arange(24 * 32, dtype=np.uint16).reshape(24, 32))


def picture():
    return Frames(Modality.LIGHT_FIELD, np.full((48, 64, 3), (255, 0, 51), np.uint8), XForm.IMAGE)


def preparation(**changes):
    augment = AugmentConfig(crop_height=32, crop_width=40)
    return Preparation(
        synthetic_label_space(), EncodingConfig(), SensorConfig(), augment, **changes
    )


def test_a_frame_has_encoded_x_at_its_own_resolution_and_unified_labels():
    views = prepare(thermal(), 2, preparation())
    assert views.rgb.shape == (3, 48, 64)
    assert views.x.shape == (3, 24, 32)
    assert views.rgb.dtype is torch.uint8
    unified = synthetic_label_space().native("synthetic_street").to_unified[2]
    assert set(views.labels.unique().tolist()) == {unified, VOID}
    assert torch.equal(views.x[0], views.x[2])


def test_polarization_angles_are_not_mixed_on_the_way_to_the_model():
    """Stripes of the two ends of the scale, which are one angle, in every size that is made."""
    stripes = np.zeros((96, 128, 3), np.uint8)
    stripes[::2] = 255
    reader = Frames(Modality.POLARIZATION, stripes, XForm.IMAGE)
    drawn = EncodingConfig(polarization=PolarizationEncoding(representation="aolp"))
    angles = replace(preparation(), encoding=drawn)
    size = InputConfig(height=32, width=32)
    embedded = WholeFrames(reader, angles, size, (Variant.PLAIN,), (0,))[0]["x"]
    whole = Window(0, 0, 48, 64)
    drawn = crop_resized(prepare(reader, 0, angles), whole, (48, 64), angles.encoding).x
    for x in (drawn, embedded):
        assert set(x.unique().tolist()) <= {0.0, 1.0}
    plain = preparation()
    mixed = crop_resized(prepare(reader, 0, plain), whole, (48, 64), plain.encoding).x
    assert len(mixed.unique()) == 1  # the mean of both


def test_items_of_different_modalities_collate_into_one_batch():
    sources = [
        TrainingSplit(thermal()),
        TrainingSplit(picture(), torch.arange(4 * 4 * 2 * 3.0).reshape(4, 4, 2, 3)),
    ]
    plan = plan_draws([4, 4], [0.5, 0.5], 16, seed=0)
    dataset = JointDataset(sources, plan, preparation())
    for draw in range(16):
        item = dataset[draw]
        is_picture = int(plan.source[draw]) == 1
        assert item["rgb"].shape == item["x"].shape == (3, 32, 40)
        assert item["labels"].dtype is torch.int64
        modality = Modality.LIGHT_FIELD if is_picture else Modality.THERMAL
        assert int(item["modality"]) == modality.index
        assert ("x_embedding" in item) == is_picture
        if is_picture:
            table = sources[1].embeddings[int(plan.index[draw])]
            assert any(torch.equal(item["x_embedding"], row[1]) for row in table[:2])


def test_frames_are_kept_only_when_asked():
    plan = plan_draws([4], [1.0], 12, seed=0)
    for keeps, reads in ((True, 4), (False, 12)):
        reader = thermal()
        dataset = JointDataset([TrainingSplit(reader)], plan, preparation(keeps_frames=keeps))
        kept = [dataset[draw] for draw in range(12)]
        assert reader.reads == reads
        assert torch.equal(kept[3]["x"], dataset[3]["x"])


def test_all_samples_of_a_step_have_one_size():
    plan = plan_draws([4], [1.0], 12, seed=0)
    augment = AugmentConfig(crop_height=80, crop_width=64, small_share=0.6, small_scale=0.5)
    dataset = JointDataset(
        [TrainingSplit(thermal())], plan, replace(preparation(), augment=augment), 3
    )
    heights = [dataset[draw]["rgb"].shape[1] for draw in range(12)]
    assert heights == [40] * 9 + [80] * 3


def test_classes_are_counted_by_share():
    space = synthetic_label_space()
    counts = count_classes([TrainingSplit(thermal())], [1.0], space).pixels
    ids = space.native("synthetic_street").to_unified[:4]
    assert counts[list(ids)] == pytest.approx(2.5e8)
    assert counts.sum() == pytest.approx(1e9)
