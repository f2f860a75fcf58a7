"""What every network of this package shares: how it is called and how images enter it.

Dimensions: B pairs, 2B images (all RGB, then all X), H W pixels, H_1 W_1 a quarter of them,
E width of an embedding, C classes.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from segrgbx_core.model.head import MlpHead, resize

MIN_SIDE = 32
"""Shortest image side in pixels; below it stage 4 has no pixel."""
MULTIPLE = 32
"""Sides of images whose maps cover them exactly at every stage are multiples of this."""

Normalisation: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of each channel."""
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of the images of ImageNet, the usual one."""
CENTRED: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""To [-1, 1], what EfficientNet-lite's weights were trained with."""
_IDENTITY: Normalisation = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Scene(NamedTuple):
    """What depends on embeddings and modalities alone; a vehicle may keep it for some frames.

    Attributes:
        prompt_kv: per stage, prompts as keys and values of every block, (blocks, 2B, K, 2 D_i).
        queries: per DSRM, its spatial query on a small grid, (2B, D_4, h, w).
    """

    prompt_kv: tuple[Tensor, ...] = ()
    queries: tuple[Tensor, ...] = ()


class RgbxNetwork(nn.Module):
    """A network that segments RGB-X pairs; the interface of training, `Segmenter` and bench.

    Attributes:
        num_classes: classes of the unified label space.
        embed_dim: width of the embeddings that `forward` takes.
        needs_embeddings: False where embeddings change nothing and need not be computed.
        head: turns the fused maps into logits.
    """

    mean: Tensor
    std: Tensor
    head: nn.Module

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        normalise_x: bool,
        normalisation: Normalisation = IMAGENET,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.needs_embeddings = False
        self._normalisation = (normalisation, normalisation if normalise_x else _IDENTITY)
        self.reset_normalisation()

    def reset_normalisation(self) -> None:
        """Makes the constants of `normalised` anew, on the current device."""
        mean, std = torch.tensor(self._normalisation).unbind(1)  # (2, 3): RGB, X
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
            modality: int64 (B,), slot of each pair's modality, see `sensors.slot_of`.

        Returns:
            Logits (B, C, H, W).

        Raises:
            ValueError: when the images' shapes differ or a side is shorter than 32 pixels.
        """
        return self.segment(rgb, x, self.encode_scene(rgb_embedding, x_embedding, modality))

    def encode_scene(self, rgb_embedding: Tensor, x_embedding: Tensor, modality: Tensor) -> Scene:
        """The part of the network that depends on embeddings and modality alone.

        Arguments as in `forward`; a network without such a part has an empty scene.
        """
        raise NotImplementedError

    def segment(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """Logits (B, C, H, W) of image pairs in a known scene; images as in `forward`.

        Raises:
            ValueError: as `forward`.
        """
        return resize(self.coarse_logits(rgb, x, scene), rgb.shape[-2:])

    def coarse_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:
        """Logits (B, C, H_1, W_1) before they are brought to full size, a quarter of each side.

        Raises:
            ValueError: as `forward`.
        """
        raise NotImplementedError

    def training_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> tuple[Tensor, ...]:
        """All logits that training has a loss on, each (B, C, H_1, W_1); the losses add up.

        Raises:
            ValueError: as `forward`.
        """
        return (self.coarse_logits(rgb, x, scene),)

    def normalised(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Both images of every pair in one batch, (2B, 3, H, W), normalised per stream.

        Raises:
            ValueError: as `forward`.
        """
        check_pair(rgb, x)
        images = torch.unflatten(torch.cat([rgb, x]), 0, (2, -1))  # (2, B, 3, H, W)
        mean, std = (part[:, None, :, None, None] for part in (self.mean, self.std))
        return ((images - mean) / std).flatten(0, 1)  # (2B, 3, H, W)

    def normalised_rgb(self, rgb: Tensor, x: Tensor) -> Tensor:
        """The RGB images alone, (B, 3, H, W), normalised.

        Raises:
            ValueError: as `forward`.
        """
        check_pair(rgb, x)
        return (rgb - self.mean[0, :, None, None]) / self.std[0, :, None, None]

    def add_modality(self) -> None:
        """Makes room for one more modality, in the next slot; nothing where none matters."""

    def fold(self) -> None:
        """Replaces parts by their cheaper equals for inference; not to be trained or saved."""
        if isinstance(self.head, MlpHead):
            self.head = self.head.folded()


class PairNetwork(RgbxNetwork):
    """A network of the image pair alone: embeddings and modality change nothing."""

    def encode_scene(
        self,
        rgb_embedding: Tensor,  # noqa: ARG002
        x_embedding: Tensor,  # noqa: ARG002
        modality: Tensor,  # noqa: ARG002
    ) -> Scene:
        """An empty scene."""
        return Scene()

    def coarse_logits(self, rgb: Tensor, x: Tensor, scene: Scene) -> Tensor:  # noqa: ARG002
        """See `RgbxNetwork`."""
        return self.pair_logits(rgb, x)

    def pair_logits(self, rgb: Tensor, x: Tensor) -> Tensor:
        """As `coarse_logits`, without a scene."""
        raise NotImplementedError


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) brought up to multiples of 32."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in size)
    return height, width


def check_pair(rgb: Tensor, x: Tensor) -> None:
    """Checks that both images of every pair have one shape and are large enough.

    Raises:
        ValueError: when they do not.
    """
    if rgb.shape != x.shape or min(rgb.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"images: rgb {tuple(rgb.shape)} and x {tuple(x.shape)}; "
            f"expected equal (B, 3, H, W) with sides of at least {MIN_SIDE} pixels"
        )


def split_streams(features: Tensor) -> tuple[Tensor, Tensor]:
    """Maps or tokens of all images (2B, ...) to those of RGB and those of X, each (B, ...)."""
    # Not chunk: it would bake the batch size into an exported graph.
    rgb_features, x_features = torch.unflatten(features, 0, (2, -1)).unbind(0)
    return rgb_features, x_features
