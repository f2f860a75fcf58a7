"""What the demo writes: figures, label images, overlays, contact sheet, the table of all five."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.tables import Summary
from segrgbx_core.labels.label_space import UNIFIED, palette_array
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.sync.aligner import OnMissingX
from segrgbx_ros.config.node import Stream, read_node_yaml
from segrgbx_ros.messages import images as messages
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.evaluation import evaluate
from segrgbx_ros.replay.ground_truth import Labels, TopicGroundTruth
from segrgbx_ros.replay.report import Scores
from segrgbx_ros.replay.topic_routes import Routes
from segrgbx_ros.replay.writers import SheetRow, evenly_spaced, sheet
from segrgbx_ros.tools.demo_files import NOTE, DemoFiles
from segrgbx_ros.tools.roundtrip import Answers

PICTURES = 6


def score_answers(answers: Answers, truth: TopicGroundTruth) -> Scores:
    """Agreement of the live masks with the truth of equal stamps."""
    assert answers.labels is not None
    if answers.labels.space != UNIFIED:
        raise DataError(
            f"label space '{answers.labels.space}': the demo's truth is in '{UNIFIED}'"
        )
    confusion, scored = ConfusionMatrix(len(answers.labels.names)), 0
    for stamp, mask in answers.masks.items():
        expected = truth.labels(stamp)
        if expected is not None:
            confusion.update(expected, mask)
            scored += 1
    return Scores(answers.labels.names, confusion, scored, len(answers.masks) - scored)


@dataclass(frozen=True)
class _Answered:
    """The truth of those frames alone that the live node has answered."""

    truth: TopicGroundTruth
    stamps: Collection[int]
    space: str = UNIFIED

    def labels(self, stamp_ns: int) -> Labels | None:
        """Ids of the image with this stamp; None where the node gave no answer."""
        return self.truth.labels(stamp_ns) if stamp_ns in self.stamps else None


def score_rgb_only(
    bag: Bag,
    files: DemoFiles,
    parameters: Mapping[str, Any],
    routes: Routes,
    truth: TopicGroundTruth,
    answered: Collection[int],
) -> Scores | None:
    """The comparison: the RGB-only checkpoint on the same frames, as a replay without X.

    Args:
        bag: open recording.
        files: names the checkpoint.
        parameters: node options as for the live node.
        routes: inputs of one pair.
        truth: its labels.
        answered: stamps that are scored, in ns.
    """
    from segrgbx_ros.load_model import load_segmenter  # noqa: PLC0415 - torch takes seconds to import

    changes = {
        **parameters,
        "model.checkpoint": str(files.rgb_only),
        "sync.on_missing_x": OnMissingX.RGB_ONLY.value,
    }
    config = read_node_yaml(files.config, changes)
    rgb = {
        name: tuple(use for use in uses if use[1] is Stream.RGB)
        for name, uses in routes.inputs.items()
    }
    alone = Routes(routes.namespace, {name: uses for name, uses in rgb.items() if uses})
    pair = next(iter(alone.inputs.values()))[0][0]
    truths = {pair: _Answered(truth, answered)}
    report = evaluate(bag, config, load_segmenter(config), alone, truths)
    return report.pairs[pair].scores


def metrics_of(
    files: DemoFiles,
    pair: Modality,
    answers: Answers,
    scores: Scores | None,
    beside: Scores | None,
) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
        files: what was played.
        pair: its modality.
        answers: what came back.
        scores: of the live masks.
        beside: of the RGB-only checkpoint.
    """
    assert answers.labels is not None
    latency = Summary.of(list(answers.latency_ms.values()))
    return {
        "frames_sent": len(answers.sent_s),
        "masks_received": len(answers.masks),
        "lost": {name: count for name, count in sorted(answers.losses.items()) if count},
        **_agreement(scores, pair),
        "frames_scored": scores.frames if scores else 0,
        "rgb_only": _agreement(beside, pair) if beside else None,
        "latency_ms_p50": round(latency.p50, 1),
        "latency_ms_p95": round(latency.p95, 1),
        "latency_ms_max": round(latency.max, 1),
        "checkpoint": files.checkpoint.name,
        "recording": files.recording.name,
        "label_space": answers.labels.space,
        "label_space_hash": answers.labels.hash,
        "num_classes": len(answers.labels.names),
        "node_ready_s": round(answers.node_ready_s, 1),
        "synthetic": files.note == NOTE,
        "note": files.note,
    }


def _agreement(scores: Scores | None, pair: Modality) -> dict[str, Any]:
    found = scores.to_dict() if scores else {}
    names = ("miou", "miou_true_classes", "miou_absent_as_zero", "pixel_accuracy", "per_class_iou")
    plain = {name: found.get(name) for name in names}
    if scores is not None:
        ids = [scores.names.index(name) for name in pair.facts.reveals if name in scores.names]
        shown = [index for index in ids if index in scores.true_classes]
        value = scores.confusion.miou(classes=shown) if shown else None
        plain["sensor_classes"] = [scores.names[index] for index in shown]
        plain["sensor_classes_miou"] = None if value is None else round(value, 6)
    return plain


def pictures_of(bag: Bag, routes: Routes, pair: str, answers: Answers) -> dict[int, Any]:
    """RGB pictures of the frames that are shown, by stamp."""
    stamps = sorted(answers.masks)
    chosen = {stamps[index] for index in evenly_spaced(len(stamps), PICTURES)}
    topic = routes.topic(pair, Stream.RGB)
    return {
        stamp: messages.rgb_array(bag.decode(message))
        for message in bag.messages({topic})
        if (stamp := messages.stamp_ns(message.raw)) in chosen
    }


def write_pictures(
    files: DemoFiles,
    pair: str,
    answers: Answers,
    truth: TopicGroundTruth | None,
    rgb: dict[int, Any],
) -> None:
    """Writes every label image, a few overlays and the contact sheet."""
    labels, out = answers.labels, files.out
    assert labels is not None
    palette = palette_array(labels.palette)
    for stamp, mask in answers.masks.items():
        image = Image.fromarray(mask)
        image.putpalette(palette.tobytes())  # ids stay ids, viewers show colours
        image.save(out / f"mask_{stamp}.png")
    rows, captions = [], []
    first = min(answers.sent_s)
    for stamp, picture in sorted(rgb.items()):
        if stamp in answers.overlays:
            write_image(out / f"overlay_{stamp}.png", answers.overlays[stamp])
        x_image = answers.previews.get(stamp)
        expected = truth.labels(stamp) if truth else None
        if x_image is not None:
            rows.append(SheetRow(picture, x_image, answers.masks[stamp], expected))
            captions.append(f"{(stamp - first) / 1e9:.1f} s")
    if rows:
        heading = f"RGB + {pair} through the live node"
        write_image(out / "contact_sheet.png", sheet(rows, captions, labels, heading, files.note))


def summary(all_metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of several recordings, beside the model that sees RGB alone."""
    lines = [
        "| X | masks of frames | mIoU | RGB only | classes that the sensor exists for | mIoU "
        "| RGB only |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for name, metrics in all_metrics.items():
        beside = metrics["rgb_only"] or {}
        cells = [
            name,
            f"{metrics['masks_received']} of {metrics['frames_sent']}",
            _percent(metrics["miou_true_classes"]),
            _percent(beside.get("miou_true_classes")),
            ", ".join(metrics.get("sensor_classes") or ["-"]),
            _percent(metrics.get("sensor_classes_miou")),
            _percent(beside.get("sensor_classes_miou")),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    notes = {str(metrics["note"]) for metrics in all_metrics.values()}
    return (
        "\n".join([*lines, "", "mIoU in per cent over the classes of the truth.", *notes]) + "\n"
    )


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes figures as JSON."""
    text = json.dumps(metrics, indent=2, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def remove_old(out: Path, patterns: Sequence[str] = ("mask_*.png", "overlay_*.png")) -> None:
    """Removes the pictures of an earlier call."""
    for pattern in patterns:
        for old in out.glob(pattern):
            old.unlink()


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
