"""Combines modalities that several teams added to one checkpoint, without training.

    python -m training.add_modality.merge LIDAR.safetensors NIR.safetensors --out both.safetensors

Each file is a checkpoint that `training.add_modality` wrote or, beside at least one of these, the
small file of one modality. Answers for every modality are those of its own file, bit by bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from segrgbx_core.base.errors import ConfigError, command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.overrides import CommandParser
from training.add_modality.addition import merge, read_parts, write_checkpoint


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+", type=path_text, help="checkpoints and additions")
    parser.add_argument("--out", type=path_text, required=True, help="checkpoint to write")
    args = parser.parse_args(arguments)
    if Path(args.out).exists():
        raise ConfigError(f"--out {args.out}: exists; name a new file")
    parts = merge([read_parts(path) for path in args.file])
    contract = write_checkpoint(args.out, parts)
    print(f"{args.out}: {', '.join(contract.modalities)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
