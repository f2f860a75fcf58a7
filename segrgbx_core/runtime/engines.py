"""Engines run the network: eagerly, compiled, or as recorded CUDA graphs.

Every engine has two halves, so that the scene of a stream may be reused for some frames:
`encode_scene` (MA-CLIP, prompts, DSRM queries) and `coarse_logits` (the rest).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model import Scene
from segrgbx_core.model.head import FoldedHead
from segrgbx_core.runtime.backends import open_exported
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.checkpoint import LoadedCheckpoint
from segrgbx_core.runtime.devices import (
    DTYPES,
    autocast,
    choose_device,
    choose_precision,
    device_text,
    flushed_denormals,
    keep_freed_memory,
    use_exact_float32,
)
from segrgbx_core.runtime.exported import ExportedModel
from segrgbx_core.runtime.options import Backend, InferenceConfig

_WARM_UP_RUNS = 3
"""Runs before a recording, in which libraries choose kernels and allocate their workspaces."""
_MAX_GRAPH_ERROR = 0.1
"""Largest error of a graph's logits over the change that another picture makes in them.

Libraries may choose other kernels while recording, which round differently; a graph that does not
read the picture is off by 1.
"""

log = logging.getLogger(__name__)

NetworkPart: TypeAlias = Callable[[Tensor, Tensor, Scene], Tensor]
Work: TypeAlias = Callable[[], Tensor]
"""Work to record, or its replay, whose output the next replay overwrites."""
EncodeScene: TypeAlias = Callable[[Batch], Scene]
Poll: TypeAlias = Callable[[], Scene | None]
"""A scene that is being encoded: returns it, or None until it is finished; never waits."""


class Engine(Protocol):
    """Runs the network in two halves.

    Attributes:
        device: where batches must be.
        name: device as text.
        precision: number format of matrix products.
        merged_for: the one modality served, its LoRA merged into MA-CLIP; None: all.
    """

    device: torch.device
    name: str
    precision: str
    merged_for: Modality | None

    @property
    def memory(self) -> int:
        """Bytes of the model."""
        ...

    def encode_scene(self, batch: Batch) -> Scene:
        """The scene of every sample, from MA-CLIP, prompts and refinement."""
        ...

    def coarse_logits(self, batch: Batch, scene: Scene) -> Tensor:
        """Logits (B, C, h, w) over the model's input, on its coarse grid."""
        ...


class EagerEngine:
    """PyTorch, operator by operator or compiled.

    Args:
        checkpoint: weights; the modules are taken over and changed.
        device: where they go.
        precision: fp32, fp16 or bf16.
        config: memory layout, memory allocation and compilation.
        merge_for: the one modality whose LoRA is merged into MA-CLIP's weights; None: none.
    """

    def __init__(
        self,
        checkpoint: LoadedCheckpoint,
        device: torch.device,
        precision: str,
        config: InferenceConfig,
        merge_for: Modality | None = None,
    ) -> None:
        use_exact_float32()
        if device.type == "cpu" and config.keep_memory:
            keep_freed_memory()
        self.device = device
        self.name = device_text(device)
        self.precision = precision
        self.merged_for = merge_for
        self.model = checkpoint.model.eval().to(device)
        self.model.fold()
        self.ma_clip = checkpoint.ma_clip.to(device)
        self._layout = torch.channels_last if config.channels_last else torch.contiguous_format
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d):
                layer.to(memory_format=self._layout)
        if device.type == "cpu" and precision == "bf16":
            keep_patches_exact(self.model)
        if merge_for is not None:
            self.ma_clip.merge(merge_for, keep_base=False)
        # The frozen tower is cast as a whole; SegRGB-X runs under autocast, which keeps norms,
        # softmax and sums in float32.
        self.ma_clip.tower.to(DTYPES[precision])
        cast_products(self.model, DTYPES[precision])
        # Once: state dicts take milliseconds, and every report of the node needs it.
        self._weight_bytes = sum(
            tensor.numel() * tensor.element_size()
            for part in (self.model, self.ma_clip)
            for tensor in part.state_dict().values()
        )
        self._network: NetworkPart = self.model.coarse_logits
        if config.compile:
            self._network = _compiled(self.model.coarse_logits)

    @property
    def memory(self) -> int:
        """Bytes of the weights; on a GPU all that this process has allocated there."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return self._weight_bytes

    def encode_scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        batch = batch.without_border
        if self.model.needs_embeddings:
            rgb_embedding, x_embedding = self.ma_clip(batch.rgb, batch.x, batch.modality)
        else:
            rgb_embedding = x_embedding = batch.rgb.new_zeros(len(batch), self.model.embed_dim)
        with autocast(self.precision, self.device):
            return self.model.encode_scene(rgb_embedding, x_embedding, batch.modality)

    def coarse_logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`."""
        with flushed_denormals(), autocast(self.precision, self.device):
            rgb = batch.rgb.contiguous(memory_format=self._layout)
            x = batch.x.contiguous(memory_format=self._layout)
            return self._network(rgb, x, scene)


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

    On CPUs with bfloat16 instructions oneDNN computes some of them wrongly: with torch 2.15,
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
    """Casts once the weights that autocast would cast in every frame; the bits are the same."""
    exact = [layer.layer for layer in model.modules() if isinstance(layer, ExactLayer)]
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, FoldedHead)) and layer not in exact:
            layer.to(dtype)


def _compiled(network: NetworkPart) -> NetworkPart:
    try:
        return torch.compile(network)
    except RuntimeError as error:
        raise ConfigError(f"model.compile: not available on this machine: {error}") from None


@dataclass(frozen=True, eq=False)
class _RecordedGraph:
    """A graph with the memory that it reads."""

    batch: Batch
    scene: Scene
    replay: Work


class GraphEngine:
    """Another engine with its frame half recorded: one launch per frame instead of a thousand.

    A graph repeats recorded kernels on the same memory: inputs are copied into buffers of its own,
    and its output is overwritten by the next replay. There is one graph per batch shape. Unlike
    `torch.compile(mode="reduce-overhead")`, a graph recorded in one thread may be replayed in
    another.

    A recording that missed the kernels repeats nothing and returns its first logits for ever,
    without an error. Each one is therefore tried on another picture before it is used.

    Args:
        inner: the engine to record; its scene half stays as it is.
        record: runs work, records it and returns its replay: `CudaExecutor.record`.
    """

    def __init__(self, inner: Engine, record: Callable[[Work], Work]) -> None:
        self._inner = inner
        self._record = record
        self._graphs: dict[torch.Size, _RecordedGraph | None] = {}
        self.device = inner.device
        self.name = inner.name
        self.precision = inner.precision
        self.merged_for = inner.merged_for

    @property
    def memory(self) -> int:
        """See `Engine`."""
        return self._inner.memory

    def encode_scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        return self._inner.encode_scene(batch)

    def coarse_logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`; the next call overwrites the result."""
        shape = batch.rgb_pixels.shape
        if shape not in self._graphs:
            self._graphs[shape] = self._verified_graph(batch, scene)
        graph = self._graphs[shape]
        if graph is None:
            return self._inner.coarse_logits(batch, scene)
        _copy_inputs(batch, scene, graph)
        return graph.replay()

    def _verified_graph(self, batch: Batch, scene: Scene) -> _RecordedGraph | None:
        """A graph whose logits for another picture are the engine's, or None."""
        other = replace(batch, rgb_pixels=255 - batch.rgb_pixels, x_pixels=1 - batch.x_pixels)
        # Before recording, which releases the memory that this takes.
        first, expected = (
            _finite(self._inner.coarse_logits(each, scene)) for each in (batch, other)
        )
        graph = self._recorded_graph(batch, scene)
        _copy_inputs(other, scene, graph)
        error = (_finite(graph.replay()) - expected).norm().item()
        change = (first - expected).norm().item()
        if error <= _MAX_GRAPH_ERROR * change:
            return graph
        log.error(
            "cuda_graph: the graph for %d pairs of %dx%d px does not answer like the network: its "
            "logits are off by %.3g where the picture changes them by %.3g; these pairs run "
            "without a graph, which is slower",
            *(len(batch), batch.rgb_pixels.shape[2], batch.rgb_pixels.shape[1], error, change),
        )
        return None

    def _recorded_graph(self, batch: Batch, scene: Scene) -> _RecordedGraph:
        own_batch = replace(
            batch, rgb_pixels=batch.rgb_pixels.clone(), x_pixels=batch.x_pixels.clone()
        )
        own_scene = Scene(
            tuple(part.clone() for part in scene.prompt_kv),
            tuple(part.clone() for part in scene.queries),
        )

        def work() -> Tensor:
            # A new Batch: its cached properties must be computed within the graph.
            return self._inner.coarse_logits(replace(own_batch), own_scene)

        return _RecordedGraph(own_batch, own_scene, self._record(work))


class CudaExecutor:
    """Runs work on a CUDA stream of its own: records graphs, encodes scenes beside the frames.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Graphs that share a memory pool must be recorded on one stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work) -> Work:
        """Runs `work` some times, records it once as a CUDA graph and returns the replay."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP_RUNS):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # torch's default stream would be one of the current device, which may be another one.
        # Other threads of the process, such as a ROS executor's, may use CUDA meanwhile.
        with (
            torch.cuda.device(self._device),
            torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ),
        ):
            output = work()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def submit(self, encode_scene: EncodeScene, batch: Batch) -> Poll:
        """Starts to encode a scene beside the frames and returns at once."""
        # The batch may be the current frame's own and caches `rgb` for it: computed on this
        # stream, the frame would read it too early. `x` is only a view.
        batch = batch.without_border
        rgb = batch.rgb
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            scene = encode_scene(batch)
            finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
            finished.record(self._stream)
        for tensor in (rgb, batch.rgb_pixels, batch.x_pixels, batch.modality):
            tensor.record_stream(self._stream)

        def poll() -> Scene | None:
            if not finished.query():  # type: ignore[no-untyped-call]
                return None
            # From now on the frames' stream reads it: its memory is not free before they are done.
            current = torch.cuda.current_stream(self._device)
            for tensor in (*scene.prompt_kv, *scene.queries):
                tensor.record_stream(current)
            return scene

        return poll


def check_options(config: InferenceConfig) -> None:
    """Refuses options that this machine does not support or that would have no effect.

    Raises:
        ConfigError: for the first such option.
    """
    device = choose_device(config.device)
    if config.backend.runs_exported:
        _check_exported(config, device)
        return
    choose_precision(config.precision, device)
    if config.cuda_graph and device.type != "cuda":
        raise ConfigError(f"cuda_graph: needs a CUDA device, not {device}; leave it out")


def _check_exported(config: InferenceConfig, device: torch.device) -> None:
    backend = config.backend
    for name in ("compile", "cuda_graph"):
        if getattr(config, name):
            raise ConfigError(f"{name}: has no effect with backend {backend.value}; leave it out")
    if backend is not Backend.ONNX and config.device != "auto" and device.type != "cpu":
        raise ConfigError(f"device: backend {backend.value} runs on a CPU, not on {device}")
    if backend is Backend.OPENVINO:
        choose_precision(config.precision, torch.device("cpu"))
    elif config.precision != "auto":
        raise ConfigError(
            f"precision: {config.precision} has no effect with backend {backend.value}, whose "
            "precision was chosen at export or is the provider's; leave it out"
        )


def make_engine(
    checkpoint: LoadedCheckpoint | ExportedModel,
    config: InferenceConfig,
    merge_for: Modality | None = None,
) -> Engine:
    """The engine for a checkpoint or an exported model.

    Args:
        checkpoint: weights or graphs.
        config: where and how they run.
        merge_for: the one modality to serve, or None. Whether an exported model has its LoRA
            merged was decided at export.

    Raises:
        ConfigError: when the options do not fit this machine, each other or the model.
    """
    check_options(config)
    device = choose_device(config.device)
    if isinstance(checkpoint, ExportedModel):
        return open_exported(checkpoint, config, device, merge_for)
    if config.backend.runs_exported:
        raise ConfigError(
            f"backend: {config.backend.value} runs exported models; export the checkpoint first"
        )
    precision = choose_precision(config.precision, device)
    engine: Engine = EagerEngine(checkpoint, device, precision, config, merge_for)
    if config.cuda_graph:
        engine = GraphEngine(engine, CudaExecutor(device).record)
    return engine


def _finite(logits: Tensor) -> Tensor:
    """Logits in float32; 0 where not finite, which says nothing about a graph."""
    return logits.float().nan_to_num(0.0, 0.0, 0.0)


def _copy_inputs(batch: Batch, scene: Scene, graph: _RecordedGraph) -> None:
    graph.batch.rgb_pixels.copy_(batch.rgb_pixels, non_blocking=True)
    graph.batch.x_pixels.copy_(batch.x_pixels, non_blocking=True)
    pairs = zip(
        (*graph.scene.prompt_kv, *graph.scene.queries),
        (*scene.prompt_kv, *scene.queries),
        strict=True,
    )
    for own, given in pairs:
        own.copy_(given, non_blocking=True)
