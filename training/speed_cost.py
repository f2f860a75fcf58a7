"""What speed costs in accuracy: one checkpoint run in many ways on the same labelled frames.

    python -m training.speed_cost CHECKPOINT --root DATA --split val --modality thermal --out OUT

Frames of a scene go through every form in their order, as a vehicle's stream would, and the forms
take turns frame by frame, so that whatever else the machine does falls on all of them alike.
Consecutive frames matter for `scene.refresh_every`; render such with
`python -m training.world.render --interval 0.1 --frames-per-scene 20`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segrgbx_core.base.errors import ConfigError, DataError, SegrgbxError, command
from segrgbx_core.base.files import path_text, user_path
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from segrgbx_core.base.samples import Array
from segrgbx_core.bench.harness import with_changes
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.runtime.checkpoint import read_contract
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.data.datasets import READERS, Labelled, Reader, open_reader, sensor_of
from training.experiments.accuracy_vs_latency_report import (
    below_limit,
    draw,
    to_markdown,
    write_json,
)

REFRESH = (2, 4, 8, 15)
"""Frames per look at the scene; the exact form looks at every one."""
SCALES = (0.5, 0.75, 1.5)
"""Sides of the model's input relative to those it was trained with."""
_STEP = 16
"""Input sides are multiples of this many pixels."""
_FRAME = re.compile(r"(.+)[_/]\d+$")
# Age and change would make looks due that `refresh_every` does not ask for.
_BY_COUNT = {"scene.max_age_ms": 60_000.0, "scene.change": 1.0}


@dataclass(frozen=True)
class Form:
    """One way to run the checkpoint.

    Attributes:
        name: in words.
        changes: options that differ from the exact form's, by dotted name.
        runs_exported: it takes the exported folder and no checkpoint.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    runs_exported: bool = False


COMPILED = Form("torch.compile", {"compile": True})
EXACT = Form("exact: fp32, in process, a look per frame")


@dataclass(frozen=True)
class Subject:
    """What is run.

    Attributes:
        checkpoint: file.
        exported: folder that was exported from it for this modality, or empty.
        reader: labelled frames.
        device: as the option.
        scenes: scenes to take, 0 for all.
        frames: frames to take of each, 0 for all.
    """

    checkpoint: Path
    exported: str
    reader: Reader
    device: str = "auto"
    scenes: int = 0
    frames: int = 0


class _Tally:
    """What a form's answers to the frames so far add up to."""

    def __init__(self, form: Form, segmenter: Segmenter) -> None:
        self.form, self.segmenter = form, segmenter
        self.matrix = ConfusionMatrix(len(segmenter.classes.names))
        self.agreements: list[float] = []
        self.times: list[tuple[float, float]] = []
        self.ages: list[int] = []
        self.labels: Array = np.empty(0, np.uint8)

    def answer(self, item: Labelled, stream: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        [prediction] = self.segmenter.predict([item.sample], [stream])
        took, used = time.perf_counter() - wall, time.process_time() - cpu
        self.times.append((took * 1e3, used * 1e3))
        self.matrix.update(item.labels, prediction.labels)
        self.labels = prediction.labels
        self.ages.append(prediction.scene_age)

    def result(self) -> dict[str, Any]:
        wall, cpu = np.array(self.times).T
        return {
            "name": self.form.name,
            "miou": self.matrix.miou(),
            "agreement": float(np.mean(self.agreements)),
            "worst_agreement": float(np.min(self.agreements)),
            "wall_ms": float(wall.mean()),
            "p95_ms": float(np.percentile(wall, 95)),
            "cpu_ms": float(cpu.mean()),
            "looks": float(np.mean([age == 0 for age in self.ages])),
            "device": self.segmenter.device_name,
        }


def forms(trained: tuple[int, int], scales: Sequence[float] = SCALES) -> dict[str, list[Form]]:
    """What is compared with the exact form, by what it changes.

    Args:
        trained: height and width of the model's input in training.
        scales: of that size.
    """
    sizes = {
        scale: tuple(max(2, round(side * scale / _STEP)) * _STEP for side in trained)
        for scale in scales
    }
    return {
        "refresh_every": [Form(f"a look every {n}", {"scene.refresh_every": n}) for n in REFRESH],
        "precision": [Form(name, {"precision": name}) for name in ("bf16", "fp16")],
        "input size": [
            Form(f"{width}x{height}", {"input_height": height, "input_width": width})
            for height, width in sizes.values()
        ],
        "backend": [
            COMPILED,
            Form("CUDA graph", {"cuda_graph": True}),
            *(
                Form(title, {"backend": name, "precision": precision}, runs_exported=True)
                for title, name, precision in (
                    ("ONNX Runtime", "onnx", "auto"),
                    ("AOTInductor", "aot", "auto"),
                    ("OpenVINO fp32", "openvino", "fp32"),
                    ("OpenVINO bf16", "openvino", "bf16"),
                )
            ),
        ],
    }


def measure(
    subject: Subject, groups: Mapping[str, Sequence[Form]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Runs every form; one group of forms is in memory at a time, each with the exact form.

    Returns:
        per group `group`, the `exact` form's figures measured in the same turns, and `forms`; and
        by form what kept it from being run.

    Raises:
        SegrgbxError: when the exact form cannot be run, or a file of the data set is broken.
    """
    results: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for group, chosen in groups.items():
        exact = _ready(subject, EXACT)
        tallies = [exact]
        for form in chosen:
            made = _ready_or_why_not(subject, form)
            if isinstance(made, str):
                missing[form.name] = made
            else:
                tallies.append(made)
        if len(tallies) > 1:
            _take_turns(subject, tallies)
            first, *others = (tally.result() for tally in tallies)
            results.append({"group": group, "exact": first, "forms": others})
    return results, missing


def scene_of(name: str) -> str:
    """The scene that a sample belongs to: its name without the number of the frame.

    Samples whose names end in no number of a frame are scenes of their own.
    """
    found = _FRAME.fullmatch(name)
    return found.group(1) if found else name


def _ready_or_why_not(subject: Subject, form: Form) -> _Tally | str:
    try:
        return _ready(subject, form)
    except (SegrgbxError, RuntimeError) as error:  # those of torch.compile share no other base
        return str(error).strip().split("\n", 1)[0]


def _ready(subject: Subject, form: Form) -> _Tally:
    """A warm segmenter in this form."""
    plain = InferenceConfig(device=subject.device, precision="fp32")
    config = with_changes(plain, {**_BY_COUNT, **form.changes})
    if form.runs_exported and not subject.exported:
        raise ConfigError("needs --exported, a folder that segrgbx-export wrote")
    reader = subject.reader
    segmenter = Segmenter.from_checkpoint(
        subject.exported if form.runs_exported else subject.checkpoint,
        config,
        sensor_of(reader, None),
        label_space=reader.native,
        merge_for=reader.modality,
    )
    if form.runs_exported and segmenter.contract != read_contract(subject.checkpoint):
        raise ConfigError(f"{subject.exported} was exported from another checkpoint; export anew")
    first = reader[0].sample
    segmenter.warm_up(first.rgb.shape[:2], [reader.modality])
    segmenter.predict([first])
    return _Tally(form, segmenter)


def _take_turns(subject: Subject, tallies: Sequence[_Tally]) -> None:
    for turn, (item, stream) in enumerate(_frames(subject)):
        first = turn % len(tallies)
        for tally in (*tallies[first:], *tallies[:first]):
            tally.answer(item, stream)
        for tally in tallies:
            same = tally.labels == tallies[0].labels
            tally.agreements.append(float(same.mean()))
    if not tallies[0].times:
        raise DataError(f"{subject.reader.native}: the split has no samples to measure on")


def _frames(subject: Subject) -> Iterator[tuple[Labelled, str]]:
    """Frames with their scenes, as far as they are wanted."""
    counts: dict[str, int] = {}
    for index in range(len(subject.reader)):
        item = subject.reader[index]
        stream = scene_of(item.name)
        if subject.scenes and stream not in counts and len(counts) == subject.scenes:
            continue
        counts[stream] = counts.get(stream, 0) + 1
        if not subject.frames or counts[stream] <= subject.frames:
            yield item, stream


@command(OSError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 when `--check` finds too many other labels, 2 for a mistake of the user."""
    chosen = _parser().parse_args(arguments)
    modality = Modality(chosen.modality)
    options = apply_overrides({}, chosen.set)
    reader = open_reader(chosen.reader, chosen.root, chosen.split, modality, options)
    subject = Subject(
        chosen.checkpoint, chosen.exported, reader, chosen.device, chosen.scenes, chosen.frames
    )
    trained = Segmenter.from_checkpoint(subject.checkpoint, InferenceConfig(device="cpu"))
    groups = forms((trained.input.height, trained.input.width), chosen.scales)
    if chosen.only:
        groups = {name: groups[name] for name in groups if name in chosen.only}
    if "backend" in groups and not chosen.compile:
        groups["backend"].remove(COMPILED)
    results, missing = measure(subject, groups)
    if not chosen.compile:
        missing[COMPILED.name] = "takes a minute or more to start; ask for it with --compile"
    report = {
        "checkpoint": subject.checkpoint.name,
        "hash": trained.checkpoint.hash,
        "data": f"{reader.native} {modality}, split {chosen.split}",
        "trained_input": f"{trained.input.width}x{trained.input.height}",
        "groups": results,
        "missing": missing,
    }
    page = to_markdown(report)
    sys.stdout.write(page)
    if chosen.out:
        folder = Path(chosen.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "speed_cost.md").write_text(page, encoding="utf-8")
        write_json(report, folder / "speed_cost.json")
        draw(report, folder / "speed_cost.png")
    return 1 if chosen.check and below_limit(report) else 0


def _parser() -> CommandParser:
    parser = CommandParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=user_path)
    parser.add_argument("--reader", default="synthetic_street", choices=sorted(READERS))
    parser.add_argument("--root", type=path_text, required=True, help="folder of the data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--modality", default="thermal", choices=[m.value for m in MODALITIES])
    add_set_option(parser, "options of the data set")
    parser.add_argument(
        "--exported",
        type=path_text,
        default="",
        help="folder of segrgbx-export --modality, for its backends",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scenes", type=int, default=0, help="scenes to take, 0 for all")
    parser.add_argument("--frames", type=int, default=0, help="frames of each, 0 for all")
    parser.add_argument(
        "--scales", nargs="+", type=float, default=SCALES, help="of the trained input size"
    )
    parser.add_argument(
        "--only", action="append", default=[], choices=list(forms((64, 64))), help="not all groups"
    )
    parser.add_argument("--compile", action="store_true", help="with torch.compile, slow to start")
    parser.add_argument(
        "--out", type=path_text, default="", help="folder for speed_cost.md, .json and .png"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail where a precision or backend changes more labels than an export may",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
