"""Adds a modality to a trained checkpoint: learns its prompts and adapter, all else stays.

    python -m training.add_modality CHECKPOINT --name lidar --encoder picture \
        --data synthetic_street=DATA --out runs/lidar
    python -m training.add_modality CHECKPOINT --name nir --data folder=DATA --out runs/nir \
        --set definition.low=0 definition.high=255 run.steps=600

The run's folder gets `best.safetensors`, a checkpoint for node, replay, export and bench, and
`<name>_best.safetensors`, what the modality adds. Answers for the modalities that the checkpoint
had keep every bit. The same command again resumes a run that was stopped.
`python -m training.add_modality.merge` combines what several teams added.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.add_modality.config import add_run
from training.add_modality.task import add_modality
from training.data.datasets import READERS
from training.engine.loop import leave_processes
from training.engine.run import log_to_terminal


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("checkpoint", type=path_text, help="trained SegRGB-X")
    add("--name", required=True, help="what the modality is called in YAML, topics and reports")
    add("--encoder", default="", help="picture (the usual), or that of one of the five")
    add(
        "--data",
        required=True,
        action="append",
        dest="sources",
        metavar="READER=FOLDER",
        help=f"what to learn from; readers: {', '.join(READERS)}; several: once each",
    )
    add("--out", type=path_text, required=True, help="folder of the run")
    add_set_option(parser, "changes one option, such as definition.high=60 or run.steps=800")
    args = parser.parse_args(arguments)
    log_to_terminal()
    names = (args.name, args.encoder)
    add_modality(add_run(args.checkpoint, names, args.sources, args.out, args.set))
    leave_processes()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
