"""What a process pays before its first answer: `python -m segrgbx_core.bench.startup CHECKPOINT`.

Run it in a fresh process; what is imported once is free the second time.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text

_STATUS = Path("/proc/self/status")


@command(ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints CPU time and memory after the import, after loading and after the first answer."""
    parser = argparse.ArgumentParser(prog="python -m segrgbx_core.bench.startup")
    parser.add_argument("checkpoint", type=path_text)
    parser.add_argument("--modality", default="thermal")
    chosen = parser.parse_args(arguments)
    lines = ["| after | CPU s | wall s | resident MiB | peak MiB |", "|---|---:|---:|---:|---:|"]
    start = time.process_time(), time.perf_counter()
    # Late: the import is what is measured.
    from segrgbx_core.base.modality import Modality  # noqa: PLC0415
    from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter  # noqa: PLC0415

    lines.append(_row("import", start))
    modality = Modality(chosen.modality)
    config = InferenceConfig(device="cpu")
    segmenter = Segmenter.from_checkpoint(chosen.checkpoint, config, merge_for=modality)
    lines.append(_row("loading", start))
    segmenter.warm_up(modalities=[modality])
    lines.append(_row("first answer", start))
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _row(what: str, start: tuple[float, float]) -> str:
    cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    return f"| {what} | {cpu:.2f} | {wall:.2f} | {_resident():.0f} | {peak:.0f} |"


def _resident() -> float:
    """Resident memory in MiB; NaN where the system does not tell."""
    if not _STATUS.is_file():
        return float("nan")
    text = _STATUS.read_text(encoding="ascii")
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
