"""Which device and number format the options stand for on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from segrgbx_core.base.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats by the names that options have for them."""


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` stands for.

    Raises:
        ConfigError: when a GPU is asked for by name and is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: '{name}' is not one of auto, cpu, cuda, cuda:N") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ConfigError(f"device: '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    # Not `device.index`: torch keeps 8 bits of the number, so that 256 would be the first GPU.
    index = int(name.partition(":")[2] or 0)
    if index >= count:
        found = f"{count} CUDA devices are there" if count else "torch sees no CUDA device"
        raise ConfigError(f"device: '{name}' cannot be used, {found}; use auto or cpu")
    return torch.device("cuda", index)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision that `auto` stands for on this device, or `name` where the device can do it.

    Raises:
        ConfigError: when the device cannot compute in it.
    """
    if name == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if name not in DTYPES:
        raise ConfigError(f"precision: '{name}' is not one of auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise ConfigError("precision: fp16 is not supported on a CPU; use bf16, fp32 or auto")
    return name


def use_threads(count: int) -> int:
    """Sets how many threads a pass on the CPU takes, for the whole process.

    More is not faster when messages need processors too: threads of a pass spin while they wait
    for one another. Measured with the demo's model on two processors, one of them busy: 70 ms of
    processor time per frame with one thread, 700 ms with two.

    Args:
        count: as `InferenceConfig.threads`, 0 for automatic.

    Returns:
        the number in force.
    """
    if count == 0 and "OMP_NUM_THREADS" not in os.environ:
        has_affinity = hasattr(os, "sched_getaffinity")  # Linux only
        processors = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        count = max(1, processors // 2)
    if count:
        torch.set_num_threads(count)
    return torch.get_num_threads()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Runs products in this precision and leaves norms, softmax and sums in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Takes numbers below 1e-38 for zero on the CPU, where they are some hundred times slower.

    The network makes many: the fusion's contexts are softmax values of wide range. It holds for
    the calling thread and for threads that it starts meanwhile.
    """
    was_on = bool((torch.tensor(1e-38) * 0.1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


def device_text(device: torch.device) -> str:
    """The device in words, such as `cpu` or `cuda:0 (NVIDIA Orin)`."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"
