"""The twin test: objects whose class RGB does not show, recognised by what X shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.tables import markdown_table, number
from training.data.datasets import open_reader
from training.data.datasets.synthetic import XSource
from training.eval.scoring import EvalOptions, evaluate
from training.experiments.variants import Variant, rendered_data
from training.stage2.config import SegmentationRun, read_run
from training.world.processes import processes
from training.world.records import save_record
from training.world.twins import FIRST, SECOND, twin_record

RUN_FILE = Path(__file__).resolve().parents[2] / "config" / "train" / "twins.yaml"
SPLITS = {"train": 0, "val": 1_000_000}
"""First seed of each split."""
WITH_X_AT_LEAST = 0.90
GUESS, RGB_ONLY_WITHIN, OTHER_X_WITHIN = 0.5, 0.06, 0.08
GENERALIST = Variant("generalist", modalities=MODALITIES)
RGB_ONLY = Variant("rgb_only", modalities=MODALITIES, x=XSource.NONE)


@dataclass(frozen=True)
class Verdict:
    """How well the twins of one modality are recognised.

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
        with processes(workers) as pool:
            done = pool.map(_render, missing, chunksize=20)
            list(tqdm(done, total=len(missing), unit="picture", desc="rendering twins"))
    return {modality: root / modality.value for modality in MODALITIES}


def _render(job: tuple[Path, Modality, int]) -> None:
    path, modality, size = job
    save_record(path, twin_record(int(path.stem), modality, size))


def twin_runs(
    roots: Mapping[Modality, Path], out: Path, overrides: Sequence[str] = ()
) -> dict[str, SegmentationRun]:
    """The run of each variant, equal but for X.

    Args:
        roots: data set of each modality.
        out: folder of the runs.
        overrides: options as `name=value`, above the run file.
    """
    base = read_run(RUN_FILE, overrides)
    runs = {}
    for variant in (GENERALIST, RGB_ONLY):
        data = rendered_data(variant, roots, "val")
        run = base.run.model_copy(update={"out": str(out / variant.name)})
        runs[variant.name] = base.model_copy(update={"data": data, "run": run})
    return runs


def judge(checkpoints: Mapping[str, Path], roots: Mapping[Modality, Path]) -> dict[str, Verdict]:
    """Scores both models on the val pictures, by modality."""
    verdicts = {}
    for modality, root in roots.items():
        with_x, found = twin_accuracy(checkpoints["generalist"], root, modality, XSource.OWN)
        other_x, _ = twin_accuracy(checkpoints["generalist"], root, modality, XSource.OTHER)
        rgb_only, _ = twin_accuracy(checkpoints["rgb_only"], root, modality, XSource.NONE)
        verdicts[modality.value] = Verdict(with_x, other_x, rgb_only, found)
    return verdicts


def twin_accuracy(
    checkpoint: Path, root: Path, modality: Modality, x: XSource
) -> tuple[float, float]:
    """Share of right classes on twins, and share of their pixels that are called one of them."""
    reader = open_reader("synthetic_street", root, "val", modality, {"x": x.value})
    report = evaluate(checkpoint, reader, options=EvalOptions(batch_size=16))
    matrix = report.matrix.matrix
    twins = matrix[[[FIRST], [SECOND]], [FIRST, SECOND]]
    objects = matrix[[FIRST, SECOND]].sum()
    return float(twins.trace() / max(1, twins.sum())), float(twins.sum() / max(1, objects))


def to_markdown(verdicts: Mapping[str, Verdict]) -> str:
    """A table of all modalities, with the bounds that must be kept."""
    titles = [
        "twins of",
        f"RGB + X (at least {WITH_X_AT_LEAST:.2f})",
        f"X of another picture ({GUESS} ± {OTHER_X_WITHIN:.2f})",
        f"RGB only ({GUESS} ± {RGB_ONLY_WITHIN:.2f})",
        "found",
        "",
    ]
    rows = [
        [
            name,
            *(number(value, 3) for value in (one.with_x, one.other_x, one.rgb_only, one.found)),
            "passed" if one.is_passed else "**failed**",
        ]
        for name, one in verdicts.items()
    ]
    return f"{markdown_table(titles, rows, 'lrrrrl')}\n"


def write_verdicts(verdicts: Mapping[str, Verdict], out: Path) -> None:
    """Writes `twins.md` and `twins.json`."""
    (out / "twins.md").write_text(to_markdown(verdicts), encoding="utf-8")
    text = json.dumps({name: asdict(one) for name, one in verdicts.items()}, indent=1)
    (out / "twins.json").write_text(f"{text}\n", encoding="utf-8")
