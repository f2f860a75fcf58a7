"""A page about what CLIP and MA-CLIP learned: recall of captions never seen, beside chance.

python -m training.stage1.retrieval_page runs/clip runs/ma_clip --out docs/results/ma_clip.md

Reads the last scores of runs of `training.train_clip` and `training.train_ma_clip`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.errors import DataError, command, shortened
from segrgbx_core.base.files import user_path, write_text
from segrgbx_core.base.overrides import CommandParser
from segrgbx_core.base.tables import markdown_table, number, percent
from training.engine.run import git_commit
from training.stage1.retrieval import COLLAPSED, has_learned


@dataclass(frozen=True)
class Retrieval:
    """How well the images of one kind of a split find their captions.

    Attributes:
        name: `<data set>_<modality>_x`, `..._rgb`.
        images: how many were asked.
        r1: share whose own caption is the nearest.
        chance_r1: what guessing finds.
        r5: share whose own caption is among the nearest five.
        chance_r5: what guessing finds.
        cosine: mean cosine between the images' embeddings.
    """

    name: str
    images: int
    r1: float
    chance_r1: float
    r5: float
    chance_r5: float
    cosine: float

    @property
    def verdict(self) -> str:
        """Collapsed, learned, or did not."""
        if self.cosine > COLLAPSED:
            return "collapsed"
        hits = round(self.r1 * self.images)
        return "learned" if has_learned(hits, self.images, self.chance_r1) else "did not"


def last_retrieval(run: Path) -> tuple[int, list[Retrieval]]:
    """Step and figures of a run's last scores.

    Raises:
        DataError: when the run has no scores.
    """
    path = run / "metrics.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        scores = [line for line in lines if "score" in line]
        return int(scores[-1]["step"]), _retrievals(scores[-1])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); train the run") from None
    except IndexError:
        raise DataError(f"{path}: holds no scores yet; train the run to its end") from None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = shortened(str(error))
        raise DataError(f"{path}: holds no retrieval scores ({reason}); train the run") from None


def _retrievals(scores: Mapping[str, float]) -> list[Retrieval]:
    names = [name.removesuffix("_images") for name in scores if name.endswith("_images")]
    if not names:
        raise ValueError("no recall")
    figures = ("r1", "chance_r1", "r5", "chance_r5", "cosine")
    return [
        Retrieval(
            name,
            int(scores[f"{name}_images"]),
            *(float(scores[f"{name}_{figure}"]) for figure in figures),
        )
        for name in names
    ]


def retrieval_table(rows: Sequence[Retrieval]) -> str:
    """Markdown table with a verdict per row."""
    header = ["images", "how many", "R@1 %", "chance", "R@5 %", "chance", "mean cosine", "verdict"]
    cells = [
        [
            row.name, row.images, percent(row.r1, 1), percent(row.chance_r1, 1),
            percent(row.r5, 1), percent(row.chance_r5, 1), number(row.cosine, 3), row.verdict,
        ]
        for row in rows
    ]  # fmt: skip
    return markdown_table(header, cells)


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("run", type=user_path, nargs="+", help="run folders, in this order")
    parser.add_argument("--out", type=user_path, required=True, help="Markdown file to write")
    args = parser.parse_args(arguments)
    lines = [
        "# Do images find their captions?",
        "",
        f"Written by `python -m training.stage1.retrieval_page` at commit `{git_commit()}`. Of "
        "captions never seen in training, each image chooses among all different ones of its "
        "split. *Learned*: guessing would find as many in fewer than one of a thousand trials. "
        f"*Collapsed*: the mean cosine between embeddings is above {COLLAPSED}.",
    ]
    for run in args.run:
        step, rows = last_retrieval(run)
        lines += ["", f"## {run.name}, step {step}", "", retrieval_table(rows)]
    write_text(args.out, "\n".join(lines) + "\n")
    print(f"written: {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
