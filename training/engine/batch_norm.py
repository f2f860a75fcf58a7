"""Whose statistics BatchNorm takes: each part's own, those of all devices, or kept ones.

FRM, FFM and the head normalise by statistics of the batch. A step that is spread over devices, or
taken in parts, therefore is not quite the step with the whole batch, unless one of the two other
modes is chosen.

Dimensions: B samples, C channels, H W pixels.
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


class BatchNormMode(str, Enum):
    """Which samples BatchNorm takes mean and variance from while training."""

    OWN = "own"
    """Those that a device has at once, as usual."""
    SHARED = "shared"
    """Those that all devices have at once."""
    FROZEN = "frozen"
    """None: the statistics of the loaded checkpoint stay, for fine-tuning with small batches."""


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over the samples of all processes, with the gradients of one large batch.

    The same as torch's SyncBatchNorm, which does not run on CPUs and so could not be tested here.
    Every process must hold images of one size; the number of samples may differ.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalised x, (B, C, H, W)."""
        if not self.training or not is_parallel():
            return super().forward(x)
        values = x.float()
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums = _sum_over_devices(torch.cat([values.sum(dim=(0, 2, 3)), count]))  # (C + 1,)
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[:, None, None]
        variance = _sum_over_devices(centred.square().sum(dim=(0, 2, 3))) / total
        self._remember(mean.detach(), variance.detach(), total)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * total / (total - 1).clamp(min=1), self.momentum)


def share_statistics(module: nn.Module) -> None:
    """Puts `SharedBatchNorm2d` in the place of every BatchNorm; weights keep their names."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum)
            shared.load_state_dict(child.state_dict())
            shared.weight, shared.bias = child.weight, child.bias
            setattr(module, name, shared.to(child.weight.device))
        else:
            share_statistics(child)


def set_training(module: nn.Module, mode: BatchNormMode) -> None:
    """`module.train()`, after which frozen BatchNorms use the statistics that they hold.

    A BatchNorm whose weights are not trained is frozen in every mode.
    """
    module.train()
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            is_trained = child.weight is None or child.weight.requires_grad
            if mode is BatchNormMode.FROZEN or not is_trained:
                child.eval()


def _sum_over_devices(values: Tensor) -> Tensor:
    summed: Tensor = all_reduce(values)  # type: ignore[no-untyped-call]
    return summed


def is_parallel() -> bool:
    """True where several processes train one model."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )
