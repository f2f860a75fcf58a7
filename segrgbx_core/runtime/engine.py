"""What runs the network: its two halves behind one interface, and PyTorch as the plain way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.model.head import FoldedHead
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.runtime.devices import DTYPES, autocast, device_text, flushed_denormals
from segrgbx_core.runtime.malloc_tuning import keep_freed_memory
from segrgbx_core.runtime.options import InferenceConfig

CoarseLogits: TypeAlias = Callable[[Tensor, Tensor, Scene], Tensor]


class Engine(Protocol):
    """Runs the network in two halves, so that the scene may be kept for some frames.

    Attributes:
        device: where batches must lie.
        name: device in words.
        precision: number format that products are computed in.
        merged_for: the one modality served, its LoRA merged into MA-CLIP; None: all.
    """

    device: torch.device
    name: str
    precision: str
    merged_for: Modality | None

    @property
    def memory(self) -> int:
        """Bytes that the model takes up."""
        ...

    def scene(self, batch: Batch) -> Scene:
        """What MA-CLIP, prompts and refinement make of the scene of every sample."""
        ...

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """Logits (B, C, h, w) over the model's input, on its coarse grid."""
        ...


class EagerEngine:
    """PyTorch, operator by operator or compiled.

    Args:
        checkpoint: weights; the modules are taken over and changed.
        device: where they go.
        precision: fp32, fp16 or bf16.
        config: memory layout, heap and compilation.
        merge_for: the one modality whose LoRA becomes part of MA-CLIP's weights; None: all.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        device: torch.device,
        precision: str,
        config: InferenceConfig,
        merge_for: Modality | None = None,
    ) -> None:
        if device.type == "cpu" and config.keep_memory:
            keep_freed_memory()
        self.device = device
        self.name = device_text(device)
        self.precision = precision
        self.merged_for = merge_for
        self.model = checkpoint.model.eval().to(device)
        self.model.fold_head()
        self.ma_clip = checkpoint.ma_clip.to(device)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=self._layout)
        if device.type == "cpu" and precision == "bf16":
            keep_patches_exact(self.model)
        if merge_for is not None:
            self.ma_clip.merge(merge_for, keep_base=False)
        # The frozen tower is cast whole; SegRGB-X runs under autocast, which leaves norms, softmax
        # and sums in float32.
        self.ma_clip.tower.to(DTYPES[precision])
        cast_products(self.model, DTYPES[precision])
        self._coarse_logits: CoarseLogits = self.model.coarse_logits
        if config.compile:
            self._coarse_logits = _compiled(self.model.coarse_logits)

    @property
    def memory(self) -> int:
        """Bytes of the weights; on a GPU everything this process has allocated there."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        tensors = [*self.model.state_dict().values(), *self.ma_clip.state_dict().values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        if self.model.needs_embeddings:
            rgb_embedding, x_embedding = self.ma_clip(batch.rgb, batch.x, batch.modality)
        else:
            rgb_embedding = x_embedding = batch.rgb.new_zeros(len(batch), self.model.embed_dim)
        with autocast(self.precision, self.device):
            return self.model.encode_scene(rgb_embedding, x_embedding, batch.modality)

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`."""
        with flushed_denormals(), autocast(self.precision, self.device):
            rgb = batch.rgb.contiguous(memory_format=self._layout)
            x = batch.x.contiguous(memory_format=self._layout)
            return self._coarse_logits(rgb, x, scene)


class ExactLayer(nn.Module):
    """A layer that stays in float32 under autocast."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        """As the layer's."""
        with torch.autocast(features.device.type, enabled=False):
            return self.layer(features.float())


def keep_patches_exact(model: nn.Module) -> None:
    """Keeps convolutions over separate patches in float32.

    On CPUs with bfloat16 instructions oneDNN answers nonsense to some of them: with torch 2.15,
    4x4 and 8x8 patches of 16 or 24 channels are off by more than their standard deviation. They
    are a small part of the work.
    """
    patches = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride != (1, 1)
    ]
    for name in patches:
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, ExactLayer(model.get_submodule(name)))


def cast_products(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights that autocast would otherwise cast anew in every frame, to equal bits."""
    exact = [layer.layer for layer in model.modules() if isinstance(layer, ExactLayer)]
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, FoldedHead)) and layer not in exact:
            layer.to(dtype)


def _compiled(function: CoarseLogits) -> CoarseLogits:
    try:
        return torch.compile(function)
    except RuntimeError as error:
        raise ConfigError(f"model.compile: cannot be had here: {error}") from None
