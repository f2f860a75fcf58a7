"""The baselines as networks: published sizes, any image size, gradients, options, export."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.bench.cost import count_cost, total_cost
from segrgbx_core.bench.harness import synthetic_sample
from segrgbx_core.model import ALL_PRESETS, BASELINE_PRESETS, SegRGBX, build_model
from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.baselines import (
    CmnextConfig,
    CmxConfig,
    GeminiFusion,
    GeminifusionConfig,
    SegformerConfig,
    StitchfusionConfig,
)
from segrgbx_core.model.baselines.cmnext import neighbourhood_mean
from segrgbx_core.model.baselines.stitchfusion import AdapterConfig, MapFusion, Stitch
from segrgbx_core.model.head import FoldedHead, HeadConfig
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.runtime.checkpoint import (
    Contract,
    default_contract,
    load_checkpoint,
    random_checkpoint,
)
from segrgbx_core.runtime.segmenter import Segmenter

E, CLASSES = 4, 3
SHAPE = BackboneConfig(
    embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), mlp_ratios=(2.0,) * 4
)
KINDS = {
    "cmx": CmxConfig,
    "cmnext": CmnextConfig,
    "geminifusion": GeminifusionConfig,
    "stitchfusion": StitchfusionConfig,
    "segformer": SegformerConfig,
}


def build(name, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = KINDS[name](backbone=SHAPE, head=HeadConfig(embed_dim=12), **changes)
    return build_model(config, CLASSES, E).to(dtype)


def inputs(batch=2, height=64, width=96, dtype=torch.float32):
    torch.manual_seed(1)
    images = torch.rand(2, batch, 3, height, width, dtype=dtype)
    embeddings = torch.randn(2, batch, E, dtype=dtype)
    return (*images, *embeddings, torch.arange(batch) % len(MODALITIES))


# Millions of parameters, GMACs of convolutions and products; 512x512, 25 classes, facts measured
# on the authors' code. StitchFusion's are torch's count, as fvcore misses some convolutions.
PUBLISHED = {
    "cmx_b2": ("66.574", 65.27), "cmx_b1": ("43.427", None), "cmx_b0": ("11.197", None),
    "cmnext_b2": ("58.694", 62.54), "cmnext_b1": ("39.691", None), "cmnext_b0": ("10.291", None),
    "geminifusion_b2": ("41.078", 73.78), "geminifusion_b1": ("22.197", None),
    "geminifusion_b0": ("5.860", None),
    "stitchfusion_b2": ("28.385", 61.41), "stitchfusion_b1": ("16.210", None),
    "stitchfusion_b0": ("4.395", None),
    "segformer_b0": ("3.721", None), "segformer_b5": ("84.613", None),
}  # fmt: skip


def cost(config):
    return total_cost(count_cost(config, CLIP_PRESETS["tiny"], 25))


def spared_gmacs(config):
    """Products that GeminiFusion needs no more: one key of two, and the sums over two tokens."""
    backbone, total = config.backbone, 0
    for stage, (width, depth) in enumerate(zip(backbone.embed_dims, backbone.depths, strict=True)):
        pixels = (512 // 4 // 2**stage) ** 2
        total += 2 * depth * pixels * (width * width + 4 * width)
    return total / 1e9


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    parameters, gmacs = PUBLISHED[name]
    counted = cost(BASELINE_PRESETS[name])
    assert f"{counted.parameters_m:.3f}" == parameters
    if gmacs is not None:
        own = counted.gmacs
        if name.startswith("gemini"):
            own += spared_gmacs(BASELINE_PRESETS[name])
        assert own == pytest.approx(gmacs, abs=0.006)


def test_published_sizes_of_delivers_variants():
    cmx = BASELINE_PRESETS["cmx_b2"]
    deliver = cmx.model_copy(update={"head": HeadConfig(fuse_bias=False, norm_eps=1e-5)})
    assert f"{cost(deliver).parameters_m:.3f}" == "66.573"
    gemini = BASELINE_PRESETS["geminifusion_b2"]
    wide = gemini.model_copy(update={"head": gemini.head.model_copy(update={"embed_dim": 512})})
    assert f"{cost(wide).parameters_m:.3f}" == "42.134"
    assert cost(wide).gmacs + spared_gmacs(wide) == pytest.approx(100.80, abs=0.006)


@pytest.mark.parametrize("size", [(32, 32), (97, 131)])
@pytest.mark.parametrize("name", KINDS)
def test_any_size_and_every_parameter_learns(name, size):
    model = build(name, torch.float64)
    if name == "stitchfusion":  # silent adapters pass nothing back through themselves at first
        for parameter in model.backbone.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
    rgb, x, *others = inputs(3, *size, dtype=torch.float64)
    assert model(rgb, x, *others).shape == (3, CLASSES, *size)
    for logits in model.training_logits(rgb, x, model.encode_scene(*others)):
        logits.square().mean().backward(retain_graph=True)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        dead = key.startswith("fuse.") and ".gate." in key  # one ReLU here, which may be closed
        # A 32x32 image leaves stage 4 one token: a softmax over one key has no slope.
        dead |= size == (32, 32) and "stages.3." in key and (".attn.q." in key or ".kv." in key)
        assert dead or parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", KINDS)
def test_embeddings_and_modality_change_nothing(name):
    model = build(name).eval()
    assert not model.needs_embeddings
    rgb, x, *others = inputs(3)
    with torch.no_grad():
        mixed = model(rgb, x, *others)
        alone = [model(rgb[i : i + 1], x[i : i + 1], *(o[:1] for o in others)) for i in range(3)]
    torch.testing.assert_close(mixed, torch.cat(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_images_that_do_not_fit_are_refused(name):
    rgb, x, *others = inputs(1)
    with pytest.raises(ValueError, match=r"x \(1, 3, 64, 90\); expected equal"):
        build(name)(rgb, x[..., :90], *others)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "segformer"])
def test_both_images_matter(name):
    model = build(name).eval()
    for module in model.modules():
        if hasattr(module, "up"):  # StitchFusion's adapters start silent
            torch.nn.init.normal_(module.up.weight)
    rgb, x, *others = inputs(1)
    with torch.no_grad():
        logits = model(rgb, x, *others)
        assert not torch.allclose(model(rgb.flip(3), x, *others), logits)
        assert not torch.allclose(model(rgb, x.flip(3), *others), logits)


@pytest.mark.parametrize("name", KINDS)
def test_folded_head_and_half_precision_stay_near(name):
    model, batch = build(name).eval(), inputs(2)
    with torch.no_grad():
        exact = model(*batch)
        model.fold()
        assert isinstance(model.head, FoldedHead)
        torch.testing.assert_close(model(*batch), exact, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = model(*batch).float()
    assert (near - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize("name", KINDS)
def test_dropping_only_acts_in_training(name):
    model, batch = build(name), inputs(2)
    with torch.no_grad():
        assert not torch.equal(model.train()(*batch), model(*batch))
        assert torch.equal(model.eval()(*batch), model(*batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_export_with_free_batch_and_size_agrees_with_eager(name):
    model = build(name).eval()
    batch, height, width = (
        Dim(label, min=low, max=2048) for label, low in (("b", 1), ("h", 64), ("w", 64))
    )
    image, vector = {0: batch, 2: height, 3: width}, {0: batch}
    program = torch.export.export(
        model, inputs(2, 96, 128), dynamic_shapes=(image, image, vector, vector, vector)
    )
    for shape in ((1, 96, 128), (3, 97, 131)):
        example = inputs(*shape)
        with torch.no_grad():
            torch.testing.assert_close(
                program.module()(*example), model(*example), rtol=1e-4, atol=1e-5
            )


def test_cmx_in_bgr_is_cmx_on_turned_images():
    plain, bgr = build("cmx").eval(), build("cmx", bgr=True).eval()
    rgb, x, *others = inputs(1)
    with torch.no_grad():
        assert torch.equal(bgr(rgb, x, *others), plain(rgb.flip(1), x.flip(1), *others))


def test_neighbourhoods_of_cmnext_leave_the_border_out():
    image = torch.randn(2, 3, 9, 14, dtype=torch.float64)
    for side in (3, 7, 11):
        square = torch.nn.functional.avg_pool2d(image, side, 1, side // 2, count_include_pad=False)
        torch.testing.assert_close(neighbourhood_mean(image, side), square)


def test_ensemble_of_geminifusion():
    model = build("geminifusion", torch.float64).eval()
    rgb, x, *others = inputs(1, dtype=torch.float64)
    streams = model.stream_logits(rgb, x)
    scene = model.encode_scene(*others)
    torch.testing.assert_close(model.coarse_logits(rgb, x, scene), sum(streams) / 2)
    with torch.no_grad():
        model.alpha.copy_(torch.tensor([0.0, 3.0]).log1p())
    torch.testing.assert_close(
        model.coarse_logits(rgb, x, scene), 0.2 * streams[0] + 0.8 * streams[1]
    )


def test_detached_ensemble_trains_nothing_but_its_weights():
    model = build("geminifusion", torch.float64, detach_ensemble=True)
    assert isinstance(model, GeminiFusion)
    model(*inputs(2, dtype=torch.float64)).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is not None] == ["alpha"]


def test_stitched_streams_start_apart():
    """A new StitchFusion's encoder is a plain one: its adapters say nothing yet."""
    model = build("stitchfusion").eval()
    rgb, x, *_ = inputs(1)
    with torch.no_grad():
        both = model.backbone(model.normalised(rgb, x))[3]
        other = model.backbone(model.normalised(rgb, x.flip(3)))[3]
    assert torch.equal(both[0], other[0])
    assert not torch.equal(both[1], other[1])


@pytest.mark.parametrize("stitch", Stitch)
@pytest.mark.parametrize("fusion", MapFusion)
def test_switches_of_stitchfusion(stitch, fusion):
    model = build("stitchfusion", adapter=AdapterConfig(stitch=stitch), fusion=fusion)
    names = [name for name, _ in model.named_parameters()]
    per_direction = stitch is Stitch.PER_DIRECTION
    assert any("attn_adapters.1." in name for name in names) == per_direction
    assert any(name.startswith("fuse.") for name in names) == (fusion is MapFusion.FEATURE_CROSS)
    model(*inputs(1)).mean().backward()


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_contracts_of_all_presets_survive_a_round_trip(name):
    contract = default_contract(name)
    read = from_mapping(Contract, to_plain(contract))
    assert read == contract
    assert type(read.model) is type(ALL_PRESETS[name])


def test_contracts_that_name_no_architecture_mean_segrgbx():
    plain = to_plain(default_contract("tiny"))
    del plain["model"]["architecture"]
    assert from_mapping(Contract, plain) == default_contract("tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "cmy"}, "f: model: architecture is not one of segrgbx, cmx, cmnext"),
        ({"bgt": True}, r"f: unknown option 'model.bgt' \(did you mean 'bgr'\?\)"),
        ({"prompts": {}}, "f: unknown option 'model.prompts'"),
        ({"head": {"dropout": 2}}, r"f: model.head.dropout: 2 is outside \[0, 1\]"),
    ],
)
def test_mistakes_in_a_baselines_options_are_named(change, message):
    plain = to_plain(default_contract("cmx_tiny"))
    plain["model"].update(change)
    with pytest.raises(ConfigError, match=message):
        from_mapping(Contract, plain, "f")


def test_widths_that_eight_heads_do_not_divide_are_refused():
    backbone = {"embed_dims": [12, 24, 36, 48], "num_heads": [1, 2, 3, 4]}
    with pytest.raises(ConfigError, match="width 12 is not divisible by its 8 attention heads"):
        from_mapping(GeminifusionConfig, {"backbone": backbone})


@pytest.mark.parametrize("name", KINDS)
def test_checkpoints_and_segmenter_take_a_baseline(name, tmp_path):
    path = tmp_path / "baseline.safetensors"
    random_checkpoint(path, f"{name}_tiny")
    loaded = load_checkpoint(path)
    assert not isinstance(loaded.model, SegRGBX)
    segmenter = Segmenter(loaded)
    samples = [synthetic_sample(m, 48, 64) for m in (Modality.THERMAL, Modality.EVENT)]
    labels = [prediction.labels for prediction in segmenter.predict(samples)]
    assert [image.shape for image in labels] == [(48, 64)] * 2
