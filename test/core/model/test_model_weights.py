"""Public weights find their places, and wrong files are refused by name."""

from __future__ import annotations

import pytest
import torch

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer
from segrgbx_core.model.segrgbx import ModelConfig, SegRGBX
from segrgbx_core.model.tensor_files import read_weights, write_tensors
from segrgbx_core.model.weights import load_cmx_weights, load_encoder_weights

SMALL = BackboneConfig(embed_dims=(8, 16, 20, 24), depths=(1, 2, 1, 1), num_heads=(1, 2, 5, 3))


def image(height=70, width=93):
    return torch.randn(2, 3, height, width, dtype=torch.float64)


def hugging_face(config=SMALL):
    """A random public implementation of the same encoder, with noise on what starts constant."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    public = transformers.SegformerModel(
        transformers.SegformerConfig(
            hidden_sizes=list(config.embed_dims),
            depths=list(config.depths),
            num_attention_heads=list(config.num_heads),
            sr_ratios=list(config.sr_ratios),
            mlp_ratios=[int(ratio) for ratio in config.mlp_ratios],
        )
    )
    with torch.no_grad():
        for parameter in public.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return public.double().eval()


def hugging_face_maps(public, pixels):
    with torch.no_grad():
        return public(pixels, output_hidden_states=True).hidden_states[-4:]


def old_hugging_face_names(state):
    """Names as they lie in the hub's files, from those of a loaded model."""
    pairs = (
        (".layernorm_before", ".layer_norm_1"), (".layernorm_after", ".layer_norm_2"),
        ("attention.q_proj", "attention.self.query"), ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("attention.sequence_reduction.sequence_reduction", "attention.self.sr"),
        ("attention.sequence_reduction.layer_norm", "attention.self.layer_norm"),
        ("mlp.fc1", "mlp.dense1"), ("mlp.fc2", "mlp.dense2"),
    )  # fmt: skip
    old = {}
    for name, value in state.items():
        parts = name.split(".")
        stage, kind = parts[1], parts[2]
        rest = ".".join(parts[3:])
        if kind == "patch_embeddings":
            name = f"encoder.patch_embeddings.{stage}.{rest}"
        elif kind == "layer_norm":
            name = f"encoder.layer_norm.{stage}.{rest}"
        else:
            name = f"encoder.block.{stage}.{rest}"
        for new_part, old_part in pairs:
            name = name.replace(new_part, old_part)
        old[f"segformer.{name}"] = value
    return {**old, "classifier.weight": torch.zeros(10, 24), "classifier.bias": torch.zeros(10)}


def nvidia_names(state):
    """Names of the original SegFormer release, key and value in one."""
    new = {}
    for name, value in state.items():
        parts = name.split(".")
        n, kind, rest = int(parts[1]) + 1, parts[2], ".".join(parts[3:])
        if kind == "patch_embeddings":
            new[f"patch_embed{n}.{rest.replace('layer_norm', 'norm')}"] = value
        elif kind == "layer_norm":
            new[f"norm{n}.{rest}"] = value
        elif "attention.v_proj" not in name:
            if "attention.k_proj" in name:
                value = torch.cat([value, state[name.replace("k_proj", "v_proj")]])
            for theirs, ours in (
                ("layernorm_before", "norm1"), ("layernorm_after", "norm2"),
                ("attention.q_proj", "attn.q"), ("attention.k_proj", "attn.kv"),
                ("attention.o_proj", "attn.proj"),
                ("attention.sequence_reduction.sequence_reduction", "attn.sr"),
                ("attention.sequence_reduction.layer_norm", "attn.norm"),
            ):  # fmt: skip
                rest = rest.replace(theirs, ours)
            new[f"block{n}.{rest}"] = value
    return {**new, "head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}


NAMES = {
    "transformers >= 5": lambda state: state,
    "transformers < 5": old_hugging_face_names,
    "NVIDIA": nvidia_names,
    "data parallel": lambda state: {f"module.{k}": v for k, v in nvidia_names(state).items()},
}


@pytest.mark.clip
@pytest.mark.parametrize("family", NAMES)
def test_encoder_equals_the_public_one(family):
    public = hugging_face()
    # The public model norms with 1e-5 everywhere, the original release with 1e-6 in blocks.
    ours = MixTransformer(SMALL.model_copy(update={"block_norm_eps": 1e-5})).double().eval()
    title = load_encoder_weights(ours, NAMES[family](public.state_dict()))
    assert title
    pixels = image()
    with torch.no_grad():
        maps = ours(pixels)
    for a, b in zip(maps, hugging_face_maps(public, pixels), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_pvt_v2_equals_timm():
    timm = pytest.importorskip("timm")
    config = BackboneConfig(
        embed_dims=(8, 16, 24, 32), depths=(1, 1, 2, 1), num_heads=(1, 2, 3, 4),
        mlp_ratios=(8.0, 8.0, 4.0, 4.0),
    )  # fmt: skip
    torch.manual_seed(0)
    public = timm.create_model(
        "pvt_v2_b2", pretrained=False, features_only=True,
        embed_dims=config.embed_dims, depths=config.depths, num_heads=config.num_heads,
    ).double().eval()  # fmt: skip
    ours = MixTransformer(config).double().eval()
    state = {
        name.replace("stages_", "stages."): value for name, value in public.state_dict().items()
    }
    assert load_encoder_weights(ours, state) == "PVTv2 (timm)"
    pixels = image(64, 96)
    with torch.no_grad():
        for a, b in zip(ours(pixels), public(pixels), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.fixture
def own_names():
    """Weights of a small encoder in NVIDIA's names, without transformers."""
    state = {}
    for name, value in MixTransformer(SMALL).state_dict().items():
        parts = name.split(".")
        n, rest = int(parts[1]) + 1, ".".join(parts[3:])
        rest = rest.replace("attn.sr_norm", "attn.norm").replace("mlp.dwconv", "mlp.dwconv.dwconv")
        frames = {"patch_embed": "patch_embed", "blocks": "block", "norm": "norm"}
        state[f"{frames[parts[2]]}{n}.{rest}"] = value
    return state


def test_wrong_files_are_refused_by_their_first_wrong_tensor(own_names):
    encoder = MixTransformer(SMALL)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}

    def refuse(state, message):
        with pytest.raises(CheckpointError, match=message):
            load_encoder_weights(encoder, state, where="mit_b9.pth")

    short = {k: v for k, v in own_names.items() if k != "block2.1.attn.sr.weight"}
    refuse(
        short, r"mit_b9.pth: 'block2.1.attn.sr.weight' is missing; our 'stages.1.blocks.1.attn.sr"
    )
    refuse(
        {**own_names, "block2.2.norm1.weight": torch.ones(16)}, r"'block2.2.norm1.weight' and 0"
    )
    wide = {**own_names, "block1.0.attn.q.weight": torch.ones(8, 9)}
    refuse(wide, r"'block1.0.attn.q.weight' gives shape \(8, 9\); our .* needs \(8, 8\)")
    refuse(
        {"conv1.weight": torch.ones(3)}, "is no MiT or PVTv2 encoder: begins with 'conv1.weight'"
    )
    refuse({}, "begins with 'nothing'")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_cmx_of_another_size_is_refused():
    model = SegRGBX(ModelConfig(backbone=SMALL), num_classes=3, embed_dim=4)
    with pytest.raises(
        CheckpointError, match=r"cmx.pth: 'backbone.patch_embed1.proj.weight' is miss"
    ):
        load_cmx_weights(
            model, {"backbone.patch_embed1.norm.bias": torch.ones(8)}, where="cmx.pth"
        )


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model"])
def test_files_are_read_plain_or_wrapped(tmp_path, own_names, wrapper):
    path = tmp_path / "mit.pth"
    torch.save({wrapper: own_names, "epoch": 3} if wrapper else own_names, path)
    encoder = MixTransformer(SMALL)
    load_encoder_weights(encoder, read_weights(path))
    assert torch.equal(encoder.stages[0].norm.weight, own_names["norm1.weight"])


def test_safetensors_files_are_read(tmp_path, own_names):
    write_tensors(tmp_path / "mit.safetensors", own_names, {})
    assert read_weights(tmp_path / "mit.safetensors").keys() == own_names.keys()


class Payload:
    """Stands for any object a pickle may smuggle in."""


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "mit.pth"
    with pytest.raises(CheckpointError, match="does not exist"):
        read_weights(path)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="is not a file of plain weights"):
        read_weights(path)
    torch.save({"state_dict": Payload()}, path)
    with pytest.raises(CheckpointError, match="is not a file of plain weights"):
        read_weights(path)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_weights(path)
