"""The twin test: does a trained pipeline use its X input? With one generalist model.

python -m training.twin_test --out runs/twins

Renders objects whose class RGB does not show (`training.world.twins`), trains one model for
all five modalities and one that never sees X, and scores both on unseen pictures. Told apart with
X, guessed without: then X reaches the answer, and nothing of the class leaks into RGB.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option
from training.data.config import DataConfig
from training.data.datasets import open_reader
from training.data.datasets.synthetic import XSource
from training.eval.scoring import EvalOptions, evaluate
from training.experiments.parallel_runs import train_arms
from training.stage2.config import SegmentationRun, read_run
from training.world.records import save_record
from training.world.twins import FIRST, SECOND, twin_record

RUN_FILE = Path(__file__).resolve().parents[1] / "config" / "train" / "twins.yaml"
SPLITS = {"train": 0, "val": 1_000_000}
"""First seed of each split."""
WITH_X_AT_LEAST = 0.90
GUESS, RGB_ONLY_WITHIN, OTHER_X_WITHIN = 0.5, 0.06, 0.08
ARMS = {"generalist": XSource.OWN, "rgb_only": XSource.NONE}
"""The two models and what they see as X while they learn."""


@dataclass(frozen=True)
class Verdict:
    """How well the twins of one modality are told apart.

    Attributes:
        with_x: share of the objects' pixels whose class is right, in [0, 1], with their own X.
        other_x: the same with the X of another picture.
        rgb_only: the same of the model that never saw X.
        found: share of the objects' pixels that are called one of the two classes at all.
    """

    with_x: float
    other_x: float
    rgb_only: float
    found: float

    @property
    def is_passed(self) -> bool:
        """Whether X decides, and nothing else does."""
        return (
            self.with_x >= WITH_X_AT_LEAST
            and abs(self.rgb_only - GUESS) <= RGB_ONLY_WITHIN
            and abs(self.other_x - GUESS) <= OTHER_X_WITHIN
        )


def render_twins(
    root: Path, counts: Mapping[str, int], workers: int, size: int = 96
) -> dict[Modality, Path]:
    """Writes twin pictures of every modality; those that are there are kept.

    Args:
        root: gets `<modality>/<split>/<seed>.npz`.
        counts: pictures per split.
        workers: processes.
        size: pixels per side.

    Returns:
        the folder of each modality's data set.
    """
    jobs = [
        (root / modality.value / split / f"{SPLITS[split] + index:07d}.npz", modality, size)
        for modality in MODALITIES
        for split, count in counts.items()
        for index in range(count)
    ]
    missing = [job for job in jobs if not job[0].exists()]
    for folder in {path.parent for path, *_ in missing}:
        folder.mkdir(parents=True, exist_ok=True)
    if missing:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            done = pool.map(_render, missing, chunksize=20)
            list(tqdm(done, total=len(missing), unit="picture", desc="rendering twins"))
    return {modality: root / modality.value for modality in MODALITIES}


def _render(job: tuple[Path, Modality, int]) -> None:
    path, modality, size = job
    save_record(path, twin_record(int(path.stem), modality, size))


def twin_runs(
    roots: Mapping[Modality, Path], out: Path, overrides: Sequence[str] = ()
) -> dict[str, SegmentationRun]:
    """The run of each arm, equal but for X.

    Args:
        roots: data set of each modality.
        out: folder of the runs.
        overrides: options as `name=value`, above the run file.
    """
    base = read_run(RUN_FILE, overrides)
    runs = {}
    for arm, x in ARMS.items():
        data = tuple(
            DataConfig(
                reader="synthetic_street",
                root=str(root),
                modality=modality,
                options={"x": x.value},
            )
            for modality, root in roots.items()
        )
        run = base.run.model_copy(update={"out": str(out / arm)})
        runs[arm] = base.model_copy(update={"data": data, "run": run})
    return runs


def judge(checkpoints: Mapping[str, Path], roots: Mapping[Modality, Path]) -> dict[str, Verdict]:
    """Scores both models on the val pictures, by modality."""
    verdicts = {}
    for modality, root in roots.items():
        with_x, found = told_apart(checkpoints["generalist"], root, modality, XSource.OWN)
        other_x, _ = told_apart(checkpoints["generalist"], root, modality, XSource.OTHER)
        rgb_only, _ = told_apart(checkpoints["rgb_only"], root, modality, XSource.NONE)
        verdicts[modality.value] = Verdict(with_x, other_x, rgb_only, found)
    return verdicts


def told_apart(
    checkpoint: Path, root: Path, modality: Modality, x: XSource
) -> tuple[float, float]:
    """Share of right classes on twins, and share of their pixels that are found at all."""
    reader = open_reader("synthetic_street", root, "val", modality, {"x": x.value})
    matrix = evaluate(checkpoint, reader, options=EvalOptions(batch_size=16)).matrix.matrix
    twins = matrix[[[FIRST], [SECOND]], [FIRST, SECOND]]
    objects = matrix[[FIRST, SECOND]].sum()
    return float(twins.trace() / max(1, twins.sum())), float(twins.sum() / max(1, objects))


def to_markdown(verdicts: Mapping[str, Verdict]) -> str:
    """A table of all modalities, with the bars that must be reached."""
    lines = [
        f"| twins of | RGB + X (at least {WITH_X_AT_LEAST:.2f}) "
        f"| X of another picture ({GUESS} ± {OTHER_X_WITHIN:.2f}) "
        f"| RGB only ({GUESS} ± {RGB_ONLY_WITHIN:.2f}) | found | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for name, one in verdicts.items():
        verdict = "passed" if one.is_passed else "**failed**"
        lines.append(
            f"| {name} | {one.with_x:.3f} | {one.other_x:.3f} | {one.rgb_only:.3f} "
            f"| {one.found:.3f} | {verdict} |"
        )
    return "\n".join(lines) + "\n"


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 1 when a modality fails, 2 for a mistake of the user."""
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=user_path, default=Path("runs/twins"))
    parser.add_argument("--train", type=int, default=300, help="pictures per modality to learn")
    parser.add_argument("--val", type=int, default=150, help="pictures per modality to score")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    add_set_option(parser, "changes the run")
    options = parser.parse_args(argv)
    counts = {"train": options.train, "val": options.val}
    roots = render_twins(options.out / "data", counts, options.workers)
    runs = twin_runs(roots, options.out, options.set)
    verdicts = judge(train_arms(runs, options.workers), roots)
    table = to_markdown(verdicts)
    print(table)
    (options.out / "twins.md").write_text(table, encoding="utf-8")
    plain = {name: asdict(one) for name, one in verdicts.items()}
    text = json.dumps(plain, indent=1)
    (options.out / "twins.json").write_text(f"{text}\n", encoding="utf-8")
    return 0 if all(one.is_passed for one in verdicts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
