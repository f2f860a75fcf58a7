"""How the two streams of a stage meet: CMX's rectification (FRM) and fusion (FFM).

Dimensions: B pairs, C channels of a stage, H W its map, N = H*W tokens, h heads, d = C/h.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segrgbx_core.model.backbone import merge_heads, split_heads, to_map, to_tokens


class FeatureRectify(nn.Module):
    """Each stream takes from the other what channel and spatial gates let through (CMX's FRM)."""

    def __init__(self, channels: int, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = strength
        self.channel_gates = nn.Sequential(
            nn.Linear(4 * channels, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, 2 * channels)
        )
        self.spatial_gates = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, 2, 1)
        )

    def start_nearly_closed(self) -> None:
        """Lets a quarter of the usual share through at first, so that streams hardly mix."""
        for gates in (self.channel_gates, self.spatial_gates):
            last = cast("nn.Linear | nn.Conv2d", gates[-1])
            assert last.bias is not None
            nn.init.constant_(last.bias, -2.0)

    def forward(self, rgb: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (B, C, H, W) of both streams to rectified maps of the same shape."""
        both = torch.cat([rgb, x], dim=1)  # (B, 2C, H, W)
        pooled = torch.cat([both.mean(dim=(2, 3)), both.amax(dim=(2, 3))], dim=1)  # (B, 4C)
        channel = self.channel_gates(pooled).sigmoid()[:, :, None, None]  # (B, 2C, 1, 1)
        spatial = self.spatial_gates(both).sigmoid()  # (B, 2, H, W)
        channel_into_x, channel_into_rgb = channel.chunk(2, dim=1)
        spatial_into_x, spatial_into_rgb = spatial.chunk(2, dim=1)
        rectified_rgb = rgb + self.strength * (channel_into_rgb + spatial_into_rgb) * x
        rectified_x = x + self.strength * (channel_into_x + spatial_into_x) * rgb
        return rectified_rgb, rectified_x


class StreamExchange(nn.Module):
    """One stream's half of the cross attention: what it offers and what it makes of an offer."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.proj_in = nn.Linear(channels, 2 * channels)
        self.kv = nn.Linear(channels, 2 * channels, bias=False)
        self.proj_out = nn.Linear(2 * channels, channels)
        self.norm = nn.LayerNorm(channels)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, C) to what stays and what is exchanged, both (B, N, C)."""
        kept, exchanged = F.relu(self.proj_in(tokens)).chunk(2, dim=-1)
        return kept, exchanged

    def context(self, exchanged: Tensor) -> Tensor:
        """Global context (B, h, d, d) of exchanged tokens (B, N, C), normalised over key channels.

        The product sums over all N tokens, so it is kept in float32 whatever the rest runs in.
        """
        key, value = (
            split_heads(part, self.num_heads) for part in self.kv(exchanged).chunk(2, dim=-1)
        )
        scale = key.shape[-1] ** -0.5
        with _full_precision(key.device.type):
            wide = torch.promote_types(key.dtype, torch.float32)
            products = key.to(wide).transpose(-2, -1) @ value.to(wide)  # (B, h, d, d)
            return (products * scale).softmax(dim=-2).to(exchanged.dtype)

    def join(self, tokens: Tensor, kept: Tensor, exchanged: Tensor, context: Tensor) -> Tensor:
        """Reads the other stream's context and adds it to the tokens (B, N, C)."""
        answer = merge_heads(split_heads(exchanged, self.num_heads) @ context)  # (B, N, C)
        return self.norm(tokens + self.proj_out(torch.cat([kept, answer], dim=-1)))


class ChannelMerge(nn.Module):
    """Two streams' channels to one, with a depthwise look at the neighbourhood."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.embed = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, both: Tensor) -> Tensor:
        """(B, 2C, H, W) to (B, C, H, W)."""
        return self.norm(self.residual(both) + self.embed(both))


class FeatureFusion(nn.Module):
    """Two rectified maps to one through exchanged global contexts (CMX's FFM)."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.rgb = StreamExchange(channels, num_heads)
        self.x = StreamExchange(channels, num_heads)
        self.merge = ChannelMerge(channels)

    def forward(self, rgb: Tensor, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) of both streams to the fused map (B, C, H, W)."""
        height, width = rgb.shape[-2:]
        rgb, x = to_tokens(rgb), to_tokens(x)  # (B, N, C)
        rgb_kept, rgb_exchanged = self.rgb.split(rgb)
        x_kept, x_exchanged = self.x.split(x)
        rgb_context, x_context = self.rgb.context(rgb_exchanged), self.x.context(x_exchanged)
        rgb = self.rgb.join(rgb, rgb_kept, rgb_exchanged, x_context)
        x = self.x.join(x, x_kept, x_exchanged, rgb_context)
        return self.merge(to_map(torch.cat([rgb, x], dim=-1), (height, width)))


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Switches autocast off where it is on; elsewhere nothing, so that graphs stay plain."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
