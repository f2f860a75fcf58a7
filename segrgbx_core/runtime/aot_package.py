"""AOTInductor packages: the graphs compiled ahead of time, run by torch without tracing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.model.backbone import STRIDES
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.exported import ExportedModel
from segrgbx_core.runtime.exported_engine import ExportedEngine, gather, spread

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


class AotEngine(ExportedEngine):
    """Runs both packages on the CPU.

    Args:
        model: an exported model with packages.
        merge_for: as in `ExportedEngine`.

    Raises:
        ConfigError: when a package does not run here, or does not serve what is asked for.
        CheckpointError: when the export left the packages out.
    """

    name = "AOTInductor cpu"

    def __init__(self, model: ExportedModel, merge_for: Modality | None = None) -> None:
        paths = (model.folder / FRAME, model.folder / SCENE)
        for path in paths:
            if not path.is_file():
                raise CheckpointError(
                    f"exported model {model.name}: has no {path.name}; export with --aot"
                )
        super().__init__(model, paths, merge_for)
        self._frame, self._scene = (_load(path) for path in paths)

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        parts = self._scene(batch.rgb_pixels, batch.x_pixels, batch.modality)
        return gather(tuple(parts), len(STRIDES))

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`."""
        logits: Tensor = self._frame(batch.rgb_pixels, batch.x_pixels, *spread(scene))[2]
        return logits


def _load(path: Path) -> Any:
    load: Callable[[str], Any] = torch._inductor.aoti_load_package
    try:
        return load(str(path))
    except RuntimeError as error:
        text = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"backend: aot cannot load {path.name}, which was compiled for another kind of "
            f"processor or release of torch: {text}"
        ) from None
