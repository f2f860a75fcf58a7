"""SegFormer against transformers' own and second writings of NVIDIA's and mmsegmentation's."""

from __future__ import annotations

import pytest
import torch
from baseline_shapes import WIDTH
from segformer_files import (
    SHAPE,
    mmseg_logits,
    mmseg_state,
    nvidia_logits,
    nvidia_state,
    transformers_model,
)

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer
from segrgbx_core.model.baselines import SegformerConfig, build_baseline
from segrgbx_core.model.baselines.released import load_released_weights
from segrgbx_core.model.baselines.segformer_weights import code_base_of
from segrgbx_core.model.head import HeadConfig
from segrgbx_core.model.tensor_files import read_weights
from segrgbx_core.model.weights import load_encoder_weights

SIZES = [(64, 64), (45, 70), (97, 131)]
CODE = {"NVIDIA": (nvidia_state, nvidia_logits), "mmsegmentation": (mmseg_state, mmseg_logits)}


def build(state):
    """A network with the options of the code that wrote a file."""
    head = HeadConfig(embed_dim=WIDTH, fuse_bias=False, norm_eps=1e-5)
    start = SegformerConfig(backbone=BackboneConfig(**SHAPE), head=head)
    torch.manual_seed(0)
    classes = len(next(v for k, v in state.items() if k.endswith(("seg.weight", "fier.weight"))))
    return build_baseline(code_base_of(state, "f").config(start), classes, 4).double().eval()


def logits(model, normalised, x=None):
    """Coarse logits of RGB that is given as public code takes it."""
    mean, std = (part[0][:, None, None].double() for part in (model.mean, model.std))
    with torch.no_grad():
        rgb = normalised * std + mean
        return model.pair_logits(rgb, torch.zeros_like(rgb) if x is None else x)


def images(size):
    return torch.randn(
        2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )


def close(ours, theirs):
    assert theirs.std() > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11 * theirs.abs().max().item())


@pytest.mark.clip
@pytest.mark.parametrize("size", SIZES)
def test_equals_transformers(size):
    public = transformers_model()
    load_released_weights(model := build(public.state_dict()), public.state_dict())
    with torch.no_grad():
        close(logits(model, images(size)), public(images(size)).logits)


@pytest.mark.clip
def test_files_of_transformers_have_older_names(tmp_path):
    public = transformers_model()
    public.float().save_pretrained(tmp_path)
    state = read_weights(tmp_path)  # the folder
    assert any(".encoder.block." in name for name in state)
    load_released_weights(model := build(state), state)
    with torch.no_grad():
        close(logits(model, images((64, 96))), public.double()(images((64, 96))).logits)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("code", CODE)
def test_equals_second_writings(code, size):
    make, reference = CODE[code]
    load_released_weights(model := build(make()), make())
    close(logits(model, images(size)), reference(make(), images(size)))


def test_epsilons_and_head_follow_the_code():
    for make, expected in ((nvidia_state, (1e-5, 1e-6, False)), (mmseg_state, (1e-6, 1e-6, True))):
        config = build(make()).config
        shape = config.backbone
        assert (shape.patch_norm_eps, shape.block_norm_eps, config.projection_norm) == expected


@pytest.mark.parametrize("code", CODE)
def test_x_changes_nothing(code):
    model, rgb = build(CODE[code][0]()), images((64, 64))
    assert torch.equal(logits(model, rgb), logits(model, rgb, torch.full_like(rgb, torch.nan)))
    with pytest.raises(ValueError, match="expected equal"):
        logits(model, rgb, torch.zeros(2, 3, 64, 32))


@pytest.mark.parametrize("code", CODE)
def test_encoders_take_whole_files(code):
    state = {f"module.{name}": values for name, values in CODE[code][0]().items()}
    load_released_weights(whole := build(CODE[code][0]()), state)
    encoder = MixTransformer(BackboneConfig(**SHAPE)).double()
    load_encoder_weights(encoder, state)
    for name, values in whole.backbone.state_dict().items():
        assert torch.equal(values, encoder.state_dict()[name])


@pytest.mark.parametrize("code", CODE)
def test_the_first_wrong_tensor_is_named(code):
    state = CODE[code][0]()
    model = build(state)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    block = "backbone.block3.0" if code == "NVIDIA" else "backbone.layers.2.1.0"
    gone = f"{block}.norm1.weight"
    short = {name: values for name, values in state.items() if name != gone}
    for wrong, message in (
        (short, f"f.pth: '{gone}' is missing; our 'backbone.stages.2.blocks.0.norm1"),
        ({**state, gone: torch.zeros(5)}, rf"'{gone}' gives shape \(5,\)"),
        ({**state, "backbone.extra_norm1.weight": torch.zeros(8)}, "extra_norm1.* no place"),
        ({"patch_embed1.proj.weight": torch.zeros(1)}, "f.pth: is no whole segformer"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_released_weights(model, wrong, where="f.pth")
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("code", CODE)
def test_other_classes_keep_their_classifier(code):
    state = CODE[code][0]()
    last = code_base_of(state, "f").last
    load_released_weights(whole := build(state), state)
    other = {**state, f"{last}weight": torch.zeros(9, WIDTH, 1, 1), f"{last}bias": torch.zeros(9)}
    kept = whole.head.classifier.weight.clone()
    load_released_weights(whole, other, classifier=False)
    assert torch.equal(whole.head.classifier.weight, kept)
