"""Reused embeddings: of a neighbour in the sequence, of the mirrored frame, never by default."""

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.sensors import EncodingConfig, SensorConfig
from training.data.augment import AugmentConfig, Variant
from training.data.datasets import READERS
from training.data.datasets.labelled_sample import Labelled
from training.data.embeddings import ReuseConfig, embedding_of, sequences_of
from training.data.mixing import JointDataset, TrainingSplit, plan_draws
from training.data.preparation import Preparation

FRAMES = 12
TABLE = torch.arange(FRAMES * 4 * 2 * 3.0).reshape(FRAMES, 4, 2, 3)
SEQUENCES = np.repeat(np.arange(3, dtype=np.int32), 4)


class Ordered:
    native, modality, sequence_mark = "synthetic_street", Modality.THERMAL, "/"
    ids = tuple(f"sun/scene{n // 4}/{n:06d}" for n in range(FRAMES))

    def __len__(self):
        return FRAMES

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        rgb = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
        thermal = rng.integers(28000, 31000, (40, 48), dtype=np.uint16)
        return Labelled(RgbxSample(rgb, thermal, self.modality), np.zeros((40, 48), np.uint8), "x")


def drawn(reuse, sequences, index=5, variant=Variant.PLAIN, times=300):
    rng = np.random.default_rng(0)
    return [embedding_of(TABLE, sequences, (index, variant), reuse, rng) for _ in range(times)]


def frames_of(embeddings, variant):
    return [int((TABLE[:, variant] == e).all(dim=(1, 2)).nonzero()) for e in embeddings]


def test_a_reused_embedding_is_a_neighbours_in_the_same_sequence():
    reuse = ReuseConfig(probability=0.5, reach=2)
    found = frames_of(drawn(reuse, SEQUENCES), Variant.PLAIN)
    counts = np.bincount(found, minlength=FRAMES)
    assert counts[5] == pytest.approx(150, abs=40)
    assert set(found) == {4, 5, 6, 7}  # frame 3 is in reach but belongs to another scene
    assert counts[4] == pytest.approx(50, abs=25)
    assert counts[7] == pytest.approx(50, abs=25)


def test_variants_stay_what_the_view_shows():
    reuse = ReuseConfig(probability=1.0, reach=1)
    found = drawn(reuse, SEQUENCES, variant=Variant.WITHOUT_X)
    assert set(frames_of(found, Variant.WITHOUT_X)) == {4, 6}


def test_pictures_without_a_sequence_are_mirrored():
    reuse = ReuseConfig(probability=1.0)
    (plain,) = drawn(reuse, None, times=1)
    (mirrored,) = drawn(reuse, None, variant=Variant.MIRRORED, times=1)
    (without,) = drawn(reuse, None, variant=Variant.WITHOUT_X, times=1)
    assert torch.equal(plain, TABLE[5, Variant.MIRRORED])
    assert torch.equal(mirrored, TABLE[5, Variant.PLAIN])
    assert torch.equal(without, TABLE[5, Variant.WITHOUT_X])


def test_noise_is_relative_and_on_reused_ones_only():
    reuse = ReuseConfig(probability=0.5, noise=0.2)
    plain = TABLE[5, Variant.PLAIN]
    found = torch.stack([e for e in drawn(reuse, None) if not torch.equal(e, plain)])
    off = found - TABLE[5, Variant.MIRRORED]
    assert (off.abs().sum(dim=(1, 2)) > 0).all()
    size = TABLE[5, Variant.MIRRORED].square().mean(dim=1).sqrt()
    relative = (off.square().mean(dim=(0, 2)).sqrt() / size).tolist()
    assert relative == pytest.approx([0.2 / 3**0.5] * 2, rel=0.25)


def test_sequences_come_from_names():
    assert sequences_of(Ordered()).tolist() == SEQUENCES.tolist()
    assert READERS["deliver"].sequence_mark == "/"
    assert READERS["synthetic_street"].sequence_mark == "_"
    assert not any(hasattr(READERS[name], "sequence_mark") for name in ("mfnet", "nyu"))


def dataset(reuse):
    preparation = Preparation(
        synthetic_label_space(), EncodingConfig(), SensorConfig(),
        AugmentConfig(crop_height=32, crop_width=32, noise=0.1, drop_x=0.2),
    )  # fmt: skip
    source = TrainingSplit(Ordered(), TABLE, sequences_of(Ordered()))
    plan = plan_draws([FRAMES], [1.0], 24, seed=1)
    return JointDataset([source], plan, preparation, reuse=reuse)


def test_images_of_a_draw_do_not_depend_on_reuse():
    fresh, reused = dataset(ReuseConfig()), dataset(ReuseConfig(probability=1.0))
    differs = 0
    for draw in range(24):
        one, two = fresh[draw], reused[draw]
        assert torch.equal(one["rgb"], two["rgb"])
        assert torch.equal(one["x"], two["x"])
        differs += not torch.equal(one["x_embedding"], two["x_embedding"])
        assert torch.equal(two["x_embedding"], reused[draw]["x_embedding"])
    assert differs == 24


def test_crops_have_no_other_moment():
    from training.stage2.config import read_run
    from training.stage2.task import _check

    run = read_run(
        "config/train/demo_thermal.yaml",
        ["clip.stale.probability=0.5", "clip.full_frame=false"],
    )
    with pytest.raises(ConfigError, match="needs clip"):
        _check(run)
