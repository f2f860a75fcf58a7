"""ONNX Runtime as the engine of an exported model."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segrgbx_core.batch import Batch
from segrgbx_core.errors import ConfigError
from segrgbx_core.exported import ExportedModel, check_graph
from segrgbx_core.inference_options import OnnxConfig
from segrgbx_core.modality import Modality
from segrgbx_core.model import Scene

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
KV, QUERY = "prompt_kv_", "query_"
"""Beginnings of the names of a scene's tensors; a number follows, counted from 1."""


class OnnxEngine:
    """Runs `scene.onnx` and `logits.onnx`; batches and answers lie in host memory.

    Args:
        model: the exported model.
        config: provider and its options.
        device: decides what provider `auto` stands for.
        merge_for: the modality that will be asked for, or None; the graph's own choice holds.

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
        refuse_other_modality(model, merge_for)
        self.device = torch.device("cpu")
        self.precision = "fp32"
        self.merged_for = model.merged_for
        provider = choose_provider(config.provider, device)
        options = config.pairs()
        if provider in ("cuda", "tensorrt", "rocm") and device.type == "cuda":
            options.setdefault("device_id", str(device.index or 0))
        self.name = f"onnxruntime {provider}"
        self._logits = open_session(model.logits, provider, options)
        self._scene = open_session(model.scene, provider, options)
        for path, session in ((model.logits, self._logits), (model.scene, self._scene)):
            check_graph(model, path, session.get_modelmeta().custom_metadata_map)
        self._memory = model.logits.stat().st_size + model.scene.stat().st_size
        self._scene_outputs = [output.name for output in self._scene.get_outputs()]
        self._takes = {item.name for item in self._scene.get_inputs()}

    @property
    def memory(self) -> int:
        """Bytes of both graphs with their weights."""
        return self._memory

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


def refuse_other_modality(model: ExportedModel, asked: Modality | None) -> None:
    """Checks that an exported model serves the modality that will be asked for, if any is named.

    Raises:
        ConfigError: when it serves another one alone.
    """
    if asked is not None and model.merged_for not in (None, asked):
        raise ConfigError(
            f"exported model {model.name}: serves {model.merged_for} alone, not {asked}; "
            f"export with --modality {asked} or without --modality"
        )


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


def _images(batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    return {"rgb": batch.rgb_pixels.numpy(), "x": batch.x_pixels.numpy()}


def _runtime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "backend: onnx needs onnxruntime, which is not installed; "
            "pip install 'segrgbx_ros[export]'"
        ) from None
    return onnxruntime
