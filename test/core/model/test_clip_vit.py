"""The usual CLIP towers are timm's, name by name and value by value, without importing timm."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from segrgbx_core.model.backbone import DropPath
from segrgbx_core.model.clip_vit import ClipVit, VitShape
from segrgbx_core.model.ma_clip import CLIP_PRESETS, build_tower
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import random_checkpoint

SHAPE = VitShape(width=32, depth=2, num_heads=4, patch_size=8)


def timms(quick_gelu, output_dim):
    vit = pytest.importorskip("timm.models.vision_transformer")
    layers = pytest.importorskip("timm.layers")
    return vit.VisionTransformer(
        img_size=40, patch_size=8, embed_dim=32, depth=2, num_heads=4, num_classes=output_dim,
        pre_norm=True, norm_layer=partial(layers.LayerNorm, eps=1e-5),
        act_layer=layers.QuickGELU if quick_gelu else nn.GELU,
    ).eval()  # fmt: skip


@pytest.mark.parametrize(("quick_gelu", "output_dim"), [(False, 16), (True, 16), (False, 0)])
def test_values_are_timms(quick_gelu, output_dim):
    torch.manual_seed(0)
    theirs = timms(quick_gelu, output_dim).double()
    ours = ClipVit(SHAPE, 40, output_dim, quick_gelu).double().eval()
    for parameter in theirs.parameters():  # biases and the class token are near zero at first
        nn.init.normal_(parameter, std=0.2)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vit_b16", "vit_b16_quickgelu", "vit_b32", "vit_b32_quickgelu"])
def test_named_towers_have_timms_tensors(name):
    timm = pytest.importorskip("timm")
    config = CLIP_PRESETS[name]
    with torch.device("meta"):
        ours = build_tower(config)
        theirs = timm.create_model(config.tower, num_classes=config.output_dim)
    assert type(ours) is ClipVit
    shapes = [{key: value.shape for key, value in t.state_dict().items()} for t in (ours, theirs)]
    assert shapes[0] == shapes[1]
    assert ours.patch_embed.grid_size == theirs.patch_embed.grid_size
    acts = [type(tower.blocks[0].mlp.act).__name__ for tower in (ours, theirs)]
    assert acts[0] == acts[1]
    assert ours.norm.eps == theirs.norm.eps
    assert ours.blocks[0].attn.num_heads == theirs.blocks[0].attn.num_heads


def test_first_weights_spread_as_timms():
    torch.manual_seed(0)
    ours, theirs = ClipVit(SHAPE, 40, 16).state_dict(), timms(False, 16).state_dict()
    for name, tensor in theirs.items():
        assert ours[name].std(correction=0) == pytest.approx(
            tensor.std(correction=0).item(), rel=0.3, abs=1e-6
        ), name


def test_recomputed_blocks_have_the_same_gradients():
    torch.manual_seed(0)
    tower = ClipVit(SHAPE, 40, 16)
    images, gradients = torch.randn(2, 3, 40, 40), []
    for recompute in (False, True):
        tower.set_grad_checkpointing(recompute)
        tower.zero_grad()
        tower(images).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in tower.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_dropped_branches_are_timms():
    layers = pytest.importorskip("timm.layers")
    branch = torch.randn(64, 3, 5)
    for rate in (0.0, 0.3, 1.0):
        ours, theirs = DropPath(rate), layers.DropPath(rate)
        drawn = []
        for layer in (ours, theirs):
            torch.manual_seed(7)
            drawn.append(layer.train()(branch))
        torch.testing.assert_close(drawn[0], drawn[1])
        assert ours.eval()(branch) is branch


@pytest.mark.ros  # one process: an xdist worker that has run hundreds of tests ends here
def test_a_checkpoint_runs_without_timm_and_torchs_compiler(tmp_path):
    """Both cost a node seconds at start and hundreds of megabytes."""
    random_checkpoint(tmp_path / "tiny.safetensors", input=InputConfig(height=64, width=64))
    code = """
import sys
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from segrgbx_core.base.modality import Modality
config = InferenceConfig(device="cpu")
segmenter = Segmenter.from_checkpoint(sys.argv[1], config, merge_for=Modality.THERMAL)
segmenter.warm_up()
print(*sorted(sys.modules))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "tiny.safetensors")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert {"timm", "torchvision", "torch._dynamo", "sympy"} & set(run.stdout.split()) == set()
