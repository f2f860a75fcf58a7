"""What names the data sets of a command line: a reader with folders, or a run file."""

from __future__ import annotations

import argparse

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from training.data.datasets import READERS
from training.eval.eval_data import EvalSplit, open_splits, open_splits_of_run
from training.stage2.config import read_run


def add_data_options(parser: CommandParser) -> None:
    """Adds what names the data sets of a command; see `open_pools`."""
    data = parser.add_argument_group("data")
    data.add_argument("--reader", default="synthetic_street", help=", ".join(READERS))
    data.add_argument(
        "--root",
        type=path_text,
        action="append",
        default=[],
        help="folder of the data set; several are pooled",
    )
    data.add_argument(
        "--run", type=path_text, default="", help="run file whose data sets are scored instead"
    )
    data.add_argument(
        "--split",
        default="val",
        help="split of every data set; with --run, val and train mean what the run file says; "
        "published: what papers report on",
    )
    data.add_argument("--modality", default="", help="X; empty for the data set's usual one")
    add_set_option(
        data, "options of the data set; with --run options of the run, such as data.0.root=DATA"
    )
    data.add_argument("--limit", type=int, default=0, help="samples per root, 0 for all")


def open_pools(args: argparse.Namespace, split: str) -> list[list[EvalSplit]]:
    """What a command line names, opened before anything is computed; splits of one set pooled.

    Args:
        args: of a parser with `add_data_options`.
        split: as its `--split`.
    """
    if args.run:
        if args.root:
            raise ConfigError("--root has no effect with --run; set data.0.root=DATA instead")
        run = read_run(args.run, args.set)
        return open_splits_of_run(run.data, run.sensor, split)
    if not args.root:
        raise ConfigError("name the data set's folder with --root, or a run file with --run")
    options = apply_overrides({}, args.set)
    return [open_splits(args.reader, args.root, split, args.modality, options)]
