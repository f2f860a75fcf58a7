"""ONNX Runtime as the engine of an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.exported import ExportedModel, check_graph
from segrgbx_core.runtime.exported_engine import ExportedEngine, feeds, scene_feeds, scene_of
from segrgbx_core.runtime.options import OnnxConfig

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}
_FALLBACKS = {"tensorrt": ("cuda", "cpu"), "cuda": ("cpu",), "rocm": ("cpu",)}
"""Providers that take the operators which the chosen one does not know."""


class OnnxEngine(ExportedEngine):
    """Runs `scene.onnx` and `logits.onnx`.

    Args:
        model: the exported model.
        config: provider and its options.
        device: decides what provider `auto` stands for.
        merge_for: as in `ExportedEngine`.

    Raises:
        ConfigError: when ONNX Runtime or the provider is missing, or the graph does not serve
            what is asked for.
        CheckpointError: when a graph is not the one that the contract belongs to.
    """

    def __init__(
        self,
        model: ExportedModel,
        config: OnnxConfig,
        device: torch.device,
        merge_for: Modality | None = None,
    ) -> None:
        super().__init__(model, (model.logits, model.scene), merge_for)
        provider = choose_provider(config.provider, device)
        options = config.pairs()
        if provider in ("cuda", "tensorrt", "rocm") and device.type == "cuda":
            options.setdefault("device_id", str(device.index or 0))
        self.name = f"onnxruntime {provider}"
        self._logits = open_session(model.logits, provider, options)
        self._scene = open_session(model.scene, provider, options)
        for path, session in ((model.logits, self._logits), (model.scene, self._scene)):
            check_graph(model, path, session.get_modelmeta().custom_metadata_map)
        self._scene_outputs = [output.name for output in self._scene.get_outputs()]
        self._takes = {item.name for item in self._scene.get_inputs()}

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        if not self._scene_outputs:
            return Scene()
        made = self._scene.run(self._scene_outputs, scene_feeds(batch, self._takes))
        return scene_of(dict(zip(self._scene_outputs, made, strict=True)))

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`."""
        [logits] = self._logits.run(["logits"], feeds(batch, scene))
        return torch.from_numpy(logits)


def choose_provider(name: str, device: torch.device) -> str:
    """The provider that `auto` stands for, or `name` where ONNX Runtime has it.

    Raises:
        ConfigError: when it is not there.
    """
    ort = _runtime()
    there = {key for key, full in _PROVIDERS.items() if full in ort.get_available_providers()}
    if name == "auto":
        return "cuda" if device.type == "cuda" and "cuda" in there else "cpu"
    if name not in there:
        raise ConfigError(
            f"onnx.provider: '{name}' is not in the installed ONNX Runtime {ort.__version__}, "
            f"which has {', '.join(sorted(there))}; install a build with {_PROVIDERS[name]}"
        )
    return name


def open_session(
    path: Path, provider: str = "cpu", options: dict[str, str] | None = None
) -> InferenceSession:
    """A graph ready to run, on as many CPU threads as torch uses.

    Raises:
        ConfigError: when the provider refuses its options or the graph.
    """
    ort = _runtime()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    chosen: list[Any] = [(_PROVIDERS[provider], options or {})]
    chosen += [_PROVIDERS[other] for other in _FALLBACKS.get(provider, ())]
    try:
        session = ort.InferenceSession(str(path), settings, providers=chosen)
    except Exception as error:  # ONNX Runtime's own, which share no base but Exception
        raise ConfigError(f"onnx: {provider} cannot run {path.name}: {error}") from None
    if session.get_providers()[0] != _PROVIDERS[provider]:
        raise ConfigError(
            f"onnx.provider: {provider} could not start and ONNX Runtime would silently use "
            f"{session.get_providers()[0]}; its libraries (CUDA, cuDNN, TensorRT) may be missing"
        )
    return session


def _runtime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "backend: onnx needs onnxruntime, which is not installed; "
            "pip install 'segrgbx_ros[export]'"
        ) from None
    return onnxruntime
