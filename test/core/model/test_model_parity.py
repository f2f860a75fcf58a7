"""The network against a slow second writing of the published formulas, in float64.

`cmx_formulas` knows only the public CMX names and plain sums; `load_cmx_weights` carries weights
and gradients across, so names, formulas and derivatives are checked together.
"""

from __future__ import annotations

import copy

import pytest
import torch
from baseline_shapes import filled
from cmx_formulas import (
    CLASSES,
    DEPTHS,
    DIMS,
    HEAD_WIDTH,
    HEADS,
    HIDDEN,
    RATIOS,
    block,
    cmx_shapes,
    fuse,
    rectify,
    resized,
    stage,
    whole,
)

from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.head import HeadConfig
from segrgbx_core.model.segrgbx import ModelConfig, SegRGBX
from segrgbx_core.model.weights import Stream, load_cmx_weights

CONFIG = ModelConfig(
    backbone=BackboneConfig(
        embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS, sr_ratios=RATIOS,
        mlp_ratios=(float(HIDDEN),) * 4, drop_path=0.0,
    ),
    head=HeadConfig(embed_dim=HEAD_WIDTH),
    use_ma_clip=False,
    use_aligned_prompts=False,
    use_dsrm=False,
)  # fmt: skip
SIZE = (45, 70)


def with_gradients(weights):
    return {
        name: value.clone().requires_grad_()
        if value.is_floating_point() and "running" not in name
        else value
        for name, value in weights.items()
    }


@pytest.fixture(scope="module")
def weights():
    return filled(cmx_shapes(), seed=0)


@pytest.fixture
def model(weights):
    model = SegRGBX(CONFIG, CLASSES, embed_dim=4).double().eval()
    load_cmx_weights(model, weights)
    return model


def check(ours, reference, our_inputs, their_inputs):
    """Outputs, and the gradients of one random projection of them, agree."""
    ours, reference = [
        out if isinstance(out, (tuple, list)) else (out,) for out in (ours, reference)
    ]
    for a, b in zip(ours, reference, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    generator = torch.Generator().manual_seed(1)
    for outs in (ours, reference):
        generator.manual_seed(1)
        sum(
            (o * torch.randn(o.shape, dtype=o.dtype, generator=generator)).sum() for o in outs
        ).backward()
    for a, b in zip(our_inputs, their_inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


def check_weight_gradients(model, reference_weights, prefixes):
    """Weight gradients agree: the reference's travel through the same conversion as weights do."""
    carrier = copy.deepcopy(model)
    load_cmx_weights(
        carrier,
        {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in reference_weights.items()
        },
    )
    carried = dict(carrier.named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and name.startswith(prefixes):
            torch.testing.assert_close(parameter.grad, carried[name], rtol=1e-9, atol=1e-9)
            compared += 1
    assert compared


def pair(*shape, seed=3):
    """The same two tensors twice, each with a gradient of its own."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    return tuple([v.clone().requires_grad_() for v in values] for _ in range(2))


# --- parity -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(12, 18), (11, 13)])
@pytest.mark.parametrize("index", range(4))
def test_block(model, weights, index, size):
    reference = with_gradients(weights)
    (ours, _), (theirs, _) = pair(2, size[0] * size[1], DIMS[index])
    last = DEPTHS[index] - 1
    out = model.backbone.stages[index].blocks[last](ours, size)
    name = f"backbone.block{index + 1}.{last}"
    check(out, block(reference, name, theirs, size, HEADS[index], RATIOS[index]), [ours], [theirs])
    check_weight_gradients(model, reference, f"backbone.stages.{index}.blocks.{last}")


@pytest.mark.parametrize("index", range(4))
def test_stage_of_odd_size(model, weights, index):
    reference = with_gradients(weights)
    channels, size = (3, (41, 59)) if index == 0 else (DIMS[index - 1], (13, 19))
    (ours, _), (theirs, _) = pair(2, channels, *size)
    check(model.backbone.stages[index](ours), stage(reference, index, theirs), [ours], [theirs])
    check_weight_gradients(model, reference, f"backbone.stages.{index}")


@pytest.mark.parametrize("index", range(4))
def test_rectification(model, weights, index):
    reference = with_gradients(weights)
    ours, theirs = pair(2, DIMS[index], 5, 7)
    check(model.rectify[index](*ours), rectify(reference, index, *theirs), ours, theirs)
    check_weight_gradients(model, reference, f"rectify.{index}")


@pytest.mark.parametrize("index", range(4))
def test_fusion(model, weights, index):
    reference = with_gradients(weights)
    ours, theirs = pair(2, DIMS[index], 5, 7)
    check(model.fuse[index](*ours), fuse(reference, index, *theirs), ours, theirs)
    check_weight_gradients(model, reference, f"fuse.{index}")


def test_dual_encoder_with_head(model, weights):
    reference = with_gradients(weights)
    ours, theirs = pair(2, 3, *SIZE)
    nothing = torch.zeros(2, 4, dtype=torch.float64)
    out = model(*ours, nothing, nothing, torch.zeros(2, dtype=torch.long))
    assert out.shape == (2, CLASSES, *SIZE)
    check(out, whole(reference, *theirs), ours, theirs)
    check_weight_gradients(model, reference, ("backbone", "rectify", "fuse", "head"))


def test_x_stream_of_cmx_fills_the_shared_encoder(weights):
    other = filled(cmx_shapes(), seed=9)
    both = dict(weights)
    for name, value in other.items():
        place, _, rest = name.partition(".")
        if place == "backbone" and rest.startswith(("patch_embed", "block", "norm")):
            both[f"backbone.extra_{rest}"] = value
    rgb_model, x_model = (SegRGBX(CONFIG, CLASSES, 4).double() for _ in range(2))
    load_cmx_weights(rgb_model, both)
    load_cmx_weights(x_model, both, Stream.X)
    name = "backbone.block2.1.attn.q.weight"
    assert torch.equal(rgb_model.backbone.stages[1].blocks[1].attn.q.weight, weights[name])
    assert torch.equal(x_model.backbone.stages[1].blocks[1].attn.q.weight, other[name])
    assert torch.equal(x_model.fuse[0].rgb.kv.weight, rgb_model.fuse[0].rgb.kv.weight)


def test_rectification_halves_gates_as_published():
    """By hand: with all gate logits 0 every gate is 1/2, so a stream takes half of the other."""
    model = SegRGBX(CONFIG, CLASSES, 4)
    frm = model.rectify[0]
    for parameter in frm.parameters():
        torch.nn.init.zeros_(parameter)
    rgb, x = frm(torch.full((1, 8, 2, 2), 2.0), torch.full((1, 8, 2, 2), 4.0))
    assert rgb.eq(2 + 0.5 * 4).all()
    assert x.eq(4 + 0.5 * 2).all()


def test_bilinear_of_the_reference_is_torch_bilinear():
    image = torch.rand(1, 2, 5, 3, dtype=torch.float64)
    theirs = torch.nn.functional.interpolate(
        image, size=(11, 8), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(resized(image, (11, 8)), theirs)
