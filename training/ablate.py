"""Trains and scores the arms of one of the paper's ablation tables.

python -m training.ablate components RUN.yaml --out runs/ablation --seeds 0,1,2

Every arm is the run file with the table's options changed (`experiments.variants`).
The same command goes on after a stop; finished arms are not repeated. `--count-only`
prints parameters and multiply-adds and trains nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.engine.loop import leave_processes
from training.engine.run import log_to_terminal
from training.experiments.ablation import ablate, variant_costs
from training.experiments.pages import cost_table
from training.experiments.trials import is_first_process
from training.experiments.variants import TABLES
from training.stage2.config import read_run


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _parser().parse_args(arguments)
    log_to_terminal()
    table = TABLES[args.table]
    # Every trial has its own folder, so the run file need not name one.
    config = read_run(args.run, [*args.set, f"run.out={args.out or '.'}"])
    if args.count_only:
        sys.stdout.write(cost_table(table, variant_costs(table, config, args.only)))
        return 0
    if not args.out:
        raise ConfigError("--out: name the folder for pages and trainings")
    seeds = _seeds(args.seeds) or [config.run.seed]
    ablate(table, config, Path(args.out), seeds, args.only, Path(args.run).name)
    leave_processes()
    if is_first_process():
        page = Path(args.out) / f"{table.name}.md"
        sys.stdout.write(page.read_text(encoding="utf-8"))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("table", choices=list(TABLES), help="which of the paper's ablations")
    parser.add_argument("run", type=path_text, help="run file that the arms change")
    parser.add_argument("--out", type=path_text, default="", help="folder of pages and trainings")
    parser.add_argument("--seeds", default="", help="such as 0,1,2; the run file's when left out")
    parser.add_argument("--only", nargs="+", default=[], metavar="ARM", help="arms to run")
    add_set_option(parser, "changes the run file")
    parser.add_argument(
        "--count-only", action="store_true", help="print parameters and multiply-adds, no training"
    )
    return parser


def _seeds(text: str) -> list[int]:
    if not text:
        return []
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts) or len(set(parts)) != len(parts):
        raise ConfigError(f"--seeds {text}: expected different numbers, such as 0,1,2")
    return [int(part) for part in parts]


if __name__ == "__main__":
    raise SystemExit(main())
