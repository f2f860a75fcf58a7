"""The synthetic benchmark: is X used, what is it worth, and does one model do for all five?

python -m training.synthetic_benchmark --scale reduced --out runs/synthetic_benchmark

Renders fixed scenes (train and test seeds never meet), trains every variant of
`experiments.variants.BENCHMARK`, and writes `report.md`, `report.json` and charts. The same
command goes on where it stopped. Synthetic scenes only: nothing here speaks of real roads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.experiments.benchmark import BenchmarkScores, render_scenes, score_all
from training.experiments.pages import write_benchmark
from training.experiments.trials import train_in_parallel
from training.experiments.variants import SCALES, benchmark_runs


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--scale", choices=list(SCALES), default="reduced")
    add("--out", type=user_path, default=Path("runs/synthetic_benchmark"))
    add("--data", type=user_path, help="folder of rendered scenes (default: OUT/data)")
    add("--workers", type=int, default=2, help="processes that render and train")
    add("--device", default="auto", help="auto or cpu")
    add_set_option(parser, "changes every run")
    args = parser.parse_args(argv)
    scale, out = SCALES[args.scale], args.out / args.scale
    data = args.data or out / "data"
    began = time.monotonic()
    render_scenes(data, scale, args.workers)
    overrides = [f"run.device={args.device}", *args.set]
    runs = benchmark_runs(scale, data, out / "runs", overrides)
    checkpoints = train_in_parallel(runs, args.workers)
    scores = score_all(scale, checkpoints, data, out / "scores", args.device)
    minutes = (time.monotonic() - began) / 60
    page = write_benchmark(out, BenchmarkScores(args.scale, scale, scores, minutes))
    print(f"{page}: {minutes:.1f} minutes, {len(runs)} trainings, {len(scores)} scores")
    return 0


if __name__ == "__main__":
    sys.exit(main())
