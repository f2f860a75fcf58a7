"""What the engines of an exported model share: what they promise, and how its graphs are fed.

Legend: B pairs, K prompts, D_i width of stage i, h w the grid of the last stage.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.exported import ExportedModel

KV, QUERY = "prompt_kv_", "query_"
"""Beginnings of the names of a scene's tensors; a number follows, counted from 1."""


class ExportedEngine:
    """The facts of an `Engine` whose batches and answers lie in host memory.

    Attributes:
        memory: bytes of the graphs with their weights, as they lie in their files.

    Args:
        model: the exported model.
        files: the graphs.
        merge_for: the modality that will be asked for, or None; the export's own choice holds.

    Raises:
        ConfigError: when the model serves another modality alone.
    """

    device = torch.device("cpu")
    name: str
    precision = "fp32"

    def __init__(
        self, model: ExportedModel, files: Sequence[Path], merge_for: Modality | None
    ) -> None:
        if merge_for is not None and model.merged_for not in (None, merge_for):
            raise ConfigError(
                f"exported model {model.name}: serves {model.merged_for} alone, not {merge_for}; "
                f"export with --modality {merge_for} or without --modality"
            )
        self.merged_for = model.merged_for
        self.memory = sum(file.stat().st_size for file in files)


def scene_feeds(batch: Batch, takes: Container[str]) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of the scene's graph; one with a merged LoRA does not take the modality."""
    given = {**_images(batch), "modality": batch.modality.numpy()}
    return {name: array for name, array in given.items() if name in takes}


def scene_of(parts: Mapping[str, np.ndarray[Any, Any]]) -> Scene:
    """The scene from what its graph returns, by name and in order."""
    num_stages = sum(name.startswith(KV) for name in parts)
    return gather([torch.from_numpy(part) for part in parts.values()], num_stages)


def feeds(batch: Batch, scene: Scene) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs of the frame's graph; in a scene, RGB and X get an axis of their own."""
    names = [f"{KV}{index}" for index in range(1, len(scene.prompt_kv) + 1)]
    names += [f"{QUERY}{index}" for index in range(1, len(scene.queries) + 1)]
    parts = {name: part.numpy() for name, part in zip(names, spread(scene), strict=True)}
    return {**_images(batch), **parts}


def spread(scene: Scene) -> tuple[Tensor, ...]:
    """A scene's tensors with RGB and X along an axis of their own, prompts first."""
    kv = (torch.unflatten(part, 1, (2, -1)) for part in scene.prompt_kv)  # (blocks, 2, B, K, 2D_i)
    queries = (torch.unflatten(part, 0, (2, -1)) for part in scene.queries)  # (2, B, D_4, h, w)
    return (*kv, *queries)


def gather(parts: Sequence[Tensor], num_stages: int) -> Scene:
    """What `spread` took apart."""
    kv = tuple(part.flatten(1, 2) for part in parts[:num_stages])  # (blocks, 2B, K, 2 D_i)
    return Scene(kv, tuple(part.flatten(0, 1) for part in parts[num_stages:]))


def _images(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    return {"rgb": batch.rgb_pixels.numpy(), "x": batch.x_pixels.numpy()}
