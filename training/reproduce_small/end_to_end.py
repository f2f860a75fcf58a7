"""The paper's experiment in small: the commands of all its stages, and the page about them."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.errors import DataError, SegrgbxError
from segrgbx_core.base.files import read_json, write_text
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.overrides import FLAG
from segrgbx_core.base.tables import markdown_table, number
from training.engine.run import git_commit
from training.stage1.retrieval_page import last_retrieval, retrieval_table
from training.world.config import TRAIN_SEEDS, VALIDATION_SEEDS, Family

CONFIG = Path("config/train")
CLIP_RUN = CONFIG / "reproduce_small_clip.yaml"
MA_CLIP_RUN = CONFIG / "reproduce_small_ma_clip.yaml"
JOINT_RUN = CONFIG / "reproduce_small.yaml"
OUT = Path("runs/reproduce_small")
"""Where the run files expect everything."""
SIZE = "192x144"
TRAIN_SCENES, VAL_SCENES = 24, 10
FIRST_SCENE = 5000
"""Offset in both ranges of seeds: no scene of the demo's checkpoint."""
CLIP_SIZE = "128x96"
CLIP_SCENES = {"train": (500, 200), "val": (100, 100)}
"""Streets for the CLIP, by split: how many, and how far behind `FIRST_SCENE` they begin."""


PICTURES = {"embeddings": "embeddings.png", "panels": "panels.jpg", "features": "features.jpg"}


@dataclass(frozen=True)
class DataSet:
    """A public data set whose layout is filled with rendered scenes.

    Attributes:
        name: as in `training.data.datasets`.
        modality: its X.
        family: what is rendered.
        val_split: name of its second split.
    """

    name: str
    modality: Modality
    family: Family = Family.STREET
    val_split: str = "val"


DATA_SETS = (
    DataSet("deliver", Modality.EVENT),
    DataSet("mfnet", Modality.THERMAL),
    DataSet("nyu", Modality.DEPTH, Family.INDOOR, "test"),
    DataSet("zju_rgbp", Modality.POLARIZATION),
    DataSet("urbanlf", Modality.LIGHT_FIELD),
)
"""In the order of the run files; no scene belongs to two of them."""


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: for people.
        module: whose `main` is called.
        arguments: its command line.
    """

    name: str
    module: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """As one would type it."""
        return " ".join(["python -m", self.module, *self.arguments])


def stages(out: Path, workers: int) -> list[Stage]:
    """All commands in their order.

    Args:
        out: folder for data, runs and results.
        workers: processes that render.
    """
    joint, results = out / "joint", out / "results"
    clip, first, second = _places(out)
    best = str(joint / "best.safetensors")
    run = str(JOINT_RUN)
    set_second = _set(second)
    evaluation = str(results / "evaluation")
    plan = [stage for one in DATA_SETS for stage in _data_stages(one, out, workers)]
    plan += _clip_stages(out, workers, clip)
    backend = ("--backend", "scene")
    plan += [
        Stage("captions", "training.captions", (str(MA_CLIP_RUN), *backend, *_set(first))),
        Stage(
            "MA-CLIP",
            "training.train_ma_clip",
            (str(MA_CLIP_RUN), *_set(first), "--precompute"),
        ),
        Stage("joint training", "training.train_segmentation", (run, *set_second)),
        Stage(
            "evaluation",
            "training.evaluate",
            (best, "--run", run, "--split", "val", "--out", evaluation, *set_second),
        ),
    ]
    for job, figure in (("embeddings", 5), ("panels", 7), ("features", 8)):
        picture = str(results / PICTURES[job])
        plan.append(
            Stage(
                f"figure {figure}",
                "training.figures",
                (job, best, run, "--out", picture, *set_second),
            )
        )
    report = str(results / "evaluation" / "report.json")
    plan.append(Stage("tables", "training.report", (report, "--out", str(results))))
    return plan


def _places(out: Path) -> tuple[list[str], list[str], list[str]]:
    """Options that move the run files of CLIP and both stages from their usual folder to `out`."""
    if out == OUT:
        return [], [], []
    ma_clip = out / "ma_clip"
    roots = [f"data.{k}.root={out / 'data' / one.name}" for k, one in enumerate(DATA_SETS)]
    parts = {"weights": "tower.safetensors", "adapters": "best", "embeddings": "embeddings"}
    clip_data = out / "data" / "clip"
    rooms = next(one.name for one in DATA_SETS if one.family is Family.INDOOR)
    return (
        [
            f"data.0.root={clip_data}",
            f"data.1.root={out / 'data' / rooms}",
            f"captions={clip_data / 'captions.jsonl'}",
            f"run.out={out / 'clip'}",
        ],
        [
            *roots,
            f"captions={out / 'captions.jsonl'}",
            f"text.weights={out / 'clip' / 'best.safetensors'}",
            f"run.out={ma_clip}",
        ],
        [
            *roots,
            *(f"clip.{option}={ma_clip / name}" for option, name in parts.items()),
            f"run.out={out / 'joint'}",
        ],
    )


def _data_stages(one: DataSet, out: Path, workers: int) -> list[Stage]:
    records = out / "records" / one.name
    position = DATA_SETS.index(one)
    splits = (
        ("train", TRAIN_SEEDS, TRAIN_SCENES),
        (one.val_split, VALIDATION_SEEDS, VAL_SCENES),
    )
    plan = []
    for split, seeds, count in splits:
        first = seeds.start + FIRST_SCENE + position * count
        options = ["--seeds", f"{first}:{first + count}", "--sensors", one.modality.value]
        options += ["--size", SIZE, "--workers", str(workers)]
        options += _set([f"family={one.family.value}", "corruption=any"])
        arguments = ("--out", str(records / split), *options)
        plan.append(Stage(f"scenes of {one.name}, {split}", "training.world.render", arguments))
    arguments = (one.name, str(records), str(out / "data" / one.name))
    arguments += ("--splits", "train", one.val_split)
    plan.append(
        Stage(f"layout of {one.name}", "training.data.datasets.export_rendered", arguments)
    )
    return plan


def _clip_stages(out: Path, workers: int, places: Sequence[str]) -> list[Stage]:
    """Streets without X for a CLIP whose weights are all learned, their captions, its training."""
    plan = []
    for split, seeds in (("train", TRAIN_SEEDS), ("val", VALIDATION_SEEDS)):
        count, offset = CLIP_SCENES[split]
        first = seeds.start + FIRST_SCENE + offset
        options = ["--seeds", f"{first}:{first + count}", "--frames-per-scene", "1"]
        options += ["--sensors", "none", "--size", CLIP_SIZE, "--workers", str(workers)]
        arguments = ("--out", str(out / "data" / "clip" / split), *options)
        arguments += tuple(_set(["corruption=any"]))
        plan.append(Stage(f"scenes of CLIP, {split}", "training.world.render", arguments))
    run = (str(CLIP_RUN), *_set(places))
    plan.append(Stage("captions of CLIP", "training.captions", (*run, "--backend", "scene")))
    plan.append(Stage("CLIP", "training.train_clip", run))
    return plan


def _set(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in (FLAG, option)]


def run_stages(plan: Sequence[Stage], out: Path) -> dict[str, float]:
    """Runs what has not been run; returns the seconds of every stage.

    Raises:
        SegrgbxError: when a command fails, its message stands above; or when the list of stages
            that are done is damaged.
    """
    path = out / "stages.json"
    done = _seconds_by_command(path)
    for position, stage in enumerate(plan, start=1):
        if stage.command in done:
            continue
        print(f"[{position}/{len(plan)}] {stage.name}: {stage.command}", flush=True)
        began = time.monotonic()
        status = _main_of(stage.module)(list(stage.arguments))
        if status:
            raise SegrgbxError(f"{stage.name}: ended with status {status}; the same call goes on")
        done[stage.command] = time.monotonic() - began
        write_text(path, json.dumps(done, indent=1))
    return done


def _seconds_by_command(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}
    advice = "remove it to run all stages anew"
    kept = read_json(path, advice=advice)
    try:
        return {str(name): float(value) for name, value in kept.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is damaged ({error}); {advice}") from None


def _main_of(name: str) -> Callable[[Sequence[str]], int]:
    """What `python -m name` runs, of a module or of a package with a `__main__`."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    main: Callable[[Sequence[str]], int] = module.main
    return main


def write_page(plan: Sequence[Stage], seconds: dict[str, float], out: Path) -> Path:
    """Writes `results/README.md`: scores, pictures, commands with their times."""
    results = out / "results"
    scores = (results / "evaluation" / "report.md").read_text(encoding="utf-8")
    scores = scores.replace("](", "](evaluation/")  # its links start from its own folder
    total = sum(seconds[stage.command] for stage in plan) / 60
    retrieval = [*last_retrieval(out / "clip")[1], *last_retrieval(out / "ma_clip")[1]]
    times = [[stage.name, number(seconds[stage.command], 0)] for stage in plan]
    lines = [
        "# The paper's experiment in small",
        "",
        f"`make reproduce-small` at commit `{git_commit()}`: {total:.1f} minutes on this machine.",
        "**Everything here is synthetic**: rendered scenes in the layouts of the public data "
        "sets, a CLIP trained on rendered streets, a model of 2.4 M parameters. It shows that "
        "captions, CLIP, MA-CLIP, joint training, evaluation and figures run end to end, and says "
        "nothing about real data.",
        "",
        *(line for line in scores.splitlines() if not line.startswith("# ")),
        "",
        "Do images find their captions? Of val captions, never seen in training; *learned* means "
        "that guessing would find as many in fewer than one of a thousand trials. First CLIP, "
        "then MA-CLIP with its adapters.",
        "",
        retrieval_table(retrieval),
        "",
        f"![MA-CLIP's embeddings]({PICTURES['embeddings']})",
        "",
        f"![Predictions]({PICTURES['panels']})",
        "",
        f"![Feature maps of the stages]({PICTURES['features']})",
        "",
        "Beside the paper's tables: [results.md](results.md).",
        "",
        markdown_table(["stage", "seconds"], times),
        "",
        "```",
        *(stage.command for stage in plan),
        "```",
    ]
    for row in retrieval:
        print(f"{row.name}: R@1 {row.r1:.1%}, chance {row.chance_r1:.1%}: {row.verdict}")
    page = results / "README.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return page
