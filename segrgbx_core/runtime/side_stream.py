"""Makes scenes on a CUDA stream of their own, beside the frames and with their priority."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch
from segrgbx_core.runtime.scene_cache import Encode, Pending


@dataclass(frozen=True, eq=False)
class _Scheduled:
    """A scene that the side stream works at; `batch` must live as long."""

    scene: Scene
    batch: Batch
    finished: torch.cuda.Event
    device: torch.device

    def ready(self) -> Scene | None:
        """See `Pending`."""
        if not self.finished.query():  # type: ignore[no-untyped-call]
            return None
        # The frames' stream reads it from now on: its memory is not free before they are done.
        current = torch.cuda.current_stream(self.device)
        for tensor in (*self.scene.prompt_kv, *self.scene.queries):
            tensor.record_stream(current)
        return self.scene


class SideStream:
    """A lane for `SceneCache` on a GPU.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, encode: Encode, batch: Batch) -> Pending:
        """See `Lane`."""
        # The batch may be the frame's own and keeps `rgb` for it: made on the side stream, the
        # frame would read it too early. `x` is no more than a view.
        rgb = batch.rgb
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            scene = encode(batch)
            finished = torch.cuda.Event()  # type: ignore[no-untyped-call]
            finished.record(self._stream)
        for tensor in (rgb, batch.rgb_pixels, batch.x_pixels, batch.modality):
            tensor.record_stream(self._stream)
        return _Scheduled(scene, batch, finished, self._device)
