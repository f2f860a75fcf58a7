"""Accuracy against latency: one checkpoint in many variants on the same labelled frames.

Frames of a scene go through every variant in their order, as a vehicle's stream would, and the
variants take turns frame by frame, so that whatever else the machine does falls on all alike.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from segrgbx_core.base.errors import ConfigError, DataError, SegrgbxError
from segrgbx_core.base.samples import Array
from segrgbx_core.base.tables import Summary, markdown_table, number, percent
from segrgbx_core.bench.harness import Variant, in_turn, timed, with_changes
from segrgbx_core.export.parity import MIN_AGREEMENT
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.runtime.checkpoint import read_contract
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter
from training.data.datasets import Labelled, Reader, sensor_of

REFRESH = (2, 4, 8, 15)
"""Frames per scene embedding; the exact variant computes one for each."""
SCALES = (0.5, 0.75, 1.5)
"""Sides of the model's input relative to those it was trained with."""
EXACT = Variant("exact: fp32, in process, scene of every frame", {})
COMPILED = Variant("torch.compile", {"compile": True})
_STEP = 16
"""Input sides are multiples of this many pixels."""
_FRAME = re.compile(r"(.+)[_/]\d+$")
# Age and change would renew scene embeddings where `refresh_every` does not.
_BY_COUNT = {"scene.max_age_ms": 60_000.0, "scene.change": 1.0}
_COLOURS = {
    "refresh_every": "#d1603d",
    "precision": "#5b7c99",
    "input size": "#6a994e",
    "backend": "#7b5ea7",
}
_MUST_AGREE = ("precision", "backend")
"""Groups that may not change labels: their variants compute the same in another way."""


def variants(
    trained: tuple[int, int], scales: Sequence[float] = SCALES
) -> dict[str, list[Variant]]:
    """What is compared with the exact variant, by what it changes.

    Args:
        trained: height and width of the model's input in training.
        scales: of that size.
    """
    sizes = {
        scale: tuple(max(2, round(side * scale / _STEP)) * _STEP for side in trained)
        for scale in scales
    }
    backends = (
        ("ONNX Runtime", "onnx", "auto"),
        ("AOTInductor", "aot", "auto"),
        ("OpenVINO fp32", "openvino", "fp32"),
        ("OpenVINO bf16", "openvino", "bf16"),
    )
    return {
        "refresh_every": [
            Variant(f"scene every {n} frames", {"scene.refresh_every": n}) for n in REFRESH
        ],
        "precision": [Variant(name, {"precision": name}) for name in ("bf16", "fp16")],
        "input size": [
            Variant(f"{width}x{height}", {"input_height": height, "input_width": width})
            for height, width in sizes.values()
        ],
        "backend": [
            COMPILED,
            Variant("CUDA graph", {"cuda_graph": True}),
            *(
                Variant(title, {"backend": name, "precision": precision})
                for title, name, precision in backends
            ),
        ],
    }


class _Measured:
    """A variant with what it has predicted so far."""

    def __init__(self, variant: Variant, segmenter: Segmenter) -> None:
        self.variant, self.segmenter = variant, segmenter
        self.matrix = ConfusionMatrix(len(segmenter.classes.names))
        self.agreements: list[float] = []
        self.wall_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.ages: list[int] = []
        self.labels: Array = np.empty(0, np.uint8)

    def predict(self, item: Labelled, stream: str) -> None:
        [prediction], wall_ms, cpu_ms = timed(
            lambda: self.segmenter.predict([item.sample], [stream])
        )
        self.wall_ms.append(wall_ms)
        self.cpu_ms.append(cpu_ms)
        self.matrix.update(item.labels, prediction.labels)
        self.labels = prediction.labels
        self.ages.append(prediction.scene_age)

    def result(self) -> dict[str, Any]:
        wall = Summary.of(self.wall_ms)
        return {
            "name": self.variant.name,
            "miou": self.matrix.miou(),
            "agreement": float(np.mean(self.agreements)),
            "worst_agreement": float(np.min(self.agreements)),
            "wall_ms": wall.mean,
            "p95_ms": wall.p95,
            "cpu_ms": Summary.of(self.cpu_ms).mean,
            "looks": float(np.mean([age == 0 for age in self.ages])),
            "device": self.segmenter.device_name,
        }


@dataclass(frozen=True)
class Comparison:
    """One checkpoint, and the frames on which it is compared with itself.

    Attributes:
        checkpoint: file.
        reader: labelled frames.
        split: their name.
        exported: folder that was exported from the checkpoint for this modality, or empty.
        device: as the option.
        scenes: scenes to take, 0 for all.
        frames: frames to take of each, 0 for all.
    """

    checkpoint: Path
    reader: Reader
    split: str = ""
    exported: str = ""
    device: str = "auto"
    scenes: int = 0
    frames: int = 0

    def report(
        self, scales: Sequence[float] = SCALES, only: Sequence[str] = (), compiled: bool = False
    ) -> dict[str, Any]:
        """Measures the groups of `variants`; returns what the page holds, as plain values.

        Args:
            scales: sides of the model's input relative to those it was trained with.
            only: groups by name; none for all.
            compiled: with torch.compile, slow to start.

        Raises:
            as `measure`.
        """
        trained = Segmenter.from_checkpoint(self.checkpoint, InferenceConfig(device="cpu"))
        size = trained.input
        groups = variants((size.height, size.width), scales)
        if only:
            groups = {name: groups[name] for name in groups if name in only}
        if "backend" in groups and not compiled:
            groups["backend"].remove(COMPILED)
        results, missing = self.measure(groups)
        if not compiled:
            missing[COMPILED.name] = "takes a minute or more to start; ask for it with --compile"
        return {
            "checkpoint": self.checkpoint.name,
            "hash": trained.checkpoint.hash,
            "data": f"{self.reader.native} {self.reader.modality}, split {self.split}",
            "trained_input": f"{size.width}x{size.height}",
            "groups": results,
            "missing": missing,
        }

    def measure(
        self, groups: Mapping[str, Sequence[Variant]]
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Runs every variant; one group is in memory at a time, each with the exact variant.

        Returns:
            per group `group`, the `exact` variant's figures measured in the same turns, and
            `forms`; and by variant what kept it from being run.

        Raises:
            SegrgbxError: when the exact variant cannot be run, or a file of the data set is
                broken.
        """
        results: list[dict[str, Any]] = []
        missing: dict[str, str] = {}
        for group, members in groups.items():
            measured = [self._warm(EXACT)]
            for variant in members:
                warm = self._warm_or_reason(variant)
                if isinstance(warm, str):
                    missing[variant.name] = warm
                else:
                    measured.append(warm)
            if len(measured) > 1:
                self._take_turns(measured)
                first, *others = (one.result() for one in measured)
                results.append({"group": group, "exact": first, "forms": others})
        return results, missing

    def frames_by_scene(self) -> Iterator[tuple[Labelled, str]]:
        """Frames with their scenes, within the limits."""
        counts: dict[str, int] = {}
        for index in range(len(self.reader)):
            item = self.reader[index]
            scene = scene_of(item.name)
            if self.scenes and scene not in counts and len(counts) == self.scenes:
                continue
            counts[scene] = counts.get(scene, 0) + 1
            if not self.frames or counts[scene] <= self.frames:
                yield item, scene

    def _warm_or_reason(self, variant: Variant) -> _Measured | str:
        try:
            return self._warm(variant)
        except (SegrgbxError, RuntimeError) as error:  # RuntimeError: of torch.compile
            return str(error).strip().split("\n", 1)[0]

    def _warm(self, variant: Variant) -> _Measured:
        """A warm segmenter of a variant."""
        plain = InferenceConfig(device=self.device, precision="fp32")
        config = with_changes(plain, {**_BY_COUNT, **variant.changes})
        runs_exported = "backend" in variant.changes
        if runs_exported and not self.exported:
            raise ConfigError("needs --exported, a folder that segrgbx-export wrote")
        segmenter = Segmenter.from_checkpoint(
            self.exported if runs_exported else self.checkpoint,
            config,
            sensor_of(self.reader, None),
            label_space=self.reader.native,
            merge_for=self.reader.modality,
        )
        if runs_exported and segmenter.contract != read_contract(self.checkpoint):
            raise ConfigError(f"{self.exported} was exported from another checkpoint; export anew")
        first = self.reader[0].sample
        segmenter.warm_up(first.rgb.shape[:2], [self.reader.modality])
        segmenter.predict([first])
        return _Measured(variant, segmenter)

    def _take_turns(self, measured: Sequence[_Measured]) -> None:
        names = ", ".join(one.variant.name for one in measured)
        frames = tqdm(self.frames_by_scene(), unit="frame", desc=names, leave=False)
        for turn, (item, scene) in enumerate(frames):
            for one in in_turn(measured, turn):
                one.predict(item, scene)
            for one in measured:
                one.agreements.append(float((one.labels == measured[0].labels).mean()))
        if not measured[0].wall_ms:
            raise DataError(f"{self.reader.native}: the split has no samples to measure on")


def scene_of(name: str) -> str:
    """The scene that a sample belongs to: its name without the number of the frame.

    Samples whose names end in no number of a frame are scenes of their own.
    """
    match = _FRAME.fullmatch(name)
    return match.group(1) if match else name


def to_markdown(report: Mapping[str, Any]) -> str:
    """One page: a table of all variants, and a line for each that could not be run."""
    groups = report["groups"]
    device = groups[0]["exact"]["device"] if groups else "no device"
    processor = platform.processor() or platform.machine()
    rows: list[list[str]] = []
    for group in groups:
        exact = group["exact"]
        rows.append([f"**{group['group']}**", *[""] * 8])
        rows += [_row(form, exact) for form in (exact, *group["forms"])]
    titles = ["form", "mIoU", "change", "labels as exact", "worst frame", "ms", "p95", "CPU ms"]
    lines = [
        f"# What speed costs: {report['checkpoint']}",
        "",
        f"{report['data']}; checkpoint `{report['hash'][:16]}`, trained at "
        f"{report['trained_input']}; {device}, {processor}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}. Times are means per frame; speed is the exact form's time "
        "over this one's, of CPU time on a CPU and wall time elsewhere, measured in turns.",
        "",
        markdown_table([*titles, "speed"], rows),
        "",
    ]
    lines += [f"- not run: {name}: {reason}" for name, reason in report["missing"].items()]
    bad = below_limit(report)
    share = f"{100 * MIN_AGREEMENT:g} %"
    lines.append(
        f"- fewer than {share} of the labels are the exact form's: {', '.join(bad)}"
        if bad
        else f"- every precision and backend keeps at least {share} of the exact form's labels"
    )
    return "\n".join(lines) + "\n"


def below_limit(report: Mapping[str, Any]) -> list[str]:
    """Precisions and backends that change more labels than an export may."""
    return [
        form["name"]
        for group in report["groups"]
        if group["group"] in _MUST_AGREE
        for form in group["forms"]
        if not form["agreement"] >= MIN_AGREEMENT
    ]


def speed(form: Mapping[str, Any], exact: Mapping[str, Any]) -> float:
    """How many times faster than the exact variant, which was measured in the same turns."""
    clock = "wall_ms" if exact["device"].startswith("cuda") else "cpu_ms"
    return float(exact[clock] / form[clock])


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Writes `speed_cost.md`, `.json` and `.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "speed_cost.md").write_text(to_markdown(report), encoding="utf-8")
    text = json.dumps(report, indent=1)
    (folder / "speed_cost.json").write_text(f"{text}\n", encoding="utf-8")
    draw(report, folder / "speed_cost.png")


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws the change of mIoU over speed, one mark per variant."""
    with mpl.rc_context({"font.size": 8}):
        figure = Figure(figsize=(6.4, 4), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color="#9aa5b1", linewidth=0.8)
        axes.axvline(1, color="#9aa5b1", linewidth=0.8)
        for group in report["groups"]:
            exact, colour = group["exact"], _COLOURS[group["group"]]
            points = [
                (speed(form, exact), 100 * (form["miou"] - exact["miou"]), form["name"])
                for form in group["forms"]
            ]
            axes.scatter(*zip(*(point[:2] for point in points), strict=True), color=colour,
                         label=group["group"])  # fmt: skip
            for index, (across, up, name) in enumerate(points):
                offset = (4, 4 if index % 2 == 0 else -10)
                axes.annotate(
                    name, (across, up), xytext=offset, textcoords="offset points", color=colour
                )
        axes.set_xlabel("speed, exact form = 1")
        axes.set_ylabel("change of mIoU in points")
        axes.set_title(f"{report['checkpoint']} on {report['data']}")
        axes.margins(0.12)
        if report["groups"]:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=130)


def _row(form: Mapping[str, Any], exact: Mapping[str, Any]) -> list[str]:
    return [
        form["name"],
        percent(form["miou"]),
        f"{100 * (form['miou'] - exact['miou']):+.2f}",
        f"{percent(form['agreement'])} %",
        f"{percent(form['worst_agreement'])} %",
        *(number(form[name]) for name in ("wall_ms", "p95_ms", "cpu_ms")),
        number(speed(form, exact), 2),
    ]
