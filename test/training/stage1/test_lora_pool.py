"""peft and open_clip beside our own tower; open_clip takes seconds to import, hence one module."""

import pytest
import torch

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.clip_weights import load_clip_weights, load_image_tower
from segrgbx_core.model.lora import pool_layers
from segrgbx_core.model.ma_clip import CLIP_PRESETS, CUSTOM, MaClipConfig, ModalityAwareClip
from segrgbx_core.model.tensor_files import read_weights

pytestmark = pytest.mark.clip

TINY = CLIP_PRESETS["tiny"]
SMALL = MaClipConfig(
    tower=CUSTOM, image_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2, output_dim=48
)


@pytest.fixture(scope="module")
def open_clip():
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def lora():
    pytest.importorskip("peft")
    from training.stage1 import lora

    return lora


def open_clip_model(open_clip, quick_gelu=False, image_size=32):
    torch.manual_seed(3)
    vision = {
        "image_size": image_size,
        "layers": 2,
        "width": 128,
        "head_width": 64,
        "patch_size": 8,
    }
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    model = open_clip.CLIP(48, vision, text, quick_gelu=quick_gelu)
    with (
        torch.no_grad()
    ):  # what an untrained CLIP leaves at zero or one would hide swapped tensors
        for name, parameter in model.visual.named_parameters():
            if "ln_" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_tower_equals_open_clips_after_conversion(open_clip, quick_gelu):
    theirs = open_clip_model(open_clip, quick_gelu)
    ours = ModalityAwareClip(SMALL.model_copy(update={"quick_gelu": quick_gelu}))
    load_image_tower(ours.tower, theirs.state_dict())
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.embed(images, torch.tensor([0, 1, 2])),
            theirs.encode_image(images),
            atol=1e-5,
            rtol=1e-5,
        )


def test_the_activation_matters(open_clip):
    theirs = open_clip_model(open_clip, quick_gelu=True)
    ours = ModalityAwareClip(SMALL)
    load_image_tower(ours.tower, theirs.state_dict())
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        gap = ours.embed(images, torch.tensor([0])) - theirs.encode_image(images)
    assert gap.abs().max() > 1e-3


def test_files_of_open_clip_load(open_clip, tmp_path):
    theirs = open_clip_model(open_clip)
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "clip.pt")
    ours = ModalityAwareClip(SMALL)
    load_clip_weights(ours, tmp_path / "clip.pt")
    torch.testing.assert_close(ours.tower.head.weight, theirs.visual.proj.T)
    (tmp_path / "text.pt").write_text("no weights")
    with pytest.raises(CheckpointError, match="is not a file of plain weights"):
        load_clip_weights(ours, tmp_path / "text.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_clip_weights(ours, tmp_path / "missing.pt")


def test_position_embeddings_of_another_grid_are_resampled(open_clip):
    theirs = open_clip_model(open_clip, image_size=64)
    ours = ModalityAwareClip(SMALL)
    load_image_tower(ours.tower, theirs.state_dict())
    class_position = theirs.visual.positional_embedding[0]
    torch.testing.assert_close(ours.tower.pos_embed[0, 0], class_position)


def test_left_over_tensors_are_refused(open_clip):
    state = open_clip_model(open_clip).state_dict()
    ours = ModalityAwareClip(SMALL)
    with pytest.raises(CheckpointError, match=r"'visual\.surprise' has no counterpart"):
        load_image_tower(ours.tower, {**state, "visual.surprise": torch.zeros(1)})
    state.pop("visual.transformer.resblocks.1.mlp.c_fc.bias")
    with pytest.raises(CheckpointError, match=r"missing, first 'blocks\.1\.mlp\.fc1\.bias'"):
        load_image_tower(ours.tower, state)


def test_timm_towers_inside_open_clip_load(open_clip):
    torch.manual_seed(0)
    # A tower of SigLIP's kind: attention pooling, no class token, no projection.
    state = {f"visual.trunk.{k}": v for k, v in _siglip_like().state_dict().items()}
    tower = _siglip_like()
    load_image_tower(tower, {**state, "logit_bias": torch.zeros(1)})
    for name, tensor in tower.state_dict().items():
        assert torch.equal(tensor, state[f"visual.trunk.{name}"])


def _siglip_like():
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    return VisionTransformer(**sizes, class_token=False, global_pool="map", num_classes=0)


def tiny_pool(lora, **options):
    torch.manual_seed(0)
    ma_clip = ModalityAwareClip(TINY)
    pool = lora.TrainingPool(ma_clip, **options)
    with torch.no_grad():
        for parameter in pool.adapter_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return ma_clip, pool


def test_peft_merged_and_mixed_forms_are_equal(lora):
    ma_clip, pool = tiny_pool(lora)
    pool.write_to(ma_clip)
    pool.eval()
    rgb, x = torch.rand(5, 3, 40, 40), torch.rand(5, 3, 50, 30)
    mixed = ma_clip(rgb, x, torch.arange(5))
    for i, modality in enumerate(MODALITIES):
        with torch.no_grad():
            peft_rgb, peft_x = pool(rgb[i : i + 1], modality), pool(x[i : i + 1], modality)
        ma_clip.merge(modality)
        merged = ma_clip(rgb[i : i + 1], x[i : i + 1], torch.tensor([modality.index]))
        ma_clip.unmerge()
        for peft, one, many in zip((peft_rgb, peft_x), merged, mixed, strict=True):
            torch.testing.assert_close(one, peft, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(many[i : i + 1], peft, atol=1e-5, rtol=1e-4)


def test_a_new_pool_equals_the_base(lora):
    torch.manual_seed(0)
    ma_clip = ModalityAwareClip(TINY)
    pool = lora.TrainingPool(ma_clip).eval()
    images = torch.rand(2, 3, 64, 64)
    base = ma_clip.embed(ma_clip.prepare(images), torch.tensor([-1, -1]))
    for modality in MODALITIES:
        torch.testing.assert_close(pool(images, modality), base)


def test_training_goes_on_from_learned_adapters(lora):
    ma_clip, pool = tiny_pool(lora)
    pool.write_to(ma_clip)
    again = lora.TrainingPool(ma_clip).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(again(images, Modality.DEPTH), pool.eval()(images, Modality.DEPTH))


def test_only_the_active_adapter_learns(lora):
    _, pool = tiny_pool(lora)
    before = {name: tensor.clone() for name, tensor in pool.state_dict().items()}
    optimizer = torch.optim.AdamW(pool.adapter_parameters(), lr=1e-2)
    pool.train()
    pool(torch.rand(2, 3, 64, 64), Modality.THERMAL).square().mean().backward()
    optimizer.step()
    changed = {n for n, t in pool.state_dict().items() if not torch.equal(before[n], t)}
    assert changed
    assert all(name.endswith(".thermal.weight") for name in changed)
    assert len(changed) == 2 * 4 * TINY.depth


def test_targets_are_the_run_time_pools_layers(lora):
    ma_clip, pool = tiny_pool(lora)
    layers = {name for name, _ in pool_layers(ma_clip.tower)}
    tensors = pool.adapter_tensors(Modality.EVENT)
    assert {name.rsplit(".", 2)[0] for name in tensors} == layers


def test_absent_modalities_are_refused(lora):
    _, pool = tiny_pool(lora, modalities=[Modality.THERMAL])
    with pytest.raises(ConfigError, match="none for depth"):
        pool(torch.rand(1, 3, 64, 64), Modality.DEPTH)
    with pytest.raises(ConfigError, match="lora_rank above 0"):
        lora.TrainingPool(ModalityAwareClip(TINY.model_copy(update={"lora_rank": 0})))


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP as transformers writes it, and its image embeddings."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = ModalityAwareClip(SMALL).tower
    width, depth = shape.cls_token.shape[-1], len(shape.blocks)
    heads = shape.blocks[0].attn.num_heads
    vision = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth,
        "num_attention_heads": heads, "image_size": SMALL.image_size,
        "patch_size": shape.patch_embed.proj.kernel_size[0], "hidden_act": "gelu",
    }  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 50,
            "num_attention_heads": 2}  # fmt: skip
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=text, projection_dim=SMALL.output_dim
    )
    public = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for values in public.parameters():
            values += 0.05 * torch.randn_like(values)
    public.save_pretrained(tmp_path / "clip")
    images = torch.randn(2, 3, SMALL.image_size, SMALL.image_size)
    with torch.no_grad():
        seen = public.vision_model(pixel_values=images).pooler_output
        return tmp_path / "clip", images, public.visual_projection(seen)


def test_folders_of_transformers_load(clip_folder):
    folder, images, embeddings = clip_folder
    ours = ModalityAwareClip(SMALL)
    for path in (folder, folder / "model.safetensors"):
        load_clip_weights(ours, path)
        with torch.no_grad():
            got = ours.embed(images, torch.tensor([0, 1]))
        torch.testing.assert_close(got, embeddings, atol=1e-5, rtol=1e-5)


def test_another_activation_is_refused(clip_folder):
    folder, _, _ = clip_folder
    other = ModalityAwareClip(SMALL.model_copy(update={"quick_gelu": True}))
    with pytest.raises(CheckpointError, match="hidden_act is gelu; the tower has quick_gelu"):
        load_clip_weights(other, folder)


def test_transformers_names_are_checked(clip_folder):
    folder, _, _ = clip_folder
    state, ours = read_weights(folder), ModalityAwareClip(SMALL)
    gone = "vision_model.encoder.layers.0.self_attn.k_proj.bias"
    short = {name: values for name, values in state.items() if name != gone}
    with pytest.raises(CheckpointError, match=r"'k_proj' is missing; our 'blocks.0.attn.qkv.bias"):
        load_image_tower(ours.tower, short)
    with pytest.raises(CheckpointError, match=r"'vision_model.other.weight' has no counterpart"):
        load_image_tower(ours.tower, {**state, "vision_model.other.weight": torch.zeros(1)})
