"""The networks that the paper compares with, built from our backbone, fusion and head.

They are called as `SegRGBX` is and ignore embeddings and modality, so that training, evaluation,
`Segmenter` and bench can take any of them. Each follows its publication; where published code
and clean code part, the difference is an option of its config.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from segrgbx_core.model.backbone import BackboneConfig
from segrgbx_core.model.baselines.cmnext import CMNeXt, CmnextConfig
from segrgbx_core.model.baselines.cmx import CMX, CmxConfig
from segrgbx_core.model.baselines.geminifusion import GeminiFusion, GeminifusionConfig
from segrgbx_core.model.baselines.segformer import SegFormer, SegformerConfig
from segrgbx_core.model.baselines.stitchfusion import StitchFusion, StitchfusionConfig
from segrgbx_core.model.network import RgbxNetwork

__all__ = [
    "BASELINE_PRESETS",
    "CMX",
    "MIT_SIZES",
    "BaselineConfig",
    "CMNeXt",
    "CmnextConfig",
    "CmxConfig",
    "GeminiFusion",
    "GeminifusionConfig",
    "SegFormer",
    "SegformerConfig",
    "StitchFusion",
    "StitchfusionConfig",
    "build_baseline",
]

BaselineConfig: TypeAlias = (
    CmxConfig | CmnextConfig | GeminifusionConfig | StitchfusionConfig | SegformerConfig
)

MIT_SIZES: dict[str, dict[str, Any]] = {
    "b0": {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)},
    "b1": {"depths": (2, 2, 2, 2)},
    "b2": {"depths": (3, 4, 6, 3)},
    "b3": {"depths": (3, 4, 18, 3)},
    "b4": {"depths": (3, 8, 27, 3)},
    "b5": {"depths": (3, 6, 40, 3)},
}
"""Shapes of Mix Transformers by name."""
_TINY = {"embed_dims": (24, 48, 80, 112), "depths": (1, 2, 2, 2), "num_heads": (1, 2, 4, 4)}
_NARROW = {"tiny": 64, "b0": 256, "b1": 256}
"""Widths of the head where they are not the default's."""


def _presets() -> dict[str, BaselineConfig]:
    presets: dict[str, BaselineConfig] = {}
    kinds: tuple[type[BaselineConfig], ...] = (
        CmxConfig,
        CmnextConfig,
        GeminifusionConfig,
        StitchfusionConfig,
        SegformerConfig,
    )
    for kind in kinds:
        default = kind()
        sizes = MIT_SIZES if kind is SegformerConfig else ("b0", "b1", "b2")
        for size in ("tiny", *sizes):
            shape = MIT_SIZES.get(size, _TINY)
            backbone = BackboneConfig.model_validate({**default.backbone.model_dump(), **shape})
            # GeminiFusion's main branch keeps the head at 256.
            width = min(_NARROW.get(size, default.head.embed_dim), default.head.embed_dim)
            head = default.head.model_copy(update={"embed_dim": width})
            presets[f"{default.architecture}_{size}"] = default.model_copy(
                update={"backbone": backbone, "head": head}
            )
    return presets


BASELINE_PRESETS = _presets()
"""Sizes by name, such as `cmx_b2`; `tiny` serves tests."""


def build_baseline(config: BaselineConfig, num_classes: int, embed_dim: int) -> RgbxNetwork:
    """A baseline with random weights; arguments as in `build_model`."""
    if isinstance(config, CmxConfig):
        return CMX(config, num_classes, embed_dim)
    if isinstance(config, CmnextConfig):
        return CMNeXt(config, num_classes, embed_dim)
    if isinstance(config, GeminifusionConfig):
        return GeminiFusion(config, num_classes, embed_dim)
    if isinstance(config, StitchfusionConfig):
        return StitchFusion(config, num_classes, embed_dim)
    return SegFormer(config, num_classes, embed_dim)
