"""SegRGB-X (Fig. 2): one network that segments RGB together with any complementary modality X.

Dimensions: B pairs, 2B images (all RGB, then all X: one batch through shared weights), H W pixels,
E width of an MA-CLIP embedding, D_i channels of stage i = 1..4, H_i W_i its map, K prompts,
C classes.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from segrgbx_core.config import Config, option
from segrgbx_core.model.backbone import BackboneConfig, MixTransformer, Stage, init_weights
from segrgbx_core.model.fusion import FeatureFusion, FeatureRectify
from segrgbx_core.model.head import HeadConfig, MlpHead, resize
from segrgbx_core.model.prompts import PromptConfig, StagePrompts, pair_embeddings, stream_indices
from segrgbx_core.model.refinement import DomainSpecificRefinement, RefinementConfig

MIN_SIDE = 32
"""Shortest image side in pixels; below it stage 4 has no pixel."""

# Mean and standard deviation of each channel.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class ModelConfig(Config):
    """Architecture of the segmentation network; the defaults are the paper's model."""

    backbone: BackboneConfig = BackboneConfig()
    prompts: PromptConfig = PromptConfig()
    refinement: RefinementConfig = RefinementConfig()
    head: HeadConfig = HeadConfig()
    use_ma_clip: bool = option(True, doc="embeddings steer prompts and refinement (Table VI)")
    use_aligned_prompts: bool = option(True, doc="learned prompts per modality (Table VI)")
    use_dsrm: bool = option(True, doc="refinement in stage 4 (Table VI)")
    normalise_x: bool = option(True, doc="X gets the ImageNet normalisation that RGB always gets")

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> ModelConfig:
        heads = (*self.backbone.num_heads, self.refinement.num_heads)
        widths = (*self.backbone.embed_dims, self.backbone.embed_dims[-1])
        for width, count in zip(widths, heads, strict=True):
            if width % count:
                raise ValueError(f"width {width} is not divisible by its {count} attention heads")
        return self


class Scene(NamedTuple):
    """What depends on embeddings and modalities alone; a vehicle may keep it for some frames.

    Attributes:
        prompt_kv: per stage, prompts as keys and values of every block, (blocks, 2B, K, 2 D_i).
        queries: per DSRM, its spatial query on a small grid, (2B, D_4, h, w).
    """

    prompt_kv: tuple[Tensor, ...]
    queries: tuple[Tensor, ...]


class SegRGBX(nn.Module):
    """General RGB-X segmentation; every pair of a batch may have another modality."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        widths = config.backbone.embed_dims
        self.config = config
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.backbone = MixTransformer(config.backbone)
        self.prompts = nn.ModuleList(
            StagePrompts(
                config.prompts, embed_dim, width, config.use_ma_clip, config.use_aligned_prompts
            )
            for width in widths
        )
        self.rectify = nn.ModuleList(FeatureRectify(width) for width in widths)
        self.fuse = nn.ModuleList(
            FeatureFusion(width, heads)
            for width, heads in zip(widths, config.backbone.num_heads, strict=True)
        )
        depth = config.refinement.depth if config.use_dsrm else 0
        self.refine = DomainSpecificRefinement(config.refinement, widths[-1], embed_dim, depth)
        for part in (self.prompts, self.rectify, self.fuse, self.refine):
            part.apply(init_weights)
        self.head: nn.Module = MlpHead(config.head, widths, num_classes)
        # Without MA-CLIP the DSRM still needs a query: a learned vector replaces the embeddings.
        learns_scene = depth > 0 and not config.use_ma_clip
        self.learned_scene = nn.Parameter(torch.randn(embed_dim)) if learns_scene else None
        x_norm = _IMAGENET if config.normalise_x else _IDENTITY
        mean, std = torch.tensor([_IMAGENET, x_norm]).unbind(1)  # (2, 3): RGB, X
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(
        self, rgb: Tensor, x: Tensor, rgb_embedding: Tensor, x_embedding: Tensor, modality: Tensor
    ) -> Tensor:
        """Segments a batch of pairs.

        Args:
            rgb: RGB images (B, 3, H, W) in [0, 1], both sides at least 32 pixels.
            x: X images of the same shape and range.
            rgb_embedding: S^r of MA-CLIP (B, E).
            x_embedding: S^m of MA-CLIP (B, E).
            modality: int64 (B,), `Modality.index` of each pair.

        Returns:
            Logits (B, C, H, W).
        """
        return self.segment(rgb, x, self.encode_scene(rgb_embedding, x_embedding, modality))

    def encode_scene(self, rgb_embedding: Tensor, x_embedding: Tensor, modality: Tensor) -> Scene:
        """What the embeddings have to say to `segment`; arguments as in `forward`."""
        if self.learned_scene is not None:
            rgb_embedding = x_embedding = self.learned_scene.expand_as(rgb_embedding)
        embeddings = (rgb_embedding, x_embedding)
        control = pair_embeddings(self.config.prompts.pairing, *embeddings)  # (2B, E)
        refine = pair_embeddings(self.config.refinement.pairing, *embeddings)  # (2B, E)
        stream = stream_indices(modality)  # (2B,)
        prompt_kv = tuple(
            cast("Stage", stage).prompt_kv(prompts(control, stream))  # (blocks, 2B, K, 2 D_i)
            for stage, prompts in zip(self.backbone.stages, self.prompts, strict=True)
        )
        return Scene(prompt_kv, self.refine.queries(refine))

    def segment(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """Logits (B, C, H, W) of image pairs in a known scene; images as in `forward`."""
        return resize(self.coarse_logits(rgb, x, scene), rgb.shape[-2:])

    def coarse_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """Logits (B, C, H_1, W_1) before they are brought to full size, a quarter of each side."""
        if rgb.shape != x.shape or min(rgb.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f"images: rgb {tuple(rgb.shape)} and x {tuple(x.shape)}; "
                f"expected equal (B, 3, H, W) with sides of at least {MIN_SIDE} pixels"
            )
        images = torch.unflatten(torch.cat([rgb, x]), 0, (2, -1))  # (2, B, 3, H, W)
        mean, std = (part[:, None, :, None, None] for part in (self.mean, self.std))
        features = ((images - mean) / std).flatten(0, 1)  # (2B, 3, H, W)
        fused = []
        for index, stage in enumerate(self.backbone.stages):
            features = stage(features, scene.prompt_kv[index])  # (2B, D_i, H_i, W_i)
            if index == len(self.backbone.stages) - 1:
                features = self.refine(features, scene.queries)
            rgb_features, x_features = self.rectify[index](*split_streams(features))
            fused.append(self.fuse[index](rgb_features, x_features))  # (B, D_i, H_i, W_i)
            features = torch.cat([rgb_features, x_features])
        return self.head(fused)

    def fold_head(self) -> None:
        """Replaces the head by its cheaper equal for inference; not to be trained or saved."""
        if isinstance(self.head, MlpHead):
            self.head = self.head.folded()


def split_streams(features: Tensor) -> tuple[Tensor, Tensor]:
    """Maps of all images (2B, C, H, W) to those of RGB and those of X, each (B, C, H, W)."""
    # Not chunk: it would bake the batch size into an exported graph.
    rgb_features, x_features = torch.unflatten(features, 0, (2, -1)).unbind(0)
    return rgb_features, x_features
