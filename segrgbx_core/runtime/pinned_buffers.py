"""Memory from which batches travel to the device.

A copy to a GPU runs beside other work only from page-locked memory, and what is copied must not be
overwritten meanwhile: buffers take turns. On a CPU nothing travels and nothing is kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_TURNS = 2


class Staging:
    """Host memory of batches, and their way to one device. One thread at a time.

    Args:
        device: where batches go.
        keeps: hold buffers and reuse them in turns; None: where the device is a GPU.
    """

    def __init__(self, device: torch.device, keeps: bool | None = None) -> None:
        self.device = device
        self._is_cuda = device.type == "cuda"
        self._keeps = self._is_cuda if keeps is None else keeps
        self._turn = 0
        self._buffers: dict[tuple[int, str], Tensor] = {}
        self._copied: dict[int, torch.cuda.Event] = {}

    def next_batch(self) -> None:
        """Begins a batch; waits until the one that used these buffers before has left them."""
        self._turn = (self._turn + 1) % _TURNS
        if self._turn in self._copied:
            self._copied[self._turn].synchronize()

    def array(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> NDArray[np.generic]:
        """Memory for one part of the batch; its content is whatever was there.

        Args:
            name: of the part; every part of a batch has its own.
            shape: wanted.
            dtype: wanted.
        """
        if not self._keeps:
            return torch.empty(shape, dtype=dtype).numpy()
        key = (self._turn, name)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != shape or buffer.dtype != dtype:
            buffer = torch.empty(shape, dtype=dtype, pin_memory=self._is_cuda)
            self._buffers[key] = buffer
        return buffer.numpy()

    def send(self, *arrays: NDArray[np.generic]) -> list[Tensor]:
        """The parts of the batch on the device; on a CPU they share the arrays' memory."""
        tensors = [torch.from_numpy(array) for array in arrays]
        if not self._is_cuda:
            return tensors
        sent = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._copied[self._turn] = event
        return sent
