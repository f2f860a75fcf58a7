"""Cost of a process up to its first answer: `python -m segrgbx_core.bench.startup CHECKPOINT`.

Run it in a fresh process; what is imported once is free the second time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.process_memory import memory_mib


@command(ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints CPU time and memory after the import, after loading and after the first answer."""
    parser = argparse.ArgumentParser(prog="python -m segrgbx_core.bench.startup")
    parser.add_argument("checkpoint", type=path_text)
    parser.add_argument("--modality", default="thermal")
    args = parser.parse_args(arguments)
    rows = []
    start = time.process_time(), time.perf_counter()
    # Late: the import is what is measured.
    from segrgbx_core.base.modality import Modality  # noqa: PLC0415
    from segrgbx_core.base.tables import markdown_table  # noqa: PLC0415
    from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter  # noqa: PLC0415

    rows.append(_row("import", start))
    modality = Modality(args.modality)
    config = InferenceConfig(device="cpu")
    segmenter = Segmenter.from_checkpoint(args.checkpoint, config, merge_for=modality)
    rows.append(_row("loading", start))
    segmenter.warm_up(modalities=[modality])
    rows.append(_row("first answer", start))
    header = ["after", "CPU s", "wall s", "resident MiB", "peak MiB"]
    sys.stdout.write(markdown_table(header, rows) + "\n")
    return 0


def _row(stage: str, start: tuple[float, float]) -> list[str]:
    cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
    memory = (memory_mib(), memory_mib(peak=True))
    return [stage, f"{cpu:.2f}", f"{wall:.2f}", *(f"{value:.0f}" for value in memory)]


if __name__ == "__main__":
    raise SystemExit(main())
