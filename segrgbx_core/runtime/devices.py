"""The machine: devices, number formats, threads, memory allocation and timing."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from segrgbx_core.base.errors import ConfigError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Number formats by their names in options."""
_NO_MEMORY = (
    "can't allocate memory",
    "Failed to allocate memory for requested buffer",
    "std::bad_alloc",
)
"""What errors of memory say that have no type of their own."""
# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def choose_device(name: str) -> torch.device:
    """The device named `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: when the device does not exist or is not supported.
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
        present = f"torch sees {count} CUDA devices" if count else "torch sees no CUDA device"
        raise ConfigError(f"device: '{name}' cannot be used, {present}; use auto or cpu")
    return torch.device("cuda", index)


def choose_precision(name: str, device: torch.device) -> str:
    """The precision named `auto`, or `name` where the device supports it.

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


def use_exact_float32() -> None:
    """Switches TF32 off for the whole process: on a GPU it rounds factors to 10 bits.

    torch's default allows it for convolutions alone.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def use_threads(count: int) -> int:
    """Sets the number of threads of a CPU pass, for the whole process.

    More is not faster when message handling needs processors too: threads of a pass spin while
    they wait for one another. Measured with the demo's model on two processors, one of them busy:
    70 ms of processor time per frame with one thread, 700 ms with two.

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
    """Computes products in this precision; norms, softmax and sums stay in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Flushes numbers below 1e-38 to zero on the CPU, where they are some hundred times slower.

    The network produces many: the fusion's contexts are softmax values of wide range. Applies to
    the calling thread and to threads started inside the block.
    """
    was_on = bool((torch.tensor(1e-38) * 0.1) == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


def device_text(device: torch.device) -> str:
    """Text for logs, such as `cpu` or `cuda:0 (NVIDIA Orin)`."""
    if device.type != "cuda":
        return str(device)
    return f"{device} ({torch.cuda.get_device_name(device)})"


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next allocations; the process stays at its peak size.

    Every operator allocates its result. By default glibc requests large blocks from the system and
    returns them as soon as they are freed, so the network keeps touching fresh pages: for b2 at
    512x512, a hundred thousand page faults a frame and 10 to 20 % of its time on a CPU.

    Returns:
        False where the C library has no such settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # One arena: those of further threads are split into blocks too small for large blocks.
    options = (
        (_M_MMAP_THRESHOLD, 2**30),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_ARENA_MAX, 1),
    )
    return all(bool(mallopt(option, value)) for option, value in options)


class StageTimer:
    """Durations of consecutive stages; on a GPU measured by events, without synchronising.

    Args:
        device: where the stages run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._marks = [self._mark()]

    def end_stage(self, name: str) -> None:
        """Ends the stage that began with the end of the previous one."""
        self._names.append(name)
        self._marks.append(self._mark())

    def durations_ms(self) -> dict[str, float]:
        """Milliseconds of each stage; waits for the last one to finish."""
        durations = map(self._elapsed_ms, self._marks[:-1], self._marks[1:])
        return dict(zip(self._names, durations, strict=True))

    def _mark(self) -> float | torch.cuda.Event:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    @staticmethod
    def _elapsed_ms(start: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        if isinstance(start, float) and isinstance(end, float):
            return (end - start) * 1e3
        assert isinstance(start, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        end.synchronize()
        return start.elapsed_time(end)


def is_out_of_memory(error: BaseException) -> bool:
    """True for errors that mean that device or host have no memory left."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # Neither PyTorch's allocator for the host nor ONNX Runtime has an exception of its own.
    return any(sign in str(error) for sign in _NO_MEMORY)
