"""Public weights of the baselines into our names, strictly, and ImageNet weights into encoders.

A table says how our names become those of a public checkpoint: a name passes through all its rows
in order. `<i>` is the number of a stage as public code counts, one more than ours.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from segrgbx_core.model.backbone import MixTransformer
from segrgbx_core.model.baselines.cmnext import CMNeXt
from segrgbx_core.model.baselines.cmx import CMX
from segrgbx_core.model.baselines.geminifusion import GeminiFusion
from segrgbx_core.model.baselines.segformer import SegFormer
from segrgbx_core.model.baselines.segformer_weights import code_base_of
from segrgbx_core.model.baselines.stitchfusion import StitchFusion
from segrgbx_core.model.weights import (
    CMX_FUSION,
    Rows,
    Sources,
    State,
    fill_strictly,
    load_encoder_weights,
    renamed,
    separated,
    without_prefix,
)

Baseline: TypeAlias = CMX | CMNeXt | GeminiFusion | StitchFusion | SegFormer

_MIT: Rows = (
    (r"^backbone\.stages\.(\d)\.patch_embed\.", r"backbone.patch_embed<\1>."),
    (r"^backbone\.stages\.(\d)\.blocks\.", r"backbone.block<\1>."),
    (r"^backbone\.stages\.(\d)\.norm\.", r"backbone.norm<\1>."),
    (r"\.attn\.sr_norm\.", ".attn.norm."),
    (r"\.mlp\.dwconv\.", ".mlp.dwconv.dwconv."),
)
# CMX's second encoder is the first one's twin.
_X_MIT: Rows = (
    (r"^x_backbone\.stages\.(\d)\.patch_embed\.", r"backbone.extra_patch_embed<\1>."),
    (r"^x_backbone\.stages\.(\d)\.blocks\.", r"backbone.extra_block<\1>."),
    (r"^x_backbone\.stages\.(\d)\.norm\.", r"backbone.extra_norm<\1>."),
)
_DUAL_FUSION: Rows = tuple((rf"^{ours}\.", f"{theirs}.") for ours, theirs in CMX_FUSION)
_CMNEXT_X: Rows = (
    (r"^x_backbone\.stages\.(\d)\.proj\.", r"backbone.extra_downsample_layers.\1.proj.module."),
    (
        r"^x_backbone\.stages\.(\d)\.patch_norm\.",
        r"backbone.extra_downsample_layers.\1.norm.ln_0.",
    ),
    (r"^x_backbone\.stages\.(\d)\.norm\.", r"backbone.extra_norm<\1>."),
    (r"^x_backbone\.stages\.(\d)\.blocks\.", r"backbone.extra_block<\1>."),
    (r"\.attn\.local\.", ".attn.conv0."),
    (r"\.attn\.mix\.", ".attn.conv4."),
    (r"\.attn_scale$", ".layer_scale_1"),
    (r"\.mlp_scale$", ".layer_scale_2"),
    (r"(extra_block.*)\.mlp\.0\.", r"\1.mlp.fc1."),
    (r"(extra_block.*)\.mlp\.1\.", r"\1.mlp.dwconv.dwconv."),
    (r"(extra_block.*)\.mlp\.3\.", r"\1.mlp.fc2."),
    (r"(extra_block.*)\.gate\.", r"\1.c_nets.0."),
)
_GEMINI: Rows = (
    (r"(norm(?:\d|<\d>)?)\.rgb\.", r"\1.ln_0."),
    (r"(norm(?:\d|<\d>)?)\.x\.", r"\1.ln_1."),
    (r"^(backbone.*)\.(proj|q|kv|sr|fc1|fc2)\.(weight|bias)$", r"\1.\2.module.\3"),
    (r"\.exchange\.relation\.0\.", ".relation_judger.0.fc1."),
    (r"\.exchange\.relation\.2\.", ".relation_judger.0.fc2."),
    (r"\.exchange\.rgb\.", ".cross_attn_0_to_1."),
    (r"\.exchange\.x\.", ".cross_attn_1_to_0."),
    (r"\.in_proj\.(weight|bias)$", r".in_proj_\1"),
    (r"\.exchange\.(k|v)_noise$", r".\1_noise.weight"),
)
# The main branch names the two halves of the network otherwise than the DELIVER branch.
_GEMINI_MAIN: Rows = ((r"^backbone\.", "encoder."), (r"^decode_head\.", "decoder."))
_STITCH: Rows = (
    (r"\.down\.", ".adapter_down."),
    (r"\.mid\.", ".adapter_mid."),
    (r"\.up\.", ".adapter_up."),
    (r"^fuse\.(\d)\.join\.", r"backbone.feature_cross.liner_fusion_layers.\1."),
    (r"^fuse\.(\d)\.gate\.", r"backbone.feature_cross.channel_attns.\1.fc."),
    (r"^fuse\.(\d)\.", r"backbone.feature_cross.mix_ffn.\1."),
    (r"\.mix([12])\.0\.", r".pwconv\1.pwconv."),
    (r"\.mix([12])\.1\.", r".pwconv\1.bn."),
    (r"\.around\.0\.", ".dwconv3.dwconv."),
    (r"\.around\.1\.", ".dwconv5.dwconv."),
    (r"\.around\.2\.", ".dwconv7.dwconv."),
)
_STITCH_ADAPTERS: Rows = (
    (r"\.attn_adapters\.0\.", ".adap_t_att12."),
    (r"\.attn_adapters\.1\.", ".adap_t_att21."),
    (r"\.mlp_adapters\.0\.", ".adap_t_mlp12."),
    (r"\.mlp_adapters\.1\.", ".adap_t_mlp21."),
)
# Some released files name no pair; with one X that is the same adapter.
_STITCH_SHARED: Rows = (
    (r"\.attn_adapters\.0\.", ".adap_t."),
    (r"\.mlp_adapters\.0\.", ".adap2_t."),
)


def load_released_weights(
    model: Baseline, state: State, classifier: bool = True, where: str = "weights"
) -> None:
    """Fills a baseline with a checkpoint that its authors' code wrote.

    Args:
        model: the network; untouched when the weights do not fit.
        state: the file's tensors, see `tensor_files.read_weights`.
        classifier: False leaves the last layer out, for another set of classes.
        where: put before every message, such as the file's name.

    Raises:
        CheckpointError: naming the first tensor that is missing, of another shape or unknown.
    """
    state = without_prefix(state, "module.")
    last = "head.classifier."
    left_out: tuple[str, ...]
    if isinstance(model, SegFormer):
        code_base = code_base_of(state, where)
        state, sources = separated(state), code_base.sources
        left_out = code_base.left_out if classifier else (*code_base.left_out, code_base.last)
    else:
        rows = _rows(model, state)
        left_out = () if classifier else (renamed(last, rows),)

        def sources(name: str) -> Sources:
            return (renamed(name, rows),)

    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if classifier or not name.startswith(last)
    }
    fill_strictly(model, expected, sources, state, left_out, where)


def load_imagenet_weights(model: Baseline, state: State, where: str = "weights") -> str:
    """Fills every Mix Transformer of a baseline; weights without an ImageNet counterpart stay.

    CMX gets the weights into both encoders, GeminiFusion each norm into its two, CMNeXt into the
    RGB encoder alone, as its X encoder is of another kind. Arguments and errors as in
    `weights.load_encoder_weights`; returns what that returns.
    """
    plain = MixTransformer(model.config.backbone)
    title = load_encoder_weights(plain, state, where)
    known = plain.state_dict()
    encoders = [model.backbone, model.x_backbone] if isinstance(model, CMX) else [model.backbone]
    for encoder in encoders:
        plain_names = {
            name: re.sub(r"(norm\d?)\.(rgb|x)\.", r"\1.", name) for name in encoder.state_dict()
        }
        encoder.load_state_dict(
            {name: known[theirs] for name, theirs in plain_names.items() if theirs in known},
            strict=False,
        )
    return title


def _rows(model: CMX | CMNeXt | GeminiFusion | StitchFusion, state: State) -> Rows:
    head = _head("0", "1") if "decode_head.linear_fuse.0.weight" in state else _head("conv", "bn")
    if isinstance(model, CMX):
        return (*_MIT, *_X_MIT, *_DUAL_FUSION, *head)
    if isinstance(model, CMNeXt):
        return (*_MIT, *_CMNEXT_X, *_DUAL_FUSION, *head)
    if isinstance(model, GeminiFusion):
        main = _GEMINI_MAIN if any(name.startswith("encoder.") for name in state) else ()
        return (*_MIT, *_GEMINI, *head, *main)
    shared = any(".adap_t." in name for name in state)
    return (*_MIT, *(_STITCH_SHARED if shared else _STITCH_ADAPTERS), *_STITCH, *head)


def _head(conv: str, norm: str) -> Rows:
    return (
        (r"^head\.projections\.(\d)\.", r"decode_head.linear_c<\1>.proj."),
        (r"^head\.fuse\.", f"decode_head.linear_fuse.{conv}."),
        (r"^head\.norm\.", f"decode_head.linear_fuse.{norm}."),
        (r"^head\.classifier\.", "decode_head.linear_pred."),
    )
