"""The two halves of the network as graphs for other runtimes.

Legend: B pairs, H W pixels of the model's input, h w its coarse grid, C classes, K prompts.

Inputs are images in memory order, so that a host without torch has nothing to prepare. A scene's
tensors have an axis of two, RGB and X of every pair, where `Scene` has all RGB and then all X:
hosts that keep scenes per stream can then join batches along one axis.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.labels.label_space import VOID
from segrgbx_core.model import RgbxNetwork
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.runtime.batch import rgb_tensor
from segrgbx_core.runtime.exported import (
    named_scene_tensors,
    scene_from_tensors,
    scene_to_tensors,
)

FRAME_OUTPUTS = ("labels", "confidence")
LOGITS_OUTPUT = "logits"
_TRACED = (2, 96, 128)
"""Batch, height and width of the images that a graph with free sizes is traced with."""


class SceneGraph(nn.Module):
    """Images and modality to the scene's tensors."""

    def __init__(self, model: RgbxNetwork, ma_clip: ModalityAwareClip) -> None:
        super().__init__()
        self.model, self.ma_clip = model, ma_clip

    def forward(self, rgb: Tensor, x: Tensor, modality: Tensor) -> tuple[Tensor, ...]:
        """Makes scenes.

        Args:
            rgb: uint8 (B, H, W, 3).
            x: float32 (B, H, W, 3) in [0, 1].
            modality: int64 (B,), slot of each modality.

        Returns:
            prompts of each stage (blocks, 2, B, K, 2 D_i), queries of each DSRM (2, B, D_4, h, w).
        """
        if self.model.needs_embeddings:
            images = [self._prepare(rgb_tensor(rgb)), self._prepare(channels_first(x))]
            embeddings = self.ma_clip.embed(torch.cat(images), torch.cat([modality, modality]))
        else:
            embeddings = torch.zeros(2 * modality.shape[0], self.model.embed_dim)
        # Not chunk: it would bake the batch size into the graph.
        rgb_embedding, x_embedding = torch.unflatten(embeddings, 0, (2, -1)).unbind(0)  # (B, E)
        return scene_to_tensors(self.model.encode_scene(rgb_embedding, x_embedding, modality))

    def _prepare(self, images: Tensor) -> Tensor:
        """As `ModalityAwareClip.prepare`, in operators that every runtime supports.

        Images of the right size are resized too: it changes nothing, and a test of their size
        would fix it for all others.
        """
        side, tower = self.ma_clip.config.image_size, self.ma_clip
        rows, columns = (bicubic_weights(count, side) for count in images.shape[-2:])
        small = rows @ images @ columns.T  # (B, 3, S, S)
        # Flat, because OpenVINO 2026.4 takes a scale per channel behind a product of four axes for
        # one per column.
        flat = (small.clamp(0, 1).flatten(2) - tower.mean.flatten(2)) / tower.std.flatten(2)
        return torch.unflatten(flat, 2, (side, side))


class FrameGraph(nn.Module):
    """Images and scene to labels."""

    def __init__(self, model: RgbxNetwork, num_stages: int) -> None:
        super().__init__()
        self.model, self.num_stages = model, num_stages

    def forward(self, rgb: Tensor, x: Tensor, *scene: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Segments frames.

        Args:
            rgb: uint8 (B, H, W, 3).
            x: float32 (B, H, W, 3) in [0, 1].
            scene: as `SceneGraph` returns it.

        Returns:
            labels uint8 (B, H, W), 255 where there is no answer; confidence uint8 (B, H, W),
            round(255 * probability); logits float32 (B, C, h, w).
        """
        joined = scene_from_tensors(scene, self.num_stages)
        logits = self.model.coarse_logits(rgb_tensor(rgb), channels_first(x), joined).float()
        labels, confidence = labels_of(logits, rgb.shape[1:3])
        return labels, confidence, logits


def labels_of(logits: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels and confidence, uint8 (B, H, W), of logits (B, C, h, w) brought to (H, W)."""
    whole = F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
    best, labels = whole.max(dim=1)  # (B, H, W)
    # Not softmax: ONNX Runtime's is slow along this axis, and one class of it is enough.
    probability = (whole - best[:, None]).exp().sum(dim=1).reciprocal()
    is_number = probability >= 0
    labels = torch.where(is_number, labels, VOID)
    probability = torch.where(is_number, probability, 0.0)
    return labels.to(torch.uint8), (probability * 255).round().to(torch.uint8)


def bicubic_weights(count: int, side: int) -> Tensor:
    """Antialiased bicubic resampling of one axis as a matrix, float32 (side, count).

    The same as torch's `interpolate(..., mode="bicubic", antialias=True)`, whose ONNX form,
    Resize with antialias, TensorRT does not read.
    """
    pixels = torch.arange(count, dtype=torch.float32) + 0.5
    scale = (pixels[-1] + 0.5) / side  # a tensor: the graph must not hold the size
    stretch = scale.clamp(min=1)
    centres = (torch.arange(side, dtype=torch.float32) + 0.5) * scale
    distance = ((pixels - centres[:, None]) / stretch).abs()  # (side, count)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(dim=1, keepdim=True)


def channels_first(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) to (B, 3, H, W)."""
    return pixels.permute(0, 3, 1, 2)


class Tracer:
    """Traces both graphs of one model, with a free batch size.

    Args:
        model: in evaluation mode, with its head folded.
        ma_clip: with one LoRA merged, or all of them selected by `modality`.
        size: (height, width) of all images; None leaves them free, too.
        canvas: (height, width) of what the frame's graph sees; None: the same.

    Attributes:
        scene_names: names of the scene's tensors; empty for networks without a scene.
    """

    def __init__(
        self,
        model: RgbxNetwork,
        ma_clip: ModalityAwareClip,
        size: tuple[int, int] | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> None:
        self.scene_graph = SceneGraph(model, ma_clip).eval()
        self._size = size
        batch = _TRACED[0]
        self._images = _images(batch, size or _TRACED[1:])
        self._frame_images = _images(batch, canvas or size or _TRACED[1:])
        self._modality = torch.zeros(batch, dtype=torch.int64)
        with torch.no_grad():
            embedding = torch.zeros(batch, model.embed_dim)
            scene = model.encode_scene(embedding, embedding, self._modality)
        self.scene_names = tuple(named_scene_tensors(scene))
        self._parts = scene_to_tensors(scene)
        self._num_stages = len(scene.prompt_kv)
        self.frame_graph = FrameGraph(model, self._num_stages).eval()

    def scene(self) -> ExportedProgram:
        """The scene's graph."""
        image, batch = self._dynamic()
        shapes = (image, image, {0: batch})
        return _trace(self.scene_graph, (*self._images, self._modality), shapes)

    def frame(self) -> ExportedProgram:
        """The frame's graph."""
        image, batch = self._dynamic()
        axes = [{2: batch}] * self._num_stages
        axes += [{1: batch}] * (len(self._parts) - self._num_stages)
        shapes = (image, image, *([tuple(axes)] if axes else []))
        return _trace(self.frame_graph, (*self._frame_images, *self._parts), shapes)

    def _dynamic(self) -> tuple[dict[int, Dim], Dim]:
        batch = Dim("batch", min=1, max=64)
        if self._size:
            return {0: batch}, batch
        height, width = Dim("height", min=64, max=4096), Dim("width", min=64, max=4096)
        return {0: batch, 1: height, 2: width}, batch


def _images(batch: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """RGB and X images in memory order, the same for the same size."""
    shape, generator = (batch, *size, 3), torch.Generator().manual_seed(0)
    rgb = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return rgb, torch.rand(shape, generator=generator)


def make_onnx(
    program: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    opset: int,
    simplify: bool = True,
) -> Any:
    """A traced graph as an `onnx_ir.Model`.

    Args:
        program: from `Tracer`.
        names: of inputs and of outputs.
        opset: of ONNX; TensorRT and old ONNX Runtimes support 18.
        simplify: fold constants and drop detours; runtimes do that, too, when they load.

    Raises:
        ConfigError: when the libraries are not installed.
    """
    try:
        from onnxscript import optimizer  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "export: needs onnx and onnxscript, which are not installed; "
            "pip install 'segrgbx_ros[export]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=list(names[0]),
            output_names=list(names[1]),
            external_data=False,
            verbose=False,
            optimize=False,
        )
        assert onnx_program is not None
        if simplify:
            # Not torch's `optimize`, which tries fusions of other networks and takes ten times as
            # long for three nodes of 1156.
            optimizer.optimize(onnx_program.model, num_iterations=1)
    return onnx_program.model


def write_onnx(model: Any, path: Path, outputs: Sequence[str], metadata: dict[str, str]) -> None:
    """Writes what a graph needs for some of its outputs, as one file with the weights in it.

    Args:
        model: from `make_onnx`.
        path: the file.
        outputs: those to keep.
        metadata: strings that the file carries.
    """
    import onnx_ir  # noqa: PLC0415  comes with onnxscript
    from onnx_ir.passes.common import RemoveUnusedNodesPass  # noqa: PLC0415

    model = model.clone()
    kept = [value for value in model.graph.outputs if value.name in outputs]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    RemoveUnusedNodesPass()(model)
    model.metadata_props.update(metadata)
    onnx_ir.save(model, path)


def _trace(graph: nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...]) -> ExportedProgram:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(graph, inputs, dynamic_shapes=shapes)
