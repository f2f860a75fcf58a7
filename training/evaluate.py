"""Scores a checkpoint on data sets, through the same `Segmenter` that a vehicle runs.

    python -m training.evaluate CHECKPOINT --reader mfnet --root DATA --split test --out REPORT
    python -m training.evaluate CHECKPOINT --run RUN.yaml --split published --out REPORT

The second form scores all data sets of a run file and adds the joint table. Several `--root` of
one data set are pooled into one matrix, such as the real and the synthetic part of UrbanLF.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.config import from_mapping
from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from segrgbx_core.runtime.segmenter import InferenceConfig
from training.data.datasets import READERS
from training.eval.eval_data import EvalSplit, open_splits, open_splits_of_run
from training.eval.report import JointReport
from training.eval.scoring import EvalOptions, evaluate_splits
from training.eval.test_time_augmentation import Fit, TtaConfig
from training.stage2.config import read_run


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    args = _parser().parse_args(arguments)
    pools = open_pools(args, args.split)
    config = _inference(args)
    options = EvalOptions(
        augmentation=_augmentation(args),
        space=args.space,
        limit=args.limit,
        batch_size=args.batch_size,
        workers=args.workers,
        progress=True,
    )
    reports = [evaluate_splits(args.checkpoint, pool, config, options) for pool in pools]
    report = JointReport(tuple(reports)) if args.run else reports[0]
    sys.stdout.write(report.to_markdown())
    if args.out:
        report.write(Path(args.out))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=path_text)
    add_data_options(parser)
    views = parser.add_argument_group("views")
    views.add_argument(
        "--size", type=image_size, metavar="WxH", help="model's input, as trained if left out"
    )
    views.add_argument(
        "--fit", default=Fit.WHOLE.value, help=TtaConfig.model_fields["fit"].description
    )
    views.add_argument("--scales", nargs="+", type=float, default=[1.0])
    views.add_argument("--flip", action="store_true", help="average with the mirrored frame")
    views.add_argument("--stride", type=float, help="step between windows, share of a window")
    views.add_argument(
        "--space", default="", help="unified, or empty for the data set's own classes"
    )
    machine = parser.add_argument_group("machine")
    machine.add_argument("--device", default="auto")
    machine.add_argument("--precision", default="auto")
    machine.add_argument("--batch-size", type=int, default=EvalOptions.batch_size)
    machine.add_argument("--workers", type=int, default=2, help="threads that read ahead")
    parser.add_argument(
        "--out", type=path_text, default="", help="folder for report.md, report.json, pictures"
    )
    return parser


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


def _inference(args: argparse.Namespace) -> InferenceConfig:
    height, width = args.size or (0, 0)
    return from_mapping(
        InferenceConfig,
        {
            "device": args.device,
            "precision": args.precision,
            "input_height": height,
            "input_width": width,
        },
        "command line",
    )


def _augmentation(args: argparse.Namespace) -> TtaConfig:
    views: dict[str, Any] = {"fit": args.fit, "scales": args.scales, "flip": args.flip}
    if args.stride is not None:
        if args.fit != Fit.WINDOW.value:
            raise ConfigError("--stride has no effect without --fit window")
        views["stride"] = args.stride
    if args.size and args.fit == Fit.NATIVE.value:
        raise ConfigError("--size has no effect with --fit native; leave one out")
    return from_mapping(TtaConfig, views, "command line")


if __name__ == "__main__":
    raise SystemExit(main())
