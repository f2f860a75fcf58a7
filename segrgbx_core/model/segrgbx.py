"""SegRGB-X (Fig. 2): one network that segments RGB together with any complementary modality X.

Dimensions: B pairs, 2B images (all RGB, then all X: one batch through shared weights), H W pixels,
E width of an MA-CLIP embedding, D_i channels of stage i = 1..4, H_i W_i its map, K prompts,
C classes.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from segrgbx_core.base.config import Config, option
from segrgbx_core.model.backbone import (
    AnyBackboneConfig,
    BackboneConfig,
    LiteBackboneConfig,
    LiteEncoder,
    LiteStage,
    MixTransformer,
    Stage,
    check_heads,
    init_normal,
    init_weights,
)
from segrgbx_core.model.fusion import FeatureFusion, FeatureRectify
from segrgbx_core.model.head import HeadConfig, MlpHead
from segrgbx_core.model.network import CENTRED, IMAGENET, RgbxNetwork, Scene, split_streams
from segrgbx_core.model.prompts import PromptConfig, StagePrompts, pair_embeddings, stream_indices
from segrgbx_core.model.refinement import DomainSpecificRefinement, RefinementConfig


class ModelConfig(Config):
    """Architecture of the segmentation network; the defaults are the paper's model."""

    architecture: Literal["segrgbx"] = option("segrgbx", doc="which network")
    backbone: AnyBackboneConfig = option(BackboneConfig(), doc="the encoder, shared by RGB and X")
    prompts: PromptConfig = PromptConfig()
    refinement: RefinementConfig = RefinementConfig()
    head: HeadConfig = HeadConfig()
    use_ma_clip: bool = option(True, doc="embeddings steer prompts and refinement (Table VI)")
    use_aligned_prompts: bool = option(True, doc="learned prompts per modality (Table VI)")
    use_dsrm: bool = option(True, doc="refinement in stage 4 (Table VI)")
    normalise_x: bool = option(True, doc="X gets the ImageNet normalisation that RGB always gets")

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> ModelConfig:
        check_heads(self.backbone.embed_dims[-1:], (self.refinement.num_heads,))
        rows, columns = self.refinement.position_grid
        for width in (self.backbone.embed_dims[-1], rows * columns):
            self.refinement.hidden_width(width)
        return self


class SegRGBX(RgbxNetwork):
    """General RGB-X segmentation; every pair of a batch may have another modality."""

    def __init__(self, config: ModelConfig, num_classes: int, embed_dim: int) -> None:
        is_lite = isinstance(config.backbone, LiteBackboneConfig)
        norm = CENTRED if is_lite else IMAGENET
        super().__init__(num_classes, embed_dim, config.normalise_x, norm)
        widths = config.backbone.embed_dims
        self.config = config
        self.needs_embeddings = config.use_ma_clip
        self.backbone = build_encoder(config.backbone)
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
        if is_lite:  # else gates and DSRM would shift what the ImageNet weights see
            for gates in self.rectify:
                cast("FeatureRectify", gates).start_nearly_closed()
            self.refine.start_as_identity()
        self.head = MlpHead(config.head, widths, num_classes)
        # Without MA-CLIP the DSRM still needs a query: a learned vector replaces the embeddings.
        learns_scene = depth > 0 and not config.use_ma_clip
        self.learned_scene = nn.Parameter(torch.empty(embed_dim)) if learns_scene else None
        if self.learned_scene is not None:
            init_normal(self.learned_scene)

    def encode_scene(self, rgb_embedding: Tensor, x_embedding: Tensor, modality: Tensor) -> Scene:
        """Prompts and queries from the embeddings; arguments as in `forward`."""
        if self.learned_scene is not None:
            rgb_embedding = x_embedding = self.learned_scene.expand_as(rgb_embedding)
        embeddings = (rgb_embedding, x_embedding)
        control = pair_embeddings(self.config.prompts.pairing, *embeddings)  # (2B, E)
        refine = pair_embeddings(self.config.refinement.pairing, *embeddings)  # (2B, E)
        stream = stream_indices(modality)  # (2B,)
        prompt_kv = tuple(
            # (blocks, 2B, K, 2 D_i)
            cast("Stage | LiteStage", stage).prompt_kv(prompts(control, stream))
            for stage, prompts in zip(self.backbone.stages, self.prompts, strict=True)
        )
        return Scene(prompt_kv, self.refine.queries(refine))

    def coarse_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """Logits (B, C, H_1, W_1) before they are brought to full size, a quarter of each side."""
        features = self.normalised(rgb, x)  # (2B, 3, H, W)
        fused = []
        for index, stage in enumerate(self.backbone.stages):
            features = stage(features, scene.prompt_kv[index])  # (2B, D_i, H_i, W_i)
            if index == len(self.backbone.stages) - 1:
                features = self.refine(features, scene.queries)
            rgb_features, x_features = self.rectify[index](*split_streams(features))
            fused.append(self.fuse[index](rgb_features, x_features))  # (B, D_i, H_i, W_i)
            features = torch.cat([rgb_features, x_features])
        return self.head(fused)

    def add_modality(self) -> None:
        """See `RgbxNetwork`."""
        for prompts in self.prompts:
            cast("StagePrompts", prompts).add_modality()

    def fold(self) -> None:
        """See `RgbxNetwork`."""
        super().fold()
        self.refine.fold()
        if isinstance(self.backbone, LiteEncoder):
            self.backbone.fold()


def build_encoder(config: BackboneConfig) -> MixTransformer | LiteEncoder:
    """The encoder of a config, with random weights."""
    if isinstance(config, LiteBackboneConfig):
        return LiteEncoder(config)
    return MixTransformer(config)
