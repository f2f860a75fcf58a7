"""Runtimes of exported graphs: ONNX Runtime, OpenVINO and AOTInductor."""

from __future__ import annotations

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segrgbx_core.base.errors import CheckpointError, ConfigError, shortened
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array
from segrgbx_core.model.tensor_files import file_hash
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.devices import choose_device, choose_precision
from segrgbx_core.runtime.exported import (
    AOT_FRAME,
    AOT_SCENE,
    CONTRACT,
    KEY,
    LOGITS,
    SCENE,
    ExportedEngine,
    ExportedModel,
    Shape,
    folder_beside,
    read_exported,
    scene_shapes,
)
from segrgbx_core.runtime.options import Backend, InferenceConfig, OnnxConfig

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}
_FALLBACKS = {"tensorrt": ("cuda", "cpu"), "cuda": ("cpu",), "rocm": ("cpu",)}
"""Providers for the operators that the chosen one does not support."""
_KEPT_SHAPES = 4
"""Combinations of batch and image size for which a compiled graph is kept."""
_OPENVINO_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}

log = logging.getLogger(__name__)


def export_beside(
    checkpoint: Path | str, config: InferenceConfig, merge_for: Modality | None = None
) -> ExportedModel | None:
    """The export that `backend: auto` runs in place of a checkpoint; None: PyTorch runs it.

    The log says which, and why an export that lies beside the checkpoint is not used.

    Args:
        checkpoint: the checkpoint's file.
        config: an option that PyTorch alone has rules exports out.
        merge_for: the one modality to serve, whose own export comes first; None serves all.

    Raises:
        ConfigError: when the device does not exist.
    """
    if reason := _needs_torch(config):
        log.info("backend: auto runs %s in PyTorch: %s", checkpoint, reason)
        return None
    folders = [folder_beside(checkpoint, served) for served in dict.fromkeys((merge_for, None))]
    present = [folder for folder in folders if folder.exists()]
    digest = file_hash(Path(checkpoint)) if present and Path(checkpoint).is_file() else ""
    for folder in present:
        try:
            model = read_exported(folder)
        except CheckpointError as error:
            log.warning("backend: auto does not use a damaged export: %s", error)
            continue
        if model.source.get("checkpoint") == digest:
            log.info("backend: auto runs %s in OpenVINO", folder)
            return model
        log.warning(
            "backend: auto does not use %s, which was exported from another checkpoint than "
            "%s; export anew: segrgbx-export %s",
            *(folder, checkpoint, checkpoint),
        )
    log.info(
        "backend: auto runs %s in PyTorch: no export of it is beside it, segrgbx-export %s makes "
        "one",
        *(checkpoint, checkpoint),
    )
    return None


def _needs_torch(config: InferenceConfig) -> str:
    """Why no export can run; empty where one can."""
    device = choose_device(config.device)
    if device.type != "cpu":
        return f"the device is {device}"
    if config.compile:
        return "compile is an option of PyTorch"
    try:
        _openvino()
    except ConfigError:
        return "OpenVINO is not installed, pip install 'segrgbx_ros[openvino]'"
    return ""


def open_exported(
    model: ExportedModel,
    config: InferenceConfig,
    device: torch.device,
    merge_for: Modality | None = None,
) -> ExportedEngine:
    """The engine of an exported model.

    Args:
        model: the exported model.
        config: backend and its options.
        device: decides the provider `auto` of ONNX Runtime.
        merge_for: the modality that will be asked for, or None; the export decided what is merged.

    Raises:
        ConfigError: when the runtime is missing or refuses its options or a graph, or when the
            model serves another modality alone.
        CheckpointError: when a file is missing or is not the one that the contract belongs to.
    """
    if merge_for is not None and model.merged_for not in (None, merge_for):
        raise ConfigError(
            f"exported model {model.name}: serves {model.merged_for} alone, not {merge_for}; "
            f"export with --modality {merge_for} or without --modality"
        )
    if config.backend is Backend.AOT:
        engine = _open_aot(model)
    elif config.backend in (Backend.OPENVINO, Backend.AUTO):
        engine = _open_openvino(model, choose_precision(config.precision, torch.device("cpu")))
    else:
        engine = _open_onnx(model, config.onnx, device)
    trained = model.contract.input
    size = (config.input_height or trained.height, config.input_width or trained.width)
    asked = InputConfig(height=size[0], width=size[1], pad=trained.pad)
    if engine.fixed_size not in (None, asked.canvas):
        raise ConfigError(
            f"exported model {model.name}: was exported for an input of {trained.width}x"
            f"{trained.height} alone, not {size[1]}x{size[0]}; export without --fixed-size"
        )
    return engine


def _open_openvino(model: ExportedModel, precision: str) -> ExportedEngine:
    frame = OpenVinoGraph(model, LOGITS, precision)
    scene = OpenVinoGraph(model, SCENE, precision) if model.has_scene else None
    return ExportedEngine(model, "openvino cpu", frame, scene, precision)


def _open_onnx(model: ExportedModel, config: OnnxConfig, device: torch.device) -> ExportedEngine:
    provider = choose_provider(config.provider, device)
    options = config.pairs()
    if provider in ("cuda", "tensorrt", "rocm") and device.type == "cuda":
        options.setdefault("device_id", str(device.index or 0))
    names = [LOGITS, SCENE] if model.has_scene else [LOGITS]
    graphs = [OnnxGraph(model.read_file(name), name, provider, options) for name in names]
    for graph in graphs:
        check_mark(model, graph.name, graph.mark)
    scene = graphs[1] if model.has_scene else None
    return ExportedEngine(model, f"onnxruntime {provider}", graphs[0], scene)


def _open_aot(model: ExportedModel) -> ExportedEngine:
    images: dict[str, Shape] = {"rgb": (None, None, None, 3), "x": (None, None, None, 3)}
    parts = scene_shapes(model.contract)
    logits: Shape = (None, model.label_space.num_classes, None, None)
    frame = AotGraph(
        model, AOT_FRAME, {**images, **parts}, {"labels": (), "confidence": (), "logits": logits}
    )
    scene = None
    if model.has_scene:
        scene = AotGraph(model, AOT_SCENE, {**images, "modality": (None,)}, parts)
    return ExportedEngine(model, "AOTInductor cpu", frame, scene)


def check_mark(model: ExportedModel, file_name: str, mark: str | None) -> None:
    """Checks that a graph belongs to the contract beside it.

    Raises:
        CheckpointError: when it does not.
    """
    if mark != model.mark:
        raise CheckpointError(
            f"exported model {model.folder / file_name}: was exported with another contract than "
            f"{CONTRACT} beside it"
        )


class OnnxGraph:
    """An ONNX graph in ONNX Runtime, on as many CPU threads as torch uses; a `Graph`.

    Args:
        data: the graph.
        name: file name, for messages.
        provider: execution provider.
        options: of the provider.

    Attributes:
        mark: the text that the graph carries, or None.

    Raises:
        ConfigError: when the provider refuses its options or the graph.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        provider: str = "cpu",
        options: Mapping[str, str] | None = None,
    ) -> None:
        ort = _onnxruntime()
        self.name = name
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        providers: list[Any] = [(_PROVIDERS[provider], dict(options or {}))]
        providers += [_PROVIDERS[other] for other in _FALLBACKS.get(provider, ())]
        try:
            self._session = ort.InferenceSession(data, settings, providers=providers)
        except Exception as error:  # ONNX Runtime's own, which share no base but Exception
            raise ConfigError(
                f"onnx: {provider} cannot run {name}: {shortened(str(error), 300)}"
            ) from None
        if self._session.get_providers()[0] != _PROVIDERS[provider]:
            raise ConfigError(
                f"onnx.provider: {provider} could not start and ONNX Runtime would silently use "
                f"{self._session.get_providers()[0]}; its libraries (CUDA, cuDNN, TensorRT) may "
                "be missing"
            )
        self.mark = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.inputs: Mapping[str, Shape] = _onnx_ports(self._session.get_inputs())
        self.outputs: Mapping[str, Shape] = _onnx_ports(self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `Graph`."""
        values = self._session.run(list(self.outputs), dict(feeds))
        return dict(zip(self.outputs, values, strict=True))


class OpenVinoGraph:
    """An ONNX graph compiled by OpenVINO for the CPU; a `Graph`.

    It is compiled for fixed shapes, which takes some seconds and makes it faster: once per batch
    and image size, of which the last few are kept.

    Args:
        model: the exported model.
        name: file name of the graph.
        precision: fp32 or bf16; OpenVINO keeps in float32 what it considers sensitive.

    Raises:
        ConfigError: when OpenVINO is missing or refuses the graph.
        CheckpointError: when the graph does not belong to the contract.
    """

    def __init__(self, model: ExportedModel, name: str, precision: str) -> None:
        self.name = name
        self._core = _openvino().Core()
        self._settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": _OPENVINO_PRECISIONS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._graph = self._core.read_model(model.read_file(name))
        except RuntimeError as error:
            raise self._refused(error) from None
        check_mark(model, name, _openvino_mark(self._graph))
        self._requests: OrderedDict[tuple[tuple[int, ...], ...], Any] = OrderedDict()
        self.inputs: Mapping[str, Shape] = _openvino_ports(self._graph.inputs)
        self.outputs: Mapping[str, Shape] = _openvino_ports(self._graph.outputs)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `Graph`."""
        key = tuple(feeds[name].shape for name in self.inputs)
        if key not in self._requests:
            self._requests[key] = self._compiled({name: feeds[name].shape for name in self.inputs})
            while len(self._requests) > _KEPT_SHAPES:
                self._requests.popitem(last=False)
        self._requests.move_to_end(key)
        values = self._requests[key].infer(dict(feeds))
        return {name: np.asarray(values[name]) for name in self.outputs}

    def _compiled(self, shapes: Mapping[str, tuple[int, ...]]) -> Any:
        fixed = self._graph.clone()
        try:
            fixed.reshape({name: list(shape) for name, shape in shapes.items()})
            return self._core.compile_model(fixed, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            log.warning(
                "openvino: cannot compile %s for fixed shapes (%s); free ones are slower",
                self.name,
                shortened(str(error).strip().rsplit("\n", 1)[-1], 200),
            )
        try:
            free = self._core.compile_model(self._graph, "CPU", self._settings)
        except RuntimeError as error:
            raise self._refused(error) from None
        return free.create_infer_request()

    def _refused(self, error: RuntimeError) -> ConfigError:
        text = str(error).strip().rsplit("\n", 1)[-1]
        return ConfigError(f"openvino: cannot run {self.name}: {shortened(text, 300)}")


class AotGraph:
    """An AOTInductor package: native code, compiled ahead of time for one kind of CPU; a `Graph`.

    Args:
        model: an exported model with packages.
        name: file name of the package.
        inputs: as its contract has them; the package states none.
        outputs: the same.

    Raises:
        ConfigError: when the package does not run here.
        CheckpointError: when the export left it out, or it is not the one that was exported.
    """

    def __init__(
        self,
        model: ExportedModel,
        name: str,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
    ) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs
        if not (model.folder / name).is_file():
            raise CheckpointError(f"exported model {model.name}: has no {name}; export with --aot")
        if name not in model.hashes:
            log.warning(
                "exported model %s: %s is native code that %s does not vouch for; export anew",
                *(model.name, name, CONTRACT),
            )
        with tempfile.TemporaryDirectory(prefix="segrgbx-") as folder:
            # The bytes that were hashed, whatever happens to the file meanwhile.
            copy = Path(folder) / name
            copy.write_bytes(model.read_file(name))
            self._package = _load_package(copy)

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """See `Graph`."""
        values: Sequence[torch.Tensor] = self._package(
            *(torch.from_numpy(feeds[name]) for name in self.inputs)
        )
        return {name: part.numpy() for name, part in zip(self.outputs, values, strict=True)}


def choose_provider(name: str, device: torch.device) -> str:
    """The provider named `auto`, or `name` where ONNX Runtime has it.

    Raises:
        ConfigError: when it is not available.
    """
    ort = _onnxruntime()
    there = {key for key, full in _PROVIDERS.items() if full in ort.get_available_providers()}
    if name == "auto":
        return "cuda" if device.type == "cuda" and "cuda" in there else "cpu"
    if name not in there:
        raise ConfigError(
            f"onnx.provider: '{name}' is not in the installed ONNX Runtime {ort.__version__}, "
            f"which has {', '.join(sorted(there))}; install a build with {_PROVIDERS[name]}"
        )
    return name


def _onnx_ports(ports: Iterable[Any]) -> dict[str, Shape]:
    return {
        port.name: tuple(side if isinstance(side, int) else None for side in port.shape)
        for port in ports
    }


def _openvino_ports(ports: Iterable[Any]) -> dict[str, Shape]:
    return {
        port.get_any_name(): tuple(
            side.get_length() if side.is_static else None for side in port.partial_shape
        )
        for port in ports
    }


def _openvino_mark(graph: Any) -> str | None:
    try:
        return str(graph.get_rt_info(["framework", KEY]).value)
    except RuntimeError:
        return None


def _load_package(path: Path) -> Any:
    load: Callable[[str], Any] = torch._inductor.aoti_load_package
    try:
        return load(str(path))
    except RuntimeError as error:
        text = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"backend: aot cannot load {path.name}, which was compiled for another kind of "
            f"processor or release of torch: {shortened(text, 300)}"
        ) from None


def _onnxruntime() -> Any:
    try:
        import onnxruntime  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "backend: onnx needs onnxruntime, which is not installed; "
            "pip install 'segrgbx_ros[export]'"
        ) from None
    return onnxruntime


def _openvino() -> Any:
    try:
        import openvino  # noqa: PLC0415  an optional library
    except ImportError:
        raise ConfigError(
            "backend: openvino needs OpenVINO, which is not installed; "
            "pip install 'segrgbx_ros[openvino]'"
        ) from None
    return openvino
