"""Memory of a process, as Linux reports it."""

from __future__ import annotations

from pathlib import Path

MIB = 2**20


def memory_mib(pid: int | str = "self", peak: bool = False) -> float:
    """Resident memory of a process in MiB; NaN where the system does not report it.

    Args:
        pid: of the process.
        peak: True for the largest value so far.
    """
    field = "VmHWM:" if peak else "VmRSS:"
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        return int(text.partition(field)[2].split(maxsplit=1)[0]) / 1024  # stated in KiB
    except (OSError, IndexError):
        return float("nan")


def reset_peak() -> None:
    """Makes the peak of this process begin anew.

    Raises:
        OSError: where the system cannot.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
