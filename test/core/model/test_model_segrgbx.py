"""The whole network: sizes, gradients, switches, the folded head, precision, export and budget."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import MODALITIES
from segrgbx_core.model import PRESETS, ModelConfig, SegRGBX, build_model
from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.head import FoldedHead, HeadConfig, MlpHead
from segrgbx_core.model.ma_clip import MaClipConfig, ModalityAwareClip
from segrgbx_core.model.prompts import PromptConfig
from segrgbx_core.model.refinement import RefinementConfig, Structure

E, CLASSES = 12, 5
SMALL = ModelConfig(
    backbone=BackboneConfig(
        embed_dims=(8, 16, 20, 24), depths=(1, 1, 1, 1), num_heads=(1, 2, 5, 3)
    ),
    prompts=PromptConfig(num_control=2, num_aligned=2),
    refinement=RefinementConfig(
        num_heads=2, num_universal=3, universal_grid=(2, 2), query_hidden=6,
        mlp_ratio=2.0, position_grid=(3, 4),
    ),
    head=HeadConfig(embed_dim=12),
)  # fmt: skip


def build(config=SMALL, **changes):
    torch.manual_seed(0)
    return SegRGBX(config.model_copy(update=changes), CLASSES, E)


def inputs(batch=2, height=64, width=96, dtype=torch.float32):
    torch.manual_seed(1)
    images = torch.rand(2, batch, 3, height, width, dtype=dtype)
    embeddings = torch.randn(2, batch, E, dtype=dtype)
    return (
        images[0],
        images[1],
        embeddings[0],
        embeddings[1],
        torch.arange(batch) % len(MODALITIES),
    )


@pytest.mark.parametrize("size", [(32, 32), (97, 131), (128, 64)])
def test_logits_have_the_size_of_the_images(size):
    model = build().eval()
    logits = model(*inputs(3, *size))
    assert logits.shape == (3, CLASSES, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [(512, 512), (352, 640), (97, 131)])
def test_paper_sizes(size):
    model = build_model(PRESETS["tiny"], 71, E).eval()
    with torch.inference_mode():
        assert model(*inputs(1, *size)).shape == (1, 71, *size)


def test_images_that_do_not_fit_are_refused():
    model = build()
    rgb, x, *rest = inputs(1)
    with pytest.raises(ValueError, match=r"x \(1, 3, 64, 90\); expected equal"):
        model(rgb, x[..., :90], *rest)
    with pytest.raises(ValueError, match="sides of at least 32 pixels"):
        model(rgb[..., :31], x[..., :31], *rest)


@pytest.mark.parametrize("structure", Structure)
def test_every_parameter_learns(structure):
    refinement = SMALL.refinement.model_copy(update={"structure": structure})
    model = build(refinement=refinement).double()
    model(*inputs(5, dtype=torch.float64)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("use_ma_clip", [True, False])
@pytest.mark.parametrize("use_aligned_prompts", [True, False])
@pytest.mark.parametrize("use_dsrm", [True, False])
def test_switches_of_table_vi(use_ma_clip, use_aligned_prompts, use_dsrm):
    model = build(
        use_ma_clip=use_ma_clip, use_aligned_prompts=use_aligned_prompts, use_dsrm=use_dsrm
    ).double()
    names = {name for name, _ in model.named_parameters()}
    assert any("control" in name for name in names) == use_ma_clip
    assert any("aligned" in name for name in names) == use_aligned_prompts
    assert any(name.startswith("refine.") for name in names) == use_dsrm
    assert ("learned_scene" in names) == (use_dsrm and not use_ma_clip)
    rgb, x, rgb_embedding, x_embedding, modality = inputs(2, dtype=torch.float64)
    rgb_embedding.requires_grad_()
    model(rgb, x, rgb_embedding, x_embedding, modality).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert (rgb_embedding.grad is not None) == use_ma_clip
    model.eval()
    with torch.no_grad():
        logits = model(rgb, x, rgb_embedding, x_embedding, modality)
        other = model(rgb, x, rgb_embedding, x_embedding, (modality + 1) % 5)
    assert torch.equal(logits, other) != use_aligned_prompts


def test_x_is_normalised_by_option():
    rgb, x, *rest = inputs(1, dtype=torch.float64)
    plain, normalised = build(normalise_x=False).double().eval(), build().double().eval()
    mean, std = (part[1][:, None, None] for part in (normalised.mean, normalised.std))
    with torch.no_grad():
        torch.testing.assert_close(plain(rgb, (x - mean) / std, *rest), normalised(rgb, x, *rest))


def randomise_head(model):
    with torch.no_grad():
        model.head.norm.running_mean.normal_()
        model.head.norm.running_var.uniform_(0.5, 2)
        for parameter in model.head.parameters():
            parameter.normal_()
    return model


@pytest.mark.parametrize("fuse_bias", [True, False])
def test_folded_head_gives_equal_logits(fuse_bias):
    head = SMALL.head.model_copy(update={"fuse_bias": fuse_bias})
    model = randomise_head(build(head=head)).double().eval()
    batch = inputs(2, 97, 131, dtype=torch.float64)
    with torch.no_grad():
        before = model(*batch)
        model.fold()
        assert isinstance(model.head, FoldedHead)
        torch.testing.assert_close(model(*batch), before, rtol=1e-9, atol=1e-9)


def test_folding_leaves_the_original_head_alone():
    head = MlpHead(SMALL.head, (8, 16, 20, 24), CLASSES)
    before = copy.deepcopy(head.state_dict())
    head.folded()
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_half_precision_stays_near():
    model = build().eval()
    batch = inputs(2)
    with torch.no_grad():
        exact = model(*batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            near = model(*batch)
        model.bfloat16()
        *images, modality = batch
        cast = model(*(tensor.bfloat16() for tensor in images), modality)
    spread = exact.std()
    assert (near.float() - exact).abs().mean() < 0.05 * spread
    assert (cast.float() - exact).abs().mean() < 0.1 * spread


def test_context_of_many_tokens_is_summed_in_float32_under_autocast():
    fuse = build().fuse[0].rgb
    tokens = torch.rand(1, 20000, 8)
    exact = fuse.double().context(tokens.double())
    fuse.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = fuse.context(tokens)
    assert near.dtype == torch.float32
    torch.testing.assert_close(near.double(), exact, rtol=0.05, atol=0.02)


def test_channels_last_gives_equal_logits():
    model, batch = build().eval(), inputs(2, 97, 131)
    with torch.no_grad():
        exact = model(*batch)
        model.to(memory_format=torch.channels_last)
        last = [image.contiguous(memory_format=torch.channels_last) for image in batch[:2]]
        torch.testing.assert_close(model(*last, *batch[2:]), exact, rtol=1e-4, atol=1e-5)


def test_drop_path_and_dropout_only_act_in_training():
    model, batch = build(), inputs(2)
    with torch.no_grad():
        assert not torch.equal(model.train()(*batch), model(*batch))
        assert torch.equal(model.eval()(*batch), model(*batch))


@pytest.mark.slow
def test_export_with_free_batch_and_size_agrees_with_eager():
    model = build(refinement=SMALL.refinement.model_copy(update={"depth": 1})).eval()
    batch, height, width = (
        Dim(name, min=low, max=2048) for name, low in (("b", 1), ("h", 64), ("w", 64))
    )
    image = {0: batch, 2: height, 3: width}
    vector = {0: batch}
    program = torch.export.export(
        model, inputs(2, 96, 128), dynamic_shapes=(image, image, vector, vector, vector)
    )
    for shape in ((1, 96, 128), (3, 97, 131), (2, 64, 160)):
        example = inputs(*shape)
        with torch.no_grad():
            torch.testing.assert_close(
                program.module()(*example), model(*example), rtol=1e-5, atol=1e-5
            )


@pytest.mark.slow
def test_export_of_scene_and_frame_apart():
    """A vehicle may run the scene's graph seldom and the frame's graph always."""

    class Frame(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, rgb, x, scene):
            return self.model.segment(rgb, x, scene)

    model = build().eval()
    rgb, x, *rest = inputs(1)
    with torch.no_grad():
        scene = model.encode_scene(*rest)
        program = torch.export.export(Frame(model), (rgb, x, scene))
        torch.testing.assert_close(program.module()(rgb, x, scene), model(rgb, x, *rest))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build_and_survive_a_round_trip(name):
    assert from_mapping(ModelConfig, to_plain(PRESETS[name])) == PRESETS[name]
    with torch.device("meta"):
        model = build_model(PRESETS[name], 71, 512)
    assert [len(stage.blocks) for stage in model.backbone.stages] == list(
        PRESETS[name].backbone.depths
    )


def test_tiny_is_small():
    model = build_model(PRESETS["tiny"], 71, 64)
    assert 1.0e6 < sum(parameter.numel() for parameter in model.parameters()) < 2.5e6


def test_widths_that_heads_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="width 64 is not divisible by its 3 attention heads"):
        from_mapping(ModelConfig, {"backbone": {"num_heads": [3, 2, 5, 8]}})


PAPER_PARAMETERS, PAPER_GMACS = 159.40e6, 108.31
# Two images through a frozen ViT-B/16 as fvcore counts it in eval mode, where attention is one
# operator that it does not see (16.87 with gradients on, 17.56 in truth).
CLIP_GMACS = 2 * 11.29


def test_budget_of_the_paper():
    """Within 5 % of Table IV (h), counted as docs/paper.md says, DSRM's attention unseen."""
    with torch.device("meta"):
        model = build_model(PRESETS["b2"], 71, 512).eval()
        clip = ModalityAwareClip(MaClipConfig())
        images = torch.zeros(2, 1, 3, 512, 512)
        embeddings = torch.zeros(2, 1, 512)
        with FlopCounterMode(display=False, depth=4) as counter, torch.no_grad():
            model(*images, *embeddings, torch.zeros(1, dtype=torch.long))
    parameters = sum(p.numel() for part in (model, clip) for p in part.parameters())
    assert abs(parameters / PAPER_PARAMETERS - 1) < 0.05
    counts = counter.get_flop_counts()
    products = sum(
        n for op, n in counts["SegRGBX.refine"].items() if "bmm" in str(op) or "att" in str(op)
    )
    gmacs = (sum(counts["Global"].values()) - products) / 2e9 + CLIP_GMACS
    assert abs(gmacs / PAPER_GMACS - 1) < 0.05
