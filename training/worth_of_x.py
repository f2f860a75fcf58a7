"""What X is worth to a checkpoint, beside another one that sees RGB alone, on rendered scenes.

    python -m training.world.render --out DATA/test --seeds 22000:22060 --sensors all
    python -m training.worth_of_x CHECKPOINT RGB_ONLY --root DATA

Both answer the same frames; gains come with their standard error over the choice of scenes (paired
bootstrap). What chance in training does is not in it: there is one checkpoint of each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from training.experiments.x_ablation import x_ablation


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("checkpoint", type=user_path, help="serves the modalities")
    add("rgb_only", type=user_path, help="is given a black X")
    add("--root", type=user_path, required=True, help="folder with the rendered split `test`")
    add("--device", default="auto", help="auto or cpu")
    args = parser.parse_args(argv)
    sys.stdout.write(x_ablation(args.checkpoint, args.rgb_only, args.root, args.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
