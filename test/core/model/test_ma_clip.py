import copy

import pytest
import torch

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.model.adapter_files import load_adapter, load_adapters, save_adapter
from segrgbx_core.model.clip_weights import load_image_tower
from segrgbx_core.model.lora import adapter_tensors, is_target, pool_layers, set_adapter
from segrgbx_core.model.ma_clip import CLIP_PRESETS, MaClipConfig, ModalityAwareClip, build_tower

TINY = CLIP_PRESETS["tiny"]


def tiny(seed=0, adapters=True, **changes):
    torch.manual_seed(seed)
    ma_clip = ModalityAwareClip(TINY.model_copy(update=changes))
    if adapters:
        for _, layer in pool_layers(ma_clip.tower):
            torch.nn.init.normal_(layer.lora_up, std=0.05)
    return ma_clip


def pairs(count=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    rgb = torch.rand(count, 3, 40, 56, generator=generator)
    x = torch.rand(count, 3, 30, 30, generator=generator)
    return rgb, x


def index(*modalities):
    return torch.tensor([modality.index for modality in modalities])


def test_zero_initialised_pool_equals_the_plain_tower():
    ma_clip = tiny(adapters=False)
    plain = build_tower(TINY).eval()
    plain.load_state_dict(
        {k: v for k, v in ma_clip.tower.state_dict().items() if ".lora_" not in k}
    )
    images = torch.randn(2, 3, 64, 64)
    for modality in MODALITIES:
        assert torch.equal(ma_clip.embed(images, index(modality, modality)), plain(images))


def test_pool_sits_on_block_linears_only():
    ma_clip = tiny()
    names = [name for name, _ in pool_layers(ma_clip.tower)]
    assert len(names) == 4 * TINY.depth
    assert not is_target("patch_embed.proj", torch.nn.Linear(1, 1))
    assert not is_target("attn_pool.proj", torch.nn.Linear(1, 1))
    assert type(ma_clip.tower.patch_embed.proj) is torch.nn.Conv2d
    assert type(ma_clip.tower.head) is torch.nn.Linear


def test_pool_size_matches_the_sum_of_layer_widths():
    pool = sum(p.numel() for n, p in tiny().named_parameters() if ".lora_" in n)
    width, rank = TINY.embed_dim, TINY.lora_rank
    per_block = (width + 3 * width) + (width + width) + 2 * (width + 4 * width)
    assert pool == len(MODALITIES) * rank * per_block * TINY.depth


def test_mixed_batch_equals_one_modality_at_a_time():
    ma_clip = tiny()
    rgb, x = pairs(5)
    mixed = ma_clip(rgb, x, index(*MODALITIES))
    for i, modality in enumerate(MODALITIES):
        alone = ma_clip(rgb[i : i + 1], x[i : i + 1], index(modality))
        torch.testing.assert_close(mixed[0][i : i + 1], alone[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(mixed[1][i : i + 1], alone[1], atol=1e-5, rtol=1e-4)


def test_adapters_differ_and_serve_both_images_of_a_pair():
    ma_clip = tiny()
    rgb, x = pairs(1)
    thermal = ma_clip(rgb, x, index(Modality.THERMAL))
    depth = ma_clip(rgb, x, index(Modality.DEPTH))
    assert (thermal[0] - depth[0]).abs().max() > 1e-3
    assert (thermal[1] - depth[1]).abs().max() > 1e-3


def test_index_outside_the_pool_is_the_base():
    ma_clip, base = tiny(), tiny(lora_rank=0)
    base.load_state_dict({k: v for k, v in ma_clip.state_dict().items() if ".lora_" not in k})
    rgb, x = pairs(2)
    chosen = torch.tensor([-1, -1])
    torch.testing.assert_close(ma_clip(rgb, x, chosen)[0], base(rgb, x, chosen)[0])


@pytest.mark.parametrize("modality", MODALITIES)
def test_merged_equals_mixed_and_unmerging_is_exact(modality):
    ma_clip = tiny()
    before = copy.deepcopy(ma_clip.state_dict())
    rgb, x = pairs()
    chosen = index(modality, modality, modality)
    mixed = ma_clip(rgb, x, chosen)
    ma_clip.merge(Modality.EVENT)
    ma_clip.merge(modality)
    merged = ma_clip(rgb, x, chosen)
    for one, other in zip(mixed, merged, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    ma_clip.unmerge()
    assert all(torch.equal(before[k], v) for k, v in ma_clip.state_dict().items())


def test_merging_for_good_answers_alike_and_is_final():
    ma_clip = tiny()
    rgb, x = pairs(1)
    chosen = index(Modality.DEPTH)
    expected = ma_clip(rgb, x, chosen)[0]
    ma_clip.merge(Modality.DEPTH, keep_base=False)
    torch.testing.assert_close(ma_clip(rgb, x, chosen)[0], expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="depth was merged for good"):
        ma_clip.merge(Modality.EVENT)


def test_without_a_pool_there_is_nothing_to_merge():
    ma_clip = tiny(lora_rank=0)
    ma_clip.merge(Modality.DEPTH)
    assert ma_clip.merged is None
    ma_clip.unmerge()


def test_stays_frozen_under_train_and_optimisation():
    ma_clip = tiny()
    parent = torch.nn.ModuleDict({"clip": ma_clip, "head": torch.nn.Linear(64, 2)})
    before = copy.deepcopy(ma_clip.state_dict())
    parent.train()
    parent.requires_grad_(True)
    assert not any(module.training for module in ma_clip.modules())
    optimizer = torch.optim.AdamW(parent.parameters(), lr=0.1, weight_decay=0.1)
    rgb_embedding, x_embedding = ma_clip(*pairs(), index(*[Modality.DEPTH] * 3))
    parent["head"](rgb_embedding + x_embedding).square().mean().backward()
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in ma_clip.state_dict().items())


def test_a_failing_forward_leaves_it_usable():
    ma_clip = tiny()
    rgb, x = pairs(1)
    chosen = index(Modality.THERMAL)
    expected = ma_clip(rgb, x, chosen)
    handle = ma_clip.tower.blocks[1].register_forward_hook(_raise)
    with pytest.raises(RuntimeError, match="out of memory"):
        ma_clip(rgb, x, index(Modality.DEPTH))
    handle.remove()
    assert ma_clip.selection.mask is None
    assert torch.equal(ma_clip(rgb, x, chosen)[0], expected[0])


def _raise(*_):
    raise RuntimeError("out of memory")


def test_images_of_any_size_become_the_towers_input():
    ma_clip = tiny()
    prepared = ma_clip.prepare(torch.ones(1, 3, 17, 250))
    assert prepared.shape == (1, 3, 64, 64)
    white = (1 - torch.tensor(TINY.mean)) / torch.tensor(TINY.std)
    torch.testing.assert_close(prepared[0, :, 5, 5], white)


def test_half_precision_tower_answers_in_float32():
    ma_clip = tiny()
    rgb, x = pairs(1)
    exact = ma_clip(rgb, x, index(Modality.EVENT))[0]
    ma_clip.tower.to(torch.bfloat16)
    rough = ma_clip(rgb, x, index(Modality.EVENT))[0]
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(exact, rough).min() > 0.99


def test_exports_for_every_modality():
    ma_clip = tiny()
    rgb, x = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    program = torch.export.export(ma_clip, (rgb, x, index(Modality.EVENT, Modality.DEPTH)))
    other = index(Modality.THERMAL, Modality.LIGHT_FIELD)
    torch.testing.assert_close(program.module()(rgb, x, other)[1], ma_clip(rgb, x, other)[1])
    assert ma_clip.selection.mask is None


@pytest.mark.parametrize("name", CLIP_PRESETS)
def test_presets_build_and_answer(name):
    config = CLIP_PRESETS[name]
    with torch.device("meta"):
        ma_clip = ModalityAwareClip(config)
        embedding, _ = ma_clip(
            torch.rand(1, 3, 50, 60), torch.rand(1, 3, 9, 9), torch.zeros(1).long()
        )
    assert embedding.shape == (1, config.output_dim)
    assert ma_clip.embed_dim == config.output_dim


def test_tiny_is_tiny_and_b16_is_the_papers_size():
    assert 0.3e6 < sum(p.numel() for p in tiny().parameters()) < 0.6e6
    with torch.device("meta"):
        tower = build_tower(CLIP_PRESETS["vit_b16"])
    # open_clip counts 86 192 640; timm's projection has a bias (loaded as zero).
    assert sum(p.numel() for p in tower.parameters()) == 86_192_640 + 512


def test_wrong_towers_are_refused():
    with pytest.raises(ConfigError, match="vit_nonsense"):
        build_tower(MaClipConfig(tower="vit_nonsense"))
    with pytest.raises(ConfigError, match="multiple of patch_size"):
        build_tower(TINY.model_copy(update={"image_size": 65}))
    with pytest.raises(CheckpointError, match="no layer"):
        ModalityAwareClip(MaClipConfig(tower="resnet18", image_size=64))


def test_adapter_files_carry_one_modality(tmp_path):
    source, target = tiny(), tiny(adapters=False)
    before = adapter_tensors(target.tower, Modality.DEPTH)
    before = {name: tensor.clone() for name, tensor in before.items()}
    path = tmp_path / "thermal.safetensors"
    save_adapter(path, source, Modality.THERMAL)
    assert path.stat().st_size < 200_000
    assert load_adapter(path, target) is Modality.THERMAL
    rgb, x = pairs(1)
    chosen = index(Modality.THERMAL)
    assert torch.equal(source(rgb, x, chosen)[0], target(rgb, x, chosen)[0])
    after = adapter_tensors(target.tower, Modality.DEPTH)
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_a_folder_of_adapters(tmp_path):
    source, target = tiny(), tiny(adapters=False)
    for modality in MODALITIES:
        save_adapter(tmp_path / f"{modality}.safetensors", source, modality)
    assert set(load_adapters(tmp_path, target)) == set(MODALITIES)
    assert torch.equal(
        source(*pairs(5), index(*MODALITIES))[1], target(*pairs(5), index(*MODALITIES))[1]
    )
    with pytest.raises(CheckpointError, match="holds no adapter"):
        load_adapters(tmp_path / "elsewhere", target)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"image_size": 128}, "image_size"),
        ({"lora_alpha": 1.0}, "lora_alpha"),
        ({"lora_rank": 2}, "lora_rank"),
        ({"quick_gelu": True}, "quick_gelu"),
    ],
)
def test_adapters_of_another_preprocessing_are_refused(tmp_path, change, named):
    save_adapter(tmp_path / "a.safetensors", tiny(), Modality.EVENT)
    with pytest.raises(CheckpointError, match=named):
        load_adapter(tmp_path / "a.safetensors", tiny(**change))


def test_adapters_of_another_base_are_refused(tmp_path):
    save_adapter(tmp_path / "a.safetensors", tiny(), Modality.EVENT)
    with pytest.raises(CheckpointError, match="base_hash"):
        load_adapter(tmp_path / "a.safetensors", tiny(seed=5))


def test_base_hash_survives_half_storage_and_ignores_the_pool():
    ma_clip = tiny()
    name = ma_clip.base_hash()
    assert tiny(seed=0, adapters=False).base_hash() == name
    ma_clip.tower.to(torch.float16)
    assert ma_clip.base_hash() == name


def test_incomplete_adapters_are_refused():
    ma_clip = tiny()
    tensors = adapter_tensors(ma_clip.tower, Modality.EVENT)
    first = sorted(tensors)[0]
    del tensors[first]
    with pytest.raises(CheckpointError, match=f"missing, first '{first}'"):
        set_adapter(ma_clip.tower, Modality.EVENT, tensors)


def test_timm_weights_load_and_keep_the_pool():
    ma_clip, plain = tiny(), build_tower(TINY).eval()
    pool = {k: v.clone() for k, v in ma_clip.state_dict().items() if ".lora_" in k}
    load_image_tower(ma_clip.tower, plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ma_clip.embed(images, torch.tensor([-1])), plain(images))
    assert all(torch.equal(pool[k], ma_clip.state_dict()[k]) for k in pool)


def test_weights_that_do_not_fit_are_refused():
    ma_clip = tiny()
    state = build_tower(TINY).state_dict()
    with pytest.raises(CheckpointError, match="no image tower"):
        load_image_tower(ma_clip.tower, {"text_projection": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="1 unexpected, first 'extra'"):
        load_image_tower(ma_clip.tower, {**state, "extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"'norm\.weight' has shape"):
        load_image_tower(ma_clip.tower, {**state, "norm.weight": torch.zeros(3)})
