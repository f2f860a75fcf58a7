"""The baselines against a second writing of their published formulas, in float64.

`load_released_weights` carries weights and gradients across, so names, formulas and derivatives
are checked together.
"""

from __future__ import annotations

import copy

import pytest
import torch
from baseline_formulas import exchanged, feature_cross, gemini_block, ppx, stitch_block, whole
from baseline_shapes import CLASSES, DEPTHS, DIMS, HEADS, HIDDEN, NAMES, WIDTH, random_weights

from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.baselines import (
    CmnextConfig,
    CmxConfig,
    GeminifusionConfig,
    StitchfusionConfig,
    build_baseline,
)
from segrgbx_core.model.baselines.released import load_released_weights
from segrgbx_core.model.baselines.stitchfusion import AdapterConfig, Stitch
from segrgbx_core.model.head import HeadConfig

SIZE = (45, 70)
TINY = 1e-9


def config_of(name, **changes):
    kind = {
        "cmx": CmxConfig, "cmnext": CmnextConfig,
        "geminifusion": GeminifusionConfig, "stitchfusion": StitchfusionConfig,
    }[name]  # fmt: skip
    default = kind()
    backbone = BackboneConfig(
        embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS, mlp_ratios=(float(HIDDEN),) * 4,
        patch_norm_eps=default.backbone.patch_norm_eps,
        block_norm_eps=default.backbone.block_norm_eps,
    )  # fmt: skip
    head = HeadConfig(
        embed_dim=WIDTH, fuse_bias=default.head.fuse_bias, norm_eps=default.head.norm_eps
    )
    if name == "geminifusion":  # gradients of the whole network are compared through its answer
        changes = {"detach_ensemble": False, **changes}
    return kind(backbone=backbone, head=head, **changes)


def learnable(weights):
    return {
        key: value.clone().requires_grad_()
        if value.is_floating_point() and "running" not in key
        else value
        for key, value in weights.items()
    }


def built(name, weights, **changes):
    model = build_baseline(config_of(name, **changes), CLASSES, 4).double().eval()
    load_released_weights(model, weights)
    return model


def pair(*shape, seed=3):
    """The same two tensors twice, each with a gradient of its own."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2)]
    return tuple([value.clone().requires_grad_() for value in values] for _ in range(2))


def check(model, weights, ours, theirs, our_inputs, their_inputs):
    """Outputs, gradients of inputs and of every weight that takes part agree."""
    for outs in (ours, theirs):
        generator = torch.Generator().manual_seed(1)
        sum(
            (out * torch.randn(out.shape, dtype=out.dtype, generator=generator)).sum()
            for out in outs
        ).backward()
    carrier = copy.deepcopy(model)
    load_released_weights(
        carrier,
        {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in weights.items()},
    )
    grads = dict(carrier.named_parameters())
    pairs = [
        *zip(ours, theirs, strict=True),
        *((a.grad, b.grad) for a, b in zip(our_inputs, their_inputs, strict=True)),
        *((p.grad, grads[n]) for n, p in model.named_parameters() if p.grad is not None),
    ]
    assert len(pairs) > 6
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=TINY, atol=TINY)


@pytest.mark.parametrize("size", [(5, 7), (13, 12)])
@pytest.mark.parametrize("index", [0, 3])
def test_parallel_pooling_block(index, size):
    model = built("cmnext", weights := learnable(random_weights("cmnext")))
    (ours, _), (theirs, _) = pair(2, DIMS[index], *size)
    out = model.x_backbone.stages[index].blocks[0](ours)
    reference = ppx(weights, f"backbone.extra_block{index + 1}.0", theirs)
    check(model, weights, [out], [reference], [ours], [theirs])


def test_exchange_at_every_pixel():
    model = built("geminifusion", weights := learnable(random_weights("geminifusion")))
    ours, theirs = pair(2, 15, DIMS[1])
    out = model.backbone.stages[1].blocks[1].attn.exchange(torch.cat(ours))
    reference = exchanged(weights, "encoder.block2.1.attn", *theirs)
    check(model, weights, [out[:2], out[2:]], reference, ours, theirs)


@pytest.mark.parametrize("index", range(4))
def test_gemini_block(index):
    model = built("geminifusion", weights := learnable(random_weights("geminifusion")))
    size = (9, 11) if index == 0 else (5, 7)
    ours, theirs = pair(1, size[0] * size[1], DIMS[index])
    out = model.backbone.stages[index].blocks[0](torch.cat(ours), size)
    reference = gemini_block(weights, f"encoder.block{index + 1}.0", theirs, size, index)
    check(model, weights, [out[:1], out[1:]], reference, ours, theirs)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("stitch", Stitch)
@pytest.mark.parametrize("index", [0, 3])
def test_stitch_block(index, stitch, sequential):
    two = stitch is Stitch.PER_DIRECTION
    weights = learnable(random_weights("stitchfusion", "two" if two else ""))
    adapter = AdapterConfig(stitch=stitch, sequential=sequential)
    model = built("stitchfusion", weights, adapter=adapter)
    size = (9, 11)
    ours, theirs = pair(2, size[0] * size[1], DIMS[index])
    out = model.backbone.stages[index].blocks[0](torch.cat(ours), size)
    reference = stitch_block(
        weights, f"backbone.block{index + 1}.0", theirs, size, index,
        "21" if two else "12", sequential,
    )  # fmt: skip
    check(model, weights, [out[:2], out[2:]], reference, ours, theirs)


@pytest.mark.parametrize("index", [0, 3])
def test_feature_cross(index):
    model = built("stitchfusion", weights := learnable(random_weights("stitchfusion")))
    ours, theirs = pair(2, DIMS[index], 5, 9)
    out, reference = model.fuse[index](*ours), feature_cross(weights, index, *theirs)
    check(model, weights, [out], [reference], ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_whole_network(name):
    model = built(name, weights := learnable(random_weights(name)))
    ours, theirs = pair(1, 3, *SIZE)
    nothing = torch.zeros(1, 4, dtype=torch.float64)
    out = model(*ours, nothing, nothing, torch.zeros(1, dtype=torch.long))
    assert out.shape == (1, CLASSES, *SIZE)
    check(model, weights, [out], [whole(name, weights, *theirs)], ours, theirs)
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused
