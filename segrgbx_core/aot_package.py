"""AOTInductor packages: the graphs compiled ahead of time, run by torch without tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segrgbx_core.batch import Batch
from segrgbx_core.errors import ConfigError
from segrgbx_core.export_graphs import gather, spread
from segrgbx_core.modality import Modality
from segrgbx_core.model import Scene

FRAME, SCENE = "frame.pt2", "scene.pt2"


def write_package(programs: Sequence[ExportedProgram], folder: Path) -> None:
    """Compiles the frame's and the scene's graph for this kind of processor; takes minutes.

    Raises:
        ConfigError: when there is no compiler, or it fails.
    """
    for program, name in zip(programs, (FRAME, SCENE), strict=True):
        _compile(program, folder / name)


def _compile(program: ExportedProgram, path: Path) -> None:
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # inductor's errors share no base but Exception
        text = str(error).strip().split("\n", 1)[0]
        raise ConfigError(f"export: AOTInductor cannot compile {path.name}: {text}") from None


class AotEngine:
    """Runs both packages on the CPU.

    Args:
        folder: where they lie.
        num_stages: how many of the scene's tensors are prompts.
    """

    def __init__(self, folder: Path, num_stages: int) -> None:
        self.device = torch.device("cpu")
        self.name = "AOTInductor cpu"
        self.precision = "fp32"
        self.merged_for: Modality | None = None
        self._num_stages = num_stages
        self._paths = (folder / FRAME, folder / SCENE)
        load: Callable[[str], Any] = torch._inductor.aoti_load_package
        self._frame, self._scene = (load(str(path)) for path in self._paths)

    @property
    def memory(self) -> int:
        """Bytes of both packages."""
        return sum(path.stat().st_size for path in self._paths)

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        parts = self._scene(batch.rgb_pixels, batch.x_pixels, batch.modality)
        return gather(tuple(parts), self._num_stages)

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`."""
        logits: Tensor = self._frame(batch.rgb_pixels, batch.x_pixels, *spread(scene))[2]
        return logits
