"""The frame half of the network as CUDA graphs: one launch per frame instead of about a thousand.

A graph repeats recorded kernels on the same memory, so its inputs are copied into buffers that it
was recorded with, and its output is overwritten by the next replay. One graph per batch shape;
all share one memory pool. The caller's thread owns buffers and output until its next call; unlike
`torch.compile(mode="reduce-overhead")`, a graph recorded in one thread may be replayed in another.

A graph that missed the work repeats nothing and answers with its first picture for ever, without
an error. So each one is tried on another picture before it is used.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.engine import Engine

_DRY_RUNS = 3
"""Runs before recording, in which libraries choose their kernels and allocate what they keep."""
_MAX_ERROR = 0.1
"""Largest error of a graph's logits over what another picture changes in them.

Libraries may choose other kernels while recording, whose sums round otherwise; a graph that does
not see the picture is off by 1.
"""

log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[], Tensor]
"""What is recorded; or its repetition, whose output the next repetition overwrites."""


class Recorder(Protocol):
    """Records work on a device; `CudaRecorder`, or a double on machines without a GPU."""

    def record(self, work: Work) -> Work:
        """Runs `work` some times, records it once and returns what repeats it."""
        ...


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A graph with the memory that it reads."""

    batch: Batch
    scene: Scene
    replay: Work


class GraphEngine:
    """Another engine with its frame half recorded, where what was recorded answers like it.

    Args:
        inner: does the work while it is recorded; its scene half stays as it is.
        recorder: records and replays.
    """

    def __init__(self, inner: Engine, recorder: Recorder) -> None:
        self._inner = inner
        self._recorder = recorder
        self._graphs: dict[torch.Size, _Recorded | None] = {}
        self.device = inner.device
        self.name = inner.name
        self.precision = inner.precision
        self.merged_for = inner.merged_for

    @property
    def memory(self) -> int:
        """See `Engine`."""
        return self._inner.memory

    def scene(self, batch: Batch) -> Scene:
        """See `Engine`."""
        return self._inner.scene(batch)

    def logits(self, batch: Batch, scene: Scene) -> Tensor:
        """See `Engine`; the next call overwrites the result."""
        shape = batch.rgb_pixels.shape
        if shape not in self._graphs:
            self._graphs[shape] = self._tried(batch, scene)
        recorded = self._graphs[shape]
        if recorded is None:
            return self._inner.logits(batch, scene)
        _copy(batch, scene, recorded)
        return recorded.replay()

    def _tried(self, batch: Batch, scene: Scene) -> _Recorded | None:
        """A graph that answers for another picture what the engine answers, or None."""
        other = replace(batch, rgb_pixels=255 - batch.rgb_pixels, x_pixels=1 - batch.x_pixels)
        # Before recording, which gives back the memory that this takes.
        first, expected = (_numbers(self._inner.logits(each, scene)) for each in (batch, other))
        recorded = self._record(batch, scene)
        _copy(other, scene, recorded)
        error = (_numbers(recorded.replay()) - expected).norm().item()
        change = (first - expected).norm().item()
        if error <= _MAX_ERROR * change:
            return recorded
        log.error(
            "cuda_graph: the graph for %d pairs of %dx%d px does not answer like the network: its "
            "logits are off by %.3g where the picture changes them by %.3g; these pairs run "
            "without a graph, which is slower",
            *(len(batch), batch.rgb_pixels.shape[2], batch.rgb_pixels.shape[1], error, change),
        )
        return None

    def _record(self, batch: Batch, scene: Scene) -> _Recorded:
        own_batch = replace(
            batch, rgb_pixels=batch.rgb_pixels.clone(), x_pixels=batch.x_pixels.clone()
        )
        own_scene = Scene(
            tuple(part.clone() for part in scene.prompt_kv),
            tuple(part.clone() for part in scene.queries),
        )

        def work() -> Tensor:
            # A fresh view: what the batch has cached must be computed within the graph.
            return self._inner.logits(replace(own_batch), own_scene)

        return _Recorded(own_batch, own_scene, self._recorder.record(work))


class CudaRecorder:
    """Records CUDA graphs of one device.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # Graphs that share a pool are recorded on one stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Work) -> Work:
        """See `Recorder`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_DRY_RUNS):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Left to torch, the stream would be one of the current device, which need not be ours.
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


def _numbers(logits: Tensor) -> Tensor:
    """Logits in float32; 0 for what is no number, which says nothing about a graph."""
    return logits.float().nan_to_num(0.0, 0.0, 0.0)


def _copy(batch: Batch, scene: Scene, recorded: _Recorded) -> None:
    recorded.batch.rgb_pixels.copy_(batch.rgb_pixels, non_blocking=True)
    recorded.batch.x_pixels.copy_(batch.x_pixels, non_blocking=True)
    pairs = zip(
        (*recorded.scene.prompt_kv, *recorded.scene.queries),
        (*scene.prompt_kv, *scene.queries),
        strict=True,
    )
    for own, given in pairs:
        own.copy_(given, non_blocking=True)
