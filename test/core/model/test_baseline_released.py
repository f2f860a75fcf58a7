"""Released weights find their places, whatever their branch; wrong files are refused by name."""

from __future__ import annotations

import pytest
import torch
from baseline_shapes import CLASSES, DEPTHS, DIMS, HEADS, HIDDEN, NAMES, WIDTH, random_weights

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer
from segrgbx_core.model.baselines import (
    CmnextConfig,
    CmxConfig,
    GeminifusionConfig,
    StitchfusionConfig,
    build_baseline,
)
from segrgbx_core.model.baselines.released import load_imagenet_weights, load_released_weights
from segrgbx_core.model.baselines.stitchfusion import AdapterConfig, Stitch
from segrgbx_core.model.tensor_files import read_weights

CONFIGS = dict(
    zip(NAMES, (CmxConfig, CmnextConfig, GeminifusionConfig, StitchfusionConfig), strict=True)
)
SHAPE = BackboneConfig(
    embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS, mlp_ratios=(float(HIDDEN),) * 4
)


def build(name, **changes):
    default = CONFIGS[name]()
    head = default.head.model_copy(update={"embed_dim": WIDTH})
    torch.manual_seed(0)
    return build_baseline(CONFIGS[name](backbone=SHAPE, head=head, **changes), CLASSES, 4)


@pytest.mark.parametrize(
    ("name", "branch"),
    [
        *((name, "") for name in NAMES),
        ("geminifusion", "deliver"),
        ("stitchfusion", "shared"),
        ("stitchfusion", "two"),
    ],
)
def test_every_tensor_of_a_released_file_is_used(name, branch, tmp_path):
    changes = {"adapter": AdapterConfig(stitch=Stitch.PER_DIRECTION)} if branch == "two" else {}
    model, weights = build(name, **changes).double(), random_weights(name, branch)
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "w.pth")
    load_released_weights(model, read_weights(tmp_path / "w.pth"))
    ours = sum(value.double().sum() for value in model.state_dict().values())
    theirs = sum(value.double().sum() for value in weights.values())
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-9)


def test_where_names_lead():
    weights = random_weights("cmnext")
    model = build("cmnext").double()
    load_released_weights(model, weights)
    block = model.x_backbone.stages[1].blocks[1]
    for ours, theirs in (
        (block.attn.local.weight, "backbone.extra_block2.1.attn.conv0.weight"),
        (block.mlp_scale, "backbone.extra_block2.1.layer_scale_2"),
        (
            model.x_backbone.stages[3].patch_norm.bias,
            "backbone.extra_downsample_layers.3.norm.ln_0.bias",
        ),
        (model.fuse[2].x.kv.weight, "backbone.FFMs.2.cross.cross_attn.kv2.weight"),
        (model.head.projections[3].weight, "decode_head.linear_c4.proj.weight"),
    ):  # fmt: skip
        assert torch.equal(ours, weights[theirs])


@pytest.mark.parametrize("name", NAMES)
def test_first_wrong_tensor_is_named_and_nothing_changes(name):
    model, weights = build(name).double(), random_weights(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gone = next(key for key in weights if "block3.0.norm1" in key)
    for change, message in (
        ({gone: None}, f"file.pth: '{gone}' is missing; our 'backbone.stages.2.blocks.0.norm1"),
        ({gone: torch.zeros(5)}, rf"'{gone}' gives shape \(5,\); our .* needs \(24,\)"),
        (
            {"backbone.extra_score_predictor.0": torch.zeros(1)},
            "'backbone.extra_score_.* no place",
        ),
    ):
        wrong = {k: v for k, v in {**weights, **change}.items() if v is not None}
        with pytest.raises(CheckpointError, match=message):
            load_released_weights(model, wrong, where="file.pth")
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", NAMES)
def test_other_classes_keep_their_classifier(name):
    model, weights = build(name).double(), random_weights(name)
    prefix = "decoder" if name == "geminifusion" else "decode_head"
    weights[f"{prefix}.linear_pred.weight"] = torch.zeros(9, WIDTH, 1, 1)
    before = model.head.classifier.weight.clone()
    with pytest.raises(CheckpointError, match=r"linear_pred\.weight' gives shape"):
        load_released_weights(model, weights)
    load_released_weights(model, weights, classifier=False)
    assert torch.equal(model.head.classifier.weight, before)
    fuse = "linear_fuse.0" if name == "cmx" else "linear_fuse.conv"
    assert torch.equal(model.head.fuse.weight, weights[f"{prefix}.{fuse}.weight"])


def test_weights_of_another_baseline_are_refused():
    with pytest.raises(CheckpointError, match="'alpha' is missing"):
        load_released_weights(build("geminifusion"), random_weights("cmx"))


def nvidia(config):
    """A plain encoder and its weights under SegFormer's names."""
    torch.manual_seed(5)
    plain = MixTransformer(config)
    names = {}
    for name, value in plain.state_dict().items():
        _, stage, rest = name.split(".", 2)
        n = int(stage) + 1
        for ours, theirs in (
            ("patch_embed.", f"patch_embed{n}."),
            ("blocks.", f"block{n}."),
            ("norm.", f"norm{n}."),
        ):
            if rest.startswith(ours):
                rest = theirs + rest.removeprefix(ours)
                break
        rest = rest.replace("attn.sr_norm", "attn.norm").replace("mlp.dwconv", "mlp.dwconv.dwconv")
        names[rest] = value
    return plain, names


@pytest.mark.parametrize("name", NAMES)
def test_imagenet_weights_fill_every_mix_transformer(name):
    model = build(name)
    plain, weights = nvidia(SHAPE)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    assert load_imagenet_weights(model, weights) == "SegFormer (NVIDIA)"
    known = plain.state_dict()
    encoders = ["backbone", "x_backbone"] if name == "cmx" else ["backbone"]
    filled = 0
    for key, value in model.state_dict().items():
        encoder, _, rest = key.partition(".")
        rest = rest.replace(".rgb.", ".").replace(".x.", ".")
        if encoder in encoders and rest in known and ".exchange." not in key:
            assert torch.equal(value, known[rest]), key
            filled += 1
        else:
            assert torch.equal(value, kept[key]), key
    norms = sum("norm" in key for key in known)
    expected = {"cmx": 2 * len(known), "geminifusion": len(known) + norms}
    assert filled == expected.get(name, len(known))


def test_imagenet_weights_of_another_size_are_refused():
    _, weights = nvidia(SHAPE.model_copy(update={"depths": (1, 1, 1, 1)}))
    with pytest.raises(CheckpointError, match=r"mit\.pth: 'block2\.1\.norm1\.weight' is missing"):
        load_imagenet_weights(build("cmx"), weights, where="mit.pth")
