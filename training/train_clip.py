"""Trains the small CLIP that stage 1 starts from: image and text tower, all weights free.

python -m training.train_clip config/train/clip.yaml [--set run.steps=100 ...]

Needs the captions that `python -m training.captions RUN --backend scene` writes. The same command
again resumes. The run's folder gets `best.safetensors` (both towers: `text.model: small` and
`text.weights` of stage 1), `metrics.jsonl`, `config.yaml`, `environment.json` and `log.txt`.
"""

from __future__ import annotations

from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.engine.loop import leave_processes
from training.engine.run import log_to_terminal
from training.stage1.clip_task import train_clip
from training.stage1.config import read_clip_run


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("config", type=path_text, help="run file, such as config/train/clip.yaml")
    add_set_option(parser, "changes one option")
    args = parser.parse_args(arguments)
    log_to_terminal()
    train_clip(read_clip_run(args.config, args.set))
    leave_processes()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
