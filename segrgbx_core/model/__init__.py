"""The networks of segrgbx and the presets that name their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, overload

from pydantic import Discriminator, Tag

from segrgbx_core.model.backbone import BackboneConfig, LiteBackboneConfig
from segrgbx_core.model.baselines import (
    BASELINE_PRESETS,
    BaselineConfig,
    CmnextConfig,
    CmxConfig,
    GeminifusionConfig,
    SegformerConfig,
    StitchfusionConfig,
    build_baseline,
)
from segrgbx_core.model.head import HeadConfig
from segrgbx_core.model.network import RgbxNetwork, Scene
from segrgbx_core.model.prompts import PromptConfig
from segrgbx_core.model.refinement import RefinementConfig
from segrgbx_core.model.segrgbx import ModelConfig, SegRGBX

__all__ = [
    "ALL_PRESETS",
    "BASELINE_PRESETS",
    "PRESETS",
    "AnyModelConfig",
    "BaselineConfig",
    "ModelConfig",
    "RgbxNetwork",
    "Scene",
    "SegRGBX",
    "build_model",
]


def _architecture(value: Any) -> str:
    """Which network a config or its plain values describe; files older than the choice do not."""
    if isinstance(value, Mapping):
        return str(value.get("architecture", "segrgbx"))
    return str(getattr(value, "architecture", ""))


AnyModelConfig: TypeAlias = Annotated[
    Annotated[ModelConfig, Tag("segrgbx")]
    | Annotated[CmxConfig, Tag("cmx")]
    | Annotated[CmnextConfig, Tag("cmnext")]
    | Annotated[GeminifusionConfig, Tag("geminifusion")]
    | Annotated[StitchfusionConfig, Tag("stitchfusion")]
    | Annotated[SegformerConfig, Tag("segformer")],
    Discriminator(
        _architecture,
        custom_error_type="architecture",
        custom_error_message="architecture is not one of segrgbx, cmx, cmnext, geminifusion, "
        "stitchfusion, segformer",
    ),
]
"""The config of SegRGB-X or of a baseline, distinguished by `architecture`."""

_TINY = ModelConfig(
    backbone=BackboneConfig(
        embed_dims=(24, 48, 80, 112), depths=(1, 2, 2, 2), num_heads=(1, 2, 4, 4), drop_path=0.05
    ),
    prompts=PromptConfig(num_control=2, num_aligned=2),
    refinement=RefinementConfig(
        num_heads=4, mlp_ratio=2.0, query_grid=(2, 2), query_hidden=64, position_grid=(8, 10)
    ),
    head=HeadConfig(embed_dim=64),
)


_LITE0 = ModelConfig(
    backbone=LiteBackboneConfig(embed_dims=(24, 40, 112, 96), drop_path=0.0),
    prompts=PromptConfig(num_control=2, num_aligned=2),
    refinement=RefinementConfig(
        depth=1,
        num_heads=4,
        mlp_ratio=2.0,
        query_grid=(2, 2),
        query_hidden=64,
        position_grid=(8, 10),
    ),
    head=HeadConfig(embed_dim=64),
)


_PAPER = ModelConfig(
    backbone=BackboneConfig(patch_norm_eps=1e-5, block_norm_eps=1e-5),
    refinement=RefinementConfig(
        depth=4,
        mlp_ratio=8.0,
        shares_prompts=True,
        num_universal=5,
        universal_grid=(16, 16),
        universal_hidden=128,
        universal_conv=True,
    ),
    head=HeadConfig(fuse_bias=False, norm_eps=1e-5),
    normalise_x=False,
)
"""The paper's model in the code base of DeLiVER, with the DSRM of Table IV (docs/paper.md)."""


def _mit(depths: tuple[int, int, int, int]) -> ModelConfig:
    return ModelConfig(backbone=BackboneConfig(depths=depths))


PRESETS: dict[str, ModelConfig] = {
    "tiny": _TINY,
    "lite0": _LITE0,
    "b0": ModelConfig(
        backbone=BackboneConfig(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
        refinement=RefinementConfig(mlp_ratio=4.0),
        head=HeadConfig(embed_dim=256),
    ),
    "b1": ModelConfig(
        backbone=BackboneConfig(depths=(2, 2, 2, 2)),
        refinement=RefinementConfig(mlp_ratio=4.0),
        head=HeadConfig(embed_dim=256),
    ),
    "b2": _mit((3, 4, 6, 3)),
    "b3": _mit((3, 4, 18, 3)),
    "b4": _mit((3, 8, 27, 3)),
    "b5": _mit((3, 6, 40, 3)),
    "paper": _PAPER,
    "pvt_v2_b2": ModelConfig(backbone=BackboneConfig(mlp_ratios=(8.0, 8.0, 4.0, 4.0))),
}
"""Sizes by name; the paper's size is `b2`, with CMX's details, and `paper`, with those of the
DELIVER code base. `tiny` serves tests and the demo.

`lite0` is beyond the paper: EfficientNet-lite0 takes an ImageNet start that anybody may use.
"""


ALL_PRESETS: dict[str, AnyModelConfig] = {**PRESETS, **BASELINE_PRESETS}
"""SegRGB-X by size and baselines by name and size, such as `b2` and `cmx_b2`."""


@overload
def build_model(config: ModelConfig, num_classes: int, embed_dim: int) -> SegRGBX: ...


@overload
def build_model(config: AnyModelConfig, num_classes: int, embed_dim: int) -> RgbxNetwork: ...


def build_model(config: AnyModelConfig, num_classes: int, embed_dim: int) -> RgbxNetwork:
    """A network with random weights.

    Args:
        config: architecture, such as `PRESETS["b2"]`.
        num_classes: classes of the unified label space.
        embed_dim: width of the MA-CLIP embeddings.
    """
    if isinstance(config, ModelConfig):
        return SegRGBX(config, num_classes, embed_dim)
    return build_baseline(config, num_classes, embed_dim)
