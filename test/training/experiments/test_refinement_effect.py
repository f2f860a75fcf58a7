"""What a DSRM adds: its size, and what of it every image gets."""

import numpy as np
import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.model import PRESETS
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.experiments.refinement_effect import refinement_effect


def segmenter(**changes):
    model = PRESETS["tiny"].model_copy(update=changes)
    contract = default_contract("tiny", model=model, input=InputConfig(height=64, width=64))
    return Segmenter(random_weights(contract), InferenceConfig(device="cpu"))


def samples(count=4):
    rng = np.random.default_rng(0)
    for _ in range(count):
        rgb, x = (rng.integers(0, 255, (64, 64, 3)).astype(np.uint8) for _ in range(2))
        yield RgbxSample(rgb, x, Modality.LIGHT_FIELD, 0, "camera")


def test_a_constant_is_all_shared_and_a_factor_is_as_large_as_it_says():
    one = segmenter()
    one.engine.model.refine.forward = lambda features, queries: features + 3.0
    constant = refinement_effect(one, samples())
    assert constant.shared == pytest.approx(1.0)
    assert constant.images == 8
    one.engine.model.refine.forward = lambda features, queries: 1.5 * features
    factor = refinement_effect(one, samples())
    assert factor.size == pytest.approx(0.5)
    assert 0 < factor.shared < 1


def test_independent_changes_share_nothing_but_their_number():
    one = segmenter()
    generator = torch.Generator().manual_seed(0)
    one.engine.model.refine.forward = lambda features, queries: (
        features + torch.randn(features.shape, generator=generator)
    )
    assert refinement_effect(one, samples()).shared == pytest.approx(0.25, abs=0.05)  # 1 / images


def test_a_model_without_dsrm_is_refused():
    with pytest.raises(ConfigError, match="has no DSRM"):
        refinement_effect(segmenter(use_dsrm=False), samples(1))
