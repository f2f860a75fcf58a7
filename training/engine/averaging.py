"""Averaged weights: what a run scores and saves in place of its last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from training.engine.schedule import ema_factor


class AveragedWeights:
    """Exponential moving average of trained values and of buffers that change."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in _trained(module)}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Moves the average towards the module's present weights."""
        share = 1.0 - ema_factor(self.decay, step)
        for name, value in _trained(module):
            self.values[name].lerp_(value.detach(), share)

    @contextmanager
    def swapped_in(self, module: nn.Module) -> Iterator[None]:
        """Lets the module hold the average for a while."""
        own = {name: value.detach().clone() for name, value in _trained(module)}
        _load(module, self.values)
        try:
            yield
        finally:
            _load(module, own)


def _trained(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from (item for item in module.named_parameters() if item[1].requires_grad)
    yield from (item for item in module.named_buffers() if "running_" in item[0])


@torch.no_grad()
def _load(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in _trained(module):
        value.copy_(values[name])
