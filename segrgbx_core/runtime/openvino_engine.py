"""OpenVINO as the engine of an exported model on a CPU, in float32 or bfloat16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.exported import KEY, ExportedModel, check_graph
from segrgbx_core.runtime.exported_engine import ExportedEngine, feeds, scene_feeds, scene_of

_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine(ExportedEngine):
    """Runs `scene.onnx` and `logits.onnx`, compiled when it is made; takes some seconds.

    Args:
        model: the exported model.
        precision: fp32 or bf16; OpenVINO keeps in float32 what it holds to be delicate.
        merge_for: as in `ExportedEngine`.

    Raises:
        ConfigError: when OpenVINO is missing or refuses a graph, or the graph does not serve what
            is asked for.
        CheckpointError: when a graph is not the one that the contract belongs to.
    """

    name = "openvino cpu"

    def __init__(
        self, model: ExportedModel, precision: str, merge_for: Modality | None = None
    ) -> None:
        super().__init__(model, (model.logits, model.scene), merge_for)
        self.precision = precision
        self._core = _runtime().Core()
        self._logits = self._open(model, model.logits)
        self._scene = self._open(model, model.scene)
        self._scene_outputs = [port.get_any_name() for port in self._scene.model_outputs]
        self._takes = {port.get_any_name() for port in self._scene.model_inputs}

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        if not self._scene_outputs:
            return Scene()
        made = self._scene.infer(scene_feeds(batch, self._takes))
        return scene_of({name: made[name].copy() for name in self._scene_outputs})

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`; the next call overwrites the result."""
        return torch.from_numpy(self._logits.infer(feeds(batch, scene))["logits"])

    def _open(self, model: ExportedModel, path: Path) -> Any:
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": _PRECISIONS[self.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            graph = self._core.read_model(str(path))
            compiled = self._core.compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            text = str(error).strip().rsplit("\n", 1)[-1]
            raise ConfigError(f"openvino: cannot run {path.name}: {text}") from None
        try:
            carried = str(graph.get_rt_info(["framework", KEY]).value)
        except RuntimeError:
            raise CheckpointError(f"exported model {path}: carries no contract") from None
        check_graph(model, path, {KEY: carried})
        return compiled.create_infer_request()


def _runtime() -> Any:
    try:
        import openvino  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "backend: openvino needs OpenVINO, which is not installed; "
            "pip install 'segrgbx_ros[openvino]'"
        ) from None
    return openvino
