"""Stage 2: trains SegRGB-X beside a frozen MA-CLIP.

python -m training.train_segmentation config/train/demo_thermal.yaml [--set run.steps=100 ...]

The same command again resumes a run that was stopped. One GPU, several (`accelerate launch -m
training.train_segmentation ...`) or a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.engine.loop import leave_processes
from training.engine.run import log_to_terminal
from training.stage2.config import read_run
from training.stage2.task import train


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "config", type=path_text, help="run file, such as config/train/demo_thermal.yaml"
    )
    add_set_option(parser, "changes one option")
    args = parser.parse_args(arguments)
    log_to_terminal()
    train(read_run(args.config, args.set))
    leave_processes()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
