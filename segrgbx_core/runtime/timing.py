"""How long the stages of a call took."""

from __future__ import annotations

import time

import torch


class StageClock:
    """Durations of consecutive stages; on a GPU by events, so that nothing waits in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._marks = [self._mark()]

    def lap(self, name: str) -> None:
        """Ends the stage that began at the lap before."""
        self._names.append(name)
        self._marks.append(self._mark())

    def read(self) -> dict[str, float]:
        """Milliseconds of each stage; waits until the last one has finished."""
        starts, ends = self._marks[:-1], self._marks[1:]
        return {
            name: self._between(start, end)
            for name, start, end in zip(self._names, starts, ends, strict=True)
        }

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _between(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if isinstance(start, float) and isinstance(end, float):
            return (end - start) * 1e3
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return start.elapsed_time(end)
