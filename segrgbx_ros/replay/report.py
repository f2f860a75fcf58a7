"""Results of a replay: scores, pairing, latency; as JSON for programs and Markdown for people.

Everything but the `timing` entry depends on recording, config and checkpoint alone, so two runs of
the same replay write the same report apart from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segrgbx_core.base.files import write_text
from segrgbx_core.base.tables import Summary, markdown_table, percent, rounded
from segrgbx_core.labels.metrics import AbsentClass, ConfusionMatrix

OPTIONS = "options.yaml"
"""File of the resolved options beside the report."""
MATRIX_LIMIT = 24
"""Largest number of classes for which Markdown shows the confusion matrix; JSON always has it."""


@dataclass(frozen=True)
class Scores:
    """Agreement with the truth.

    Attributes:
        names: class names; the position is that in `confusion`.
        confusion: pixels by true and predicted class.
        frames: frames with truth.
        unlabeled_frames: predictions without truth of the same stamp.
    """

    names: tuple[str, ...]
    confusion: ConfusionMatrix
    frames: int
    unlabeled_frames: int = 0

    @property
    def present(self) -> list[int]:
        """Ids that occur in the truth or in the predictions."""
        return [int(index) for index in np.flatnonzero(~np.isnan(self.confusion.iou()))]

    @property
    def true_classes(self) -> list[int]:
        """Ids that occur in the truth."""
        return [int(index) for index in np.flatnonzero(self.confusion.matrix.sum(axis=1))]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; IoU of absent classes is left out."""
        iou, matrix, present = self.confusion.iou(), self.confusion.matrix, self.present
        columns = [*present, matrix.shape[1] - 1]
        return {
            "frames": self.frames,
            "frames_without_truth": self.unlabeled_frames,
            "miou": rounded(self.confusion.miou(AbsentClass.SKIP)),
            "miou_absent_as_zero": rounded(self.confusion.miou(AbsentClass.ZERO)),
            "miou_true_classes": rounded(self.confusion.miou(classes=self.true_classes)),
            "pixel_accuracy": rounded(self.confusion.pixel_accuracy()),
            "classes_present": len(present),
            "classes": len(self.names),
            "per_class_iou": {self.names[index]: rounded(iou[index]) for index in present},
            "confusion": {
                "rows": "truth",
                "columns": [*(self.names[index] for index in present), "void"],
                "matrix": matrix[np.ix_(present, columns)].tolist(),
            },
        }


@dataclass(frozen=True)
class PairReport:
    """What became of one RGB-X pair, or of the frames of one fused mask.

    Attributes:
        modality: name of the modality; `fused` for a fused mask.
        label_space: of its labels.
        topics: recorded topic of each input.
        rgb: RGB messages read.
        x: X messages read.
        paired: RGB messages that went to the model.
        held: of those, how many with an X that was already used.
        rgb_only: of those, how many without X.
        x_empty: X samples without content, whatever `sync.on_missing_x` made of them.
        x_problem: what is wrong with the first of them, empty for none.
        dropped: RGB images without a result, by cause.
        dropped_x: X images that no RGB image used, by cause.
        skew_ms: stamp of X minus stamp of RGB minus the configured offset, absolute, in ms.
        mean_offset_ms: the same with its sign, mean; far from 0 it is the offset to configure.
        jumps: how often the stamps jumped back.
        lost_events: events given up because of sensor.event.max_buffer_mb.
        cut_events: events not taken of messages that hold more than one may.
        first_fault: first message that could not be decoded, empty when all could.
        scores: agreement with the truth, None without truth.
        stages_ms: duration of each stage per frame in ms.
        members: pairs of a fused mask.
        faults: members whose X did not count: frames by `<pair>: <reason>`.
    """

    modality: str
    topics: dict[str, str]
    rgb: int
    x: int
    paired: int
    held: int
    rgb_only: int
    dropped: dict[str, int]
    dropped_x: dict[str, int]
    skew_ms: Summary
    mean_offset_ms: float = 0.0
    x_empty: int = 0
    x_problem: str = ""
    jumps: int = 0
    lost_events: int = 0
    cut_events: int = 0
    first_fault: str = ""
    scores: Scores | None = None
    label_space: str = ""
    stages_ms: Mapping[str, Summary] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What it is, after its name."""
        return f"fused: {' + '.join(self.members)}" if self.members else self.modality

    def to_dict(self) -> dict[str, Any]:
        """Plain values, all but the durations: those differ from run to run."""
        return {
            "modality": self.modality,
            "label_space": self.label_space,
            "topics": self.topics,
            "rgb_messages": self.rgb,
            "x_messages": self.x,
            "paired": self.paired,
            "held": self.held,
            "rgb_only": self.rgb_only,
            "x_empty": self.x_empty,
            "x_problem": self.x_problem,
            "dropped": dict(sorted(self.dropped.items())),
            "dropped_x": dict(sorted(self.dropped_x.items())),
            "skew_ms": self.skew_ms.to_dict(),
            "mean_offset_ms": round(self.mean_offset_ms, 3),
            "jumps_back": self.jumps,
            "lost_events": self.lost_events,
            **({"cut_events": self.cut_events} if self.cut_events else {}),
            "first_fault": self.first_fault,
            **({"members": list(self.members)} if self.members else {}),
            **({"faults": dict(self.faults)} if self.members else {}),
            "scores": self.scores.to_dict() if self.scores else None,
        }


@dataclass(frozen=True)
class Report:
    """The result of a replay.

    Attributes:
        recording: path of the recording.
        recording_s: its duration in s.
        checkpoint: path, hash, provenance.
        label_space: name, hash, number of classes.
        device: what the model ran on, with precision.
        config: resolved options.
        pairs: by name.
        notes: choices made for the user, such as the namespace of the recording.
        stages_ms: duration of each stage per frame in ms.
        wall_s: how long the replay took in s.
        pictures: names of files beside the report, shown on the page.
    """

    recording: str
    recording_s: float
    checkpoint: dict[str, Any]
    label_space: dict[str, Any]
    device: str
    config: dict[str, Any]
    pairs: dict[str, PairReport]
    notes: tuple[str, ...] = ()
    stages_ms: Mapping[str, Summary] = field(default_factory=dict)
    wall_s: float = 0.0
    pictures: tuple[str, ...] = ()

    @property
    def paired(self) -> int:
        """Frames that went to the model."""
        return sum(pair.paired for pair in self.pairs.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "recording": {"path": self.recording, "duration_s": round(self.recording_s, 3)},
            "checkpoint": self.checkpoint,
            "label_space": self.label_space,
            "device": self.device,
            "notes": list(self.notes),
            "pairs": {name: pair.to_dict() for name, pair in self.pairs.items()},
            "config": self.config,
            "timing": {
                "wall_s": round(self.wall_s, 2),
                "stages_ms": _durations(self.stages_ms),
                "pairs": {name: _durations(pair.stages_ms) for name, pair in self.pairs.items()},
            },
        }

    def to_markdown(self) -> str:
        """A page with tables."""
        lines = [f"# Replay of {Path(self.recording).name}", ""]
        lines += _table_lines(
            ("", ""),
            [
                ("recording", f"`{self.recording}`, {self.recording_s:.1f} s"),
                ("checkpoint", f"`{self.checkpoint.get('path') or 'none'}`"),
                ("checkpoint hash", f"`{self.checkpoint.get('hash') or 'none'}`"),
                (
                    "label space",
                    f"{self.label_space.get('name')} ({self.label_space.get('classes')} classes, "
                    f"hash `{self.label_space.get('hash')}`)",
                ),
                ("device", self.device),
            ],
        )
        lines += [f"- {note}" for note in self.notes]
        for name in self.pictures:
            lines += ["", f"![{Path(name).stem.replace('_', ' ')}]({name})"]
        for name, pair in self.pairs.items():
            kind = "Fused mask" if pair.members else "Pair"
            lines += ["", f"## {kind} `{name}` ({pair.title})", ""]
            lines += _score_lines(pair.scores) if pair.scores else ["No truth was given.", ""]
            lines += _fused_lines(pair) if pair.members else _pairing_lines(pair)
        lines += ["", "## Latency per frame", ""]
        lines += _latency_lines(self.stages_ms)
        if len(self.pairs) > 1:
            for name, pair in self.pairs.items():
                lines += [f"`{name}`:", "", *_latency_lines(pair.stages_ms)]
        lines += [
            f"The whole replay took {self.wall_s:.1f} s. Every option: [{OPTIONS}]({OPTIONS})."
        ]
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Writes `report.json`, `report.md` and `options.yaml` into a folder that exists."""
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        write_text(folder / "report.json", text + "\n")
        write_text(folder / OPTIONS, yaml.safe_dump(self.config, sort_keys=False))
        write_text(folder / "report.md", self.to_markdown())

    def summary(self) -> str:
        """A few lines for the terminal."""
        lines = []
        for name, pair in self.pairs.items():
            lost = ", ".join(f"{cause} {count}" for cause, count in sorted(pair.dropped.items()))
            lines.append(
                f"{name}: {pair.paired} of {pair.rgb} RGB images segmented"
                + (f" (dropped: {lost})" if lost else "")
                + (
                    f", X without content: {pair.x_empty} ({pair.x_problem})"
                    if pair.x_empty
                    else ""
                )
                + (
                    "".join(f", without {fault} {n}" for fault, n in pair.faults.items())
                    if pair.members
                    else f", |skew| mean {pair.skew_ms.mean:.1f} ms, max {pair.skew_ms.max:.1f} ms"
                )
            )
            if pair.scores:
                lines.append(f"{name}: {_headline(pair.scores)}")
        if "total" in self.stages_ms:
            total = self.stages_ms["total"]
            lines.append(f"latency per frame: p50 {total.p50:.1f} ms, p95 {total.p95:.1f} ms")
        return "\n".join(lines)


def _headline(scores: Scores) -> str:
    """The one figure of a recording, as `make demo` and the documents give it.

    It is the mean over the classes of the truth: a class that occurs in a few predicted pixels
    alone would count as much as the road. Both other means follow where they differ.
    """
    true = scores.confusion.miou(classes=scores.true_classes)
    skip = scores.confusion.miou(AbsentClass.SKIP)
    zero = scores.confusion.miou(AbsentClass.ZERO)
    text = (
        f"mIoU {percent(true, 1)} % over the {len(scores.true_classes)} classes of the truth, "
        f"pixel accuracy {percent(scores.confusion.pixel_accuracy(), 1)} %, {scores.frames} "
        "frames with truth"
    )
    others = []
    if predicted := len(scores.present) - len(scores.true_classes):
        others.append(f"{percent(skip, 1)} % with {predicted} more that only the prediction has")
    if absent := len(scores.names) - len(scores.present):
        others.append(f"{percent(zero, 1)} % with the {absent} absent classes counted as 0")
    return f"{text} ({'; '.join(others)})" if others else text


def _score_lines(scores: Scores) -> list[str]:
    lines = [f"{_headline(scores)}.", ""]
    if scores.unlabeled_frames:
        lines += [f"Without truth and not scored: {scores.unlabeled_frames} frames.", ""]
    iou, matrix = scores.confusion.iou(), scores.confusion.matrix
    rows: list[tuple[Any, ...]] = []
    for index in scores.present:
        wrong = matrix[index].copy()
        wrong[index] = 0
        worst, total = int(wrong.argmax()), int(matrix[index].sum())
        mistaken_for = ""
        if wrong[worst]:
            name = scores.names[worst] if worst < len(scores.names) else "void"
            mistaken_for = f"{name} ({percent(wrong[worst] / total, 1)} %)"
        rows.append(
            (index, scores.names[index], f"{percent(iou[index], 1)} %", total, mistaken_for)
        )
    lines += _table_lines(("id", "class", "IoU", "true pixels", "most often taken for"), rows)
    if len(scores.true_classes) <= MATRIX_LIMIT:
        lines += ["", "Confusion, percent of the true pixels of each row:", ""]
        lines += _matrix_lines(scores)
    return lines


def _matrix_lines(scores: Scores) -> list[str]:
    matrix, true = scores.confusion.matrix, scores.true_classes
    rows = []
    for index in true:
        total = int(matrix[index].sum())
        counts = [*matrix[index, true], matrix[index, -1]]
        counts.insert(-1, total - sum(counts))
        shares = [100.0 * count / total for count in counts]
        rows.append((scores.names[index], *(f"{share:.0f}" if share else "" for share in shares)))
    names = [scores.names[index] for index in true]
    return _table_lines(("truth \\ labels", *names, "other classes", "void"), rows)


def _durations(stages_ms: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: item.to_dict() for name, item in stages_ms.items()}


def _latency_lines(stages_ms: Mapping[str, Summary]) -> list[str]:
    return _table_lines(
        ("stage", "p50 ms", "p95 ms", "max ms", "frames"),
        [
            (name, f"{item.p50:.1f}", f"{item.p95:.1f}", f"{item.max:.1f}", item.count)
            for name, item in stages_ms.items()
        ],
    )


def _fused_lines(pair: PairReport) -> list[str]:
    rows: list[tuple[Any, ...]] = [
        ("RGB images", f"{pair.rgb} on `{pair.topics.get('rgb', '')}`"),
        ("fused", f"{pair.paired}, labels of `{pair.label_space}`"),
        ("of RGB alone", pair.rgb_only),
    ]
    rows += [(f"without {fault}", count) for fault, count in pair.faults.items()]
    rows += [(f"no mask: {cause}", count) for cause, count in sorted(pair.dropped.items())]
    return ["", *_table_lines(("frames", ""), rows)]


def _pairing_lines(pair: PairReport) -> list[str]:
    rows: list[tuple[Any, ...]] = [
        ("RGB images", f"{pair.rgb} on `{pair.topics.get('rgb', '')}`"),
        ("X images", f"{pair.x} on `{pair.topics.get('x', '')}`"),
        ("segmented", f"{pair.paired}, labels of `{pair.label_space}`"),
        (
            "stamp difference, absolute",
            f"mean {pair.skew_ms.mean:.2f} ms, p95 "
            f"{pair.skew_ms.p95:.2f} ms, max {pair.skew_ms.max:.2f} ms",
        ),
        ("stamp difference, mean with sign", f"{pair.mean_offset_ms:.2f} ms"),
        ("with an X used before (held)", pair.held),
        ("without X (RGB only)", pair.rgb_only),
    ]
    if pair.x_empty:
        rows.append(("X without content", f"{pair.x_empty}, first: {pair.x_problem}"))
    rows += [(f"RGB dropped: {cause}", count) for cause, count in sorted(pair.dropped.items())]
    rows += [(f"X dropped: {cause}", count) for cause, count in sorted(pair.dropped_x.items())]
    if pair.jumps:
        rows.append(("stamps jumped back", f"{pair.jumps} times"))
    if pair.lost_events:
        rows.append(("events lost, see sensor.event.max_buffer_mb", pair.lost_events))
    if pair.cut_events:
        rows.append(("events cut, more than one message may hold", pair.cut_events))
    if pair.first_fault:
        rows.append(("first message that could not be read", pair.first_fault))
    return ["", *_table_lines(("pairing", ""), rows)]


def _table_lines(header: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    return [*markdown_table(header, rows, "l").splitlines(), ""]
