"""CMX: two encoders that correct each other after every stage and meet in a fused map.

Dimensions: B pairs, H W pixels, D_i channels of stage i, H_i W_i its map, C classes.

Source: Zhang et al., CMX, T-ITS 2023. With the epsilons and the head of DELIVER (see
`CmxConfig`) it is that project's version of CMX.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer, init_weights
from segrgbx_core.model.fusion import FeatureFusion, FeatureRectify
from segrgbx_core.model.head import HeadConfig, MlpHead
from segrgbx_core.model.network import PairNetwork, split_streams


class CmxConfig(Config):
    """Architecture of CMX; the defaults are CMX-B2 as published.

    DELIVER's version: `backbone.block_norm_eps` 1e-5, `head.fuse_bias` off, `head.norm_eps` 1e-5.
    CMX's own evaluation runs with `head.norm_eps` 1e-5 on weights trained with 1e-3.
    """

    use_ma_clip: ClassVar[bool] = False

    architecture: Literal["cmx"] = option("cmx", doc="which network")
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    normalise_x: bool = option(True, doc="X gets the ImageNet normalisation that RGB always gets")
    bgr: bool = option(
        False, doc="images are turned to blue, green, red first, as CMX's released weights expect"
    )


class DualEncoder(PairNetwork):
    """An encoder per stream; rectified maps go on to the next stage, fused maps to the head."""

    def __init__(
        self,
        backbone: BackboneConfig,
        x_backbone: nn.Module,
        head: HeadConfig,
        num_classes: int,
        embed_dim: int,
        normalise_x: bool,
    ) -> None:
        super().__init__(num_classes, embed_dim, normalise_x)
        widths = backbone.embed_dims
        self.backbone = MixTransformer(backbone)
        self.x_backbone = x_backbone
        self.rectify = nn.ModuleList(FeatureRectify(width) for width in widths)
        self.fuse = nn.ModuleList(
            FeatureFusion(width, heads)
            for width, heads in zip(widths, backbone.num_heads, strict=True)
        )
        for part in (self.rectify, self.fuse):
            part.apply(init_weights)
        self.head = MlpHead(head, widths, num_classes)

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Logits (B, C, H_1, W_1) before they are brought to full size, a quarter of each side."""
        rgb_features, x_features = split_streams(self.normalised(rgb, x))  # (B, 3, H, W)
        fused = []
        x_stages = cast("nn.ModuleList", self.x_backbone.stages)
        for rgb_stage, x_stage, rectify, fuse in zip(
            self.backbone.stages, x_stages, self.rectify, self.fuse, strict=True
        ):
            rgb_features, x_features = rectify(rgb_stage(rgb_features), x_stage(x_features))
            fused.append(fuse(rgb_features, x_features))  # (B, D_i, H_i, W_i)
        return self.head(fused)


class CMX(DualEncoder):
    """CMX: both encoders are Mix Transformers."""

    def __init__(self, config: CmxConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__(
            config.backbone,
            MixTransformer(config.backbone),
            config.head,
            num_classes,
            embed_dim,
            config.normalise_x,
        )
        self.config = config

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """As `DualEncoder`, in the channel order of the weights."""
        if self.config.bgr:
            rgb, x = rgb.flip(1), x.flip(1)
        return super().pair_logits(rgb, x)
