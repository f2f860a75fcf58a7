"""Prompts: equal to dropping O_M, pairings, mixed batches, and scenes kept for later frames."""

from __future__ import annotations

import math

import pytest
import torch

from segrgbx_core.base.config import from_mapping, to_plain
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer
from segrgbx_core.model.head import HeadConfig
from segrgbx_core.model.prompts import Pairing, PromptConfig, pair_embeddings, stream_indices
from segrgbx_core.model.refinement import RefinementConfig
from segrgbx_core.model.segrgbx import ModelConfig, SegRGBX

E, CLASSES = 12, 5
CONFIG = ModelConfig(
    backbone=BackboneConfig(
        embed_dims=(8, 16, 20, 24), depths=(1, 1, 2, 1), num_heads=(1, 2, 5, 3)
    ),
    prompts=PromptConfig(num_control=3, num_aligned=2),
    refinement=RefinementConfig(
        num_heads=2, num_universal=3, universal_grid=(2, 2), query_grid=(2, 3), query_hidden=6,
        mlp_ratio=2.0, position_grid=(3, 4),
    ),
    head=HeadConfig(embed_dim=12),
)  # fmt: skip


def build(**changes):
    torch.manual_seed(0)
    model = SegRGBX(CONFIG.model_copy(update=changes), CLASSES, E).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(batch=5, height=64, width=96):
    torch.manual_seed(1)
    images = torch.rand(2, batch, 3, height, width, dtype=torch.float64)
    embeddings = torch.randn(2, batch, E, dtype=torch.float64)
    return (
        images[0],
        images[1],
        embeddings[0],
        embeddings[1],
        torch.arange(batch) % len(MODALITIES),
    )


def naive_prompt_attention(attn, embeddings, prompts, num_heads):
    """The paper's III-C to the letter: all of [E; M] asks all of [E; M], then O_M is dropped."""
    both = torch.cat([embeddings, prompts], dim=1)
    width = both.shape[-1]
    depth = width // num_heads
    q = both @ attn.q.weight.T + attn.q.bias
    kv = both @ attn.kv.weight.T + attn.kv.bias
    outs = []
    for head in range(num_heads):
        own = slice(head * depth, (head + 1) * depth)
        k, v = kv[..., :width][..., own], kv[..., width:][..., own]
        outs.append(((q[..., own] @ k.mT) / math.sqrt(depth)).softmax(-1) @ v)
    out = torch.cat(outs, -1) @ attn.proj.weight.T + attn.proj.bias
    return out[:, : embeddings.shape[1]]


def test_prompts_in_keys_and_values_equal_attending_with_all_and_dropping_prompt_outputs():
    torch.manual_seed(0)
    stage = MixTransformer(CONFIG.backbone).double().stages[3]  # no spatial reduction here
    block = stage.blocks[0]
    tokens = torch.randn(2, 35, 24, dtype=torch.float64, requires_grad=True)
    prompts = torch.randn(2, 4, 24, dtype=torch.float64, requires_grad=True)
    ours = block.attn(block.norm1(tokens), (5, 7), block.prompt_kv(prompts))
    theirs = naive_prompt_attention(block.attn, block.norm1(tokens), block.norm1(prompts), 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    weight = torch.randn_like(ours)
    ours_grads = torch.autograd.grad((ours * weight).sum(), (tokens, prompts))
    theirs_grads = torch.autograd.grad((theirs * weight).sum(), (tokens, prompts))
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_prompts_join_behind_the_spatial_reduction():
    torch.manual_seed(0)
    block = MixTransformer(CONFIG.backbone).double().stages[1].blocks[0]
    tokens, prompts = torch.randn(2, 8 * 12, 16).double(), torch.randn(2, 4, 16).double()
    attn, normed = block.attn, block.norm1(tokens)
    reduced = attn.sr(normed.mT.reshape(2, 16, 8, 12)).flatten(2).mT
    context = torch.cat([attn.sr_norm(reduced), block.norm1(prompts)], 1)
    key, value = attn.kv(context).chunk(2, -1)
    out = 0
    for head in range(2):
        own = slice(8 * head, 8 * head + 8)
        weights = (attn.q(normed)[..., own] @ key[..., own].mT / math.sqrt(8)).softmax(-1)
        out = out + (weights @ value[..., own]) @ attn.proj.weight[:, own].T
    ours = attn(normed, (8, 12), block.prompt_kv(prompts))
    torch.testing.assert_close(ours, out + attn.proj.bias, rtol=1e-9, atol=1e-12)


def test_no_prompts_are_the_plain_encoder():
    stage = MixTransformer(CONFIG.backbone).double().eval().stages[2]
    features = torch.randn(2, 16, 9, 11, dtype=torch.float64)
    nothing = stage.prompt_kv(torch.zeros(2, 0, 20, dtype=torch.float64))
    assert nothing.shape == (2, 2, 0, 40)
    torch.testing.assert_close(stage(features, nothing), stage(features), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        (Pairing.ALIGNED, "rx"),
        (Pairing.CROSS_MODAL, "xr"),
        (Pairing.RGB_DOMINANT, "rr"),
    ],
)
def test_pairing(pairing, expected):
    by_letter = {"r": torch.randn(2, E), "x": torch.randn(2, E)}
    paired = pair_embeddings(pairing, by_letter["r"], by_letter["x"])
    assert torch.equal(paired, torch.cat([by_letter[letter] for letter in expected]))


@pytest.mark.parametrize("part", ["prompts", "refinement"])
@pytest.mark.parametrize("pairing", Pairing)
def test_pairing_decides_which_embedding_matters(part, pairing):
    other = "refinement" if part == "prompts" else "prompts"
    fixed = getattr(CONFIG, other).model_copy(update={"pairing": Pairing.RGB_DOMINANT})
    chosen = getattr(CONFIG, part).model_copy(update={"pairing": pairing})
    model = build(**{part: chosen, other: fixed})
    rgb, x, rgb_embedding, x_embedding, modality = inputs(2)
    with torch.no_grad():
        before = model(rgb, x, rgb_embedding, x_embedding, modality)
        after = model(rgb, x, rgb_embedding, x_embedding.roll(1, 0), modality)
    assert torch.equal(before, after) == (pairing is Pairing.RGB_DOMINANT)


def test_rgb_has_one_set_of_aligned_prompts_and_every_modality_its_own():
    modality = torch.tensor([Modality.DEPTH.index, Modality.EVENT.index])
    assert stream_indices(modality).tolist() == [0, 0, 1 + Modality.DEPTH.index, 1]
    model = build()
    assert model.prompts[0].aligned.shape == (1 + len(MODALITIES), 2, 8)
    rgb, x, rgb_embedding, x_embedding, modality = inputs(2)
    with torch.no_grad():
        model.prompts[0].aligned[1 + Modality.LIGHT_FIELD.index] += 1
        before = model(rgb, x, rgb_embedding, x_embedding, modality)
        model.prompts[0].aligned[1 + Modality.EVENT.index] += torch.randn(2, 8)
        after = model(rgb, x, rgb_embedding, x_embedding, modality)
    assert not torch.equal(before[0], after[0])  # modality 0 is event
    assert torch.equal(before[1], after[1])


def test_prompt_counts_and_order():
    model = build()
    embedding, stream = torch.randn(4, E).double(), torch.tensor([0, 0, 1, 3])
    prompts = model.prompts[1](embedding, stream)
    assert prompts.shape == (4, 3 + 2, 16)
    assert torch.equal(prompts[:, 3:], model.prompts[1].aligned[stream])
    scaled = model.prompts[1](embedding * 7 + 2, stream)
    torch.testing.assert_close(
        scaled, prompts, rtol=1e-4, atol=1e-4
    )  # the embedding is normalised


def test_mixed_batch_equals_one_by_one():
    model = build()
    batch = inputs(5)
    with torch.no_grad():
        together = model(*batch)
        for i in range(5):
            alone = model(*(part[i : i + 1] for part in batch))
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-9)


def test_scene_made_once_serves_many_frames():
    model = build()
    rgb, x, *scene_inputs = inputs(2)
    with torch.no_grad():
        scene = model.encode_scene(*scene_inputs)
        for frame in (rgb, rgb.flip(-1)):
            kept = model.segment(frame, x, scene)
            assert torch.equal(kept, model(frame, x, *scene_inputs))
    depths = CONFIG.backbone.depths
    widths = CONFIG.backbone.embed_dims
    for kv, depth, width in zip(scene.prompt_kv, depths, widths, strict=True):
        assert kv.shape == (depth, 4, 5, 2 * width)
    assert [query.shape for query in scene.queries] == [(4, 24, 2, 3)] * CONFIG.refinement.depth


def test_config_survives_a_round_trip():
    assert from_mapping(ModelConfig, to_plain(CONFIG)) == CONFIG
