"""Stage 1: trains the LoRA pool of MA-CLIP by contrast with captions (paper, III-B).

python -m training.train_ma_clip config/train/ma_clip.yaml [--set run.steps=100 ...] [--precompute]

Needs the captions that `python -m training.captions` writes. The same command again resumes. The
run's folder gets `best/<modality>.safetensors` (adapters), `tower.safetensors` (the frozen base),
`texts.safetensors`, `metrics.jsonl`, `config.yaml`, `environment.json`, `log.txt`; with
`--precompute` also `embeddings/`, which stage 2 reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.engine.loop import leave_processes
from training.engine.run import log_to_terminal
from training.stage1.config import read_ma_clip_run
from training.stage1.task import train


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "config", type=path_text, help="run file, such as config/train/ma_clip.yaml"
    )
    add_set_option(parser, "changes one option")
    parser.add_argument(
        "--precompute", action="store_true", help="embed all frames for stage 2 at the end"
    )
    args = parser.parse_args(arguments)
    log_to_terminal()
    train(read_ma_clip_run(args.config, args.set), args.precompute)
    leave_processes()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
