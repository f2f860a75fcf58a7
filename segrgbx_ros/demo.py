"""Plays the shipped recording through the live node and scores what comes back.

`python -m segrgbx_ros.demo --modality thermal --out demo_out` starts the node in a process of its
own, plays `resource/demo/<modality>` over DDS at the recorded rate, and writes label images,
overlays, a contact sheet and `metrics.json` to `demo_out/<modality>/`. Recording and checkpoint
come from the project's own renderer: the figures say nothing about real roads.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segrgbx_core.errors import DataError, SegrgbxError
from segrgbx_core.images import write_image
from segrgbx_core.labels import UNIFIED, palette_array
from segrgbx_core.metrics import ConfusionMatrix
from segrgbx_core.modality import MODALITIES
from segrgbx_ros import messages
from segrgbx_ros.bags import Bag, header_stamp_ns
from segrgbx_ros.config import Stream, read_node_yaml
from segrgbx_ros.report import Scores, Spread
from segrgbx_ros.roundtrip import Answers, play_through_node
from segrgbx_ros.sinks import SheetRow, sheet, spread
from segrgbx_ros.topics import Routes, find_routes, recorded_transports
from segrgbx_ros.truth import TopicTruth

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / "config" / "fastdds_large_images.xml"
MIN_RATIO = 0.95
"""Share of the frames that must come back."""
WAIT_MS = 100.0
"""How long RGB may wait for X; more than on a vehicle, as player and node share a processor."""
RATES = (1.0, 0.5, 0.25)
"""Speeds that are tried until the machine keeps up; the first is the recorded one."""
PICTURES = 6
NOTE = (
    "Synthetic scenes rendered by this project; checkpoint trained on other such scenes. "
    "No statement about real roads."
)


@dataclass(frozen=True)
class DemoFiles:
    """What the demo plays, and the folder it writes to."""

    recording: Path
    checkpoint: Path
    config: Path
    out: Path
    note: str = NOTE

    def check(self) -> None:
        """Raises `DataError` for the first file that is missing."""
        for path in (self.recording, self.checkpoint, self.config):
            if not path.exists():
                raise DataError(f"{path}: is missing; run the demo from a complete checkout")


def run_demo(files: DemoFiles, pair: str, rate: float = 1.0) -> dict[str, Any]:
    """Plays a recording through the live node and writes the results.

    Args:
        files: recording, checkpoint, node options, folder for results.
        pair: name of the RGB-X pair.
        rate: speed against the recording.

    Returns:
        the content of `metrics.json`.

    Raises:
        SegrgbxError: when a file is missing, or the node ends or does not get ready.
    """
    files.check()
    files.out.mkdir(parents=True, exist_ok=True)
    for old in (*files.out.glob("mask_*.png"), *files.out.glob("overlay_*.png")):
        old.unlink()
    log = files.out / "node.log"
    with Bag(files.recording) as bag:
        config = read_node_yaml(files.config)
        parameters: dict[str, Any] = {
            "model.checkpoint": str(files.checkpoint),
            **recorded_transports(bag, config, pair),
        }
        config = read_node_yaml(files.config, parameters)
        # Slower playing stretches the time between RGB and its X as well.
        parameters["sync.wait_ms"] = min(500.0, max(config.sync.wait_ms, WAIT_MS) / rate)
        routes = find_routes(bag, config, [pair])
        truth = _truth(bag, routes, pair)
        print(f"the node starts and loads {files.checkpoint.name}; its log is {log}")
        answers = play_through_node(bag, routes, pair, files.config, log, parameters, rate)
        scores = _score(answers, truth) if truth else None
        if answers.masks:
            _write_pictures(files, pair, answers, truth, _rgb(bag, routes, pair, answers))
    metrics = {**_metrics(files, answers, scores), "rate": rate}
    text = json.dumps(metrics, indent=2, allow_nan=False)
    (files.out / "metrics.json").write_text(text + "\n", encoding="utf-8")
    return metrics


def complaint(metrics: dict[str, Any], log: Path) -> str:
    """Why the demo failed, empty when it did not."""
    sent, received = metrics["frames_sent"], metrics["masks_received"]
    if sent == 0:
        return "the recording holds no RGB image"
    if received == 0:
        return f"none of {sent} frames came back; see {log}"
    if received < MIN_RATIO * sent:
        causes = ", ".join(f"{name} {count}" for name, count in metrics["lost"].items())
        return (
            f"only {received} of {sent} frames came back, {MIN_RATIO:.0%} are needed "
            f"({causes or 'no cause was reported'}); replaced_by_newer means that the machine "
            "is too slow: close other programs or play with a smaller --rate"
        )
    return ""


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the demo; returns the exit status."""
    options = _parser().parse_args(argv)
    if PROFILE.exists():  # both processes read it when they join their first domain
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(PROFILE))
    before = signal.signal(signal.SIGTERM, _interrupt)  # so that the node is ended too
    files = DemoFiles(
        options.recording or ROOT / "resource" / "demo" / options.modality,
        options.checkpoint or ROOT / "resource" / "demo" / "segrgbx_tiny.safetensors",
        options.config or ROOT / "config" / f"{options.modality}.yaml",
        options.out / options.modality,
        "" if options.recording or options.checkpoint else NOTE,
    )
    log = files.out / "node.log"
    try:
        for rate in [options.rate] if options.rate else RATES:
            metrics = run_demo(files, options.modality, rate)
            failure = complaint(metrics, log)
            _tell(metrics, files)
            if not failure or metrics["masks_received"] == 0:
                break
            print(f"demo: at rate {rate:g}, {failure}", file=sys.stderr)
    except SegrgbxError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    if failure and metrics["masks_received"] == 0:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m segrgbx_ros.demo", description=__doc__)
    add = parser.add_argument
    add("--modality", choices=[str(one) for one in MODALITIES], default="thermal")
    add("--out", type=Path, default=Path("demo_out"), help="results go to a folder in it")
    add("--recording", type=Path, help="another recording (default: the shipped one)")
    add("--checkpoint", type=Path, help="another checkpoint (default: the shipped one)")
    add("--config", type=Path, help="node options (default: config/<modality>.yaml)")
    add("--rate", type=float, help="speed (default: as recorded; slower when frames get lost)")
    return parser


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _truth(bag: Bag, routes: Routes, pair: str) -> TopicTruth | None:
    base = f"{routes.namespace}/{pair}/label"
    name = next((name for name in (base, f"{base}/compressed") if name in bag.topics), None)
    return TopicTruth(bag, name) if name else None


def _score(answers: Answers, truth: TopicTruth) -> Scores:
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


def _metrics(files: DemoFiles, answers: Answers, scores: Scores | None) -> dict[str, Any]:
    assert answers.labels is not None
    latency = Spread.of(list(answers.latency_ms.values()))
    found = scores.to_dict() if scores else {}
    return {
        "frames_sent": len(answers.sent_s),
        "masks_received": len(answers.masks),
        "lost": {name: count for name, count in sorted(answers.losses.items()) if count},
        "miou": found.get("miou"),
        "miou_true_classes": found.get("miou_true_classes"),
        "miou_absent_as_zero": found.get("miou_absent_as_zero"),
        "pixel_accuracy": found.get("pixel_accuracy"),
        "per_class_iou": found.get("per_class_iou"),
        "frames_scored": found.get("frames", 0),
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


def _rgb(bag: Bag, routes: Routes, pair: str, answers: Answers) -> dict[int, Any]:
    """RGB pictures of the frames that are shown, by stamp."""
    stamps = sorted(answers.masks)
    chosen = {stamps[index] for index in spread(len(stamps), PICTURES)}
    topic = routes.topic(pair, Stream.RGB)
    return {
        stamp: messages.rgb_array(bag.decode(message))
        for message in bag.messages({topic})
        if (stamp := header_stamp_ns(message.raw)) in chosen
    }


def _write_pictures(
    files: DemoFiles, pair: str, answers: Answers, truth: TopicTruth | None, rgb: dict[int, Any]
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


def _tell(metrics: dict[str, Any], files: DemoFiles) -> None:
    print(
        f"{metrics['masks_received']} of {metrics['frames_sent']} frames came back, latency p50 "
        f"{metrics['latency_ms_p50']} ms, p95 {metrics['latency_ms_p95']} ms (RGB published to "
        "mask received)"
    )
    if metrics["miou"] is not None:
        print(
            f"mIoU {metrics['miou']:.1%} over the classes that occur in truth or prediction, "
            f"pixel accuracy {metrics['pixel_accuracy']:.1%}. {files.note}".rstrip()
        )
    print(f"written: {files.out / 'metrics.json'}, contact_sheet.png, overlay_*.png, mask_*.png")


if __name__ == "__main__":
    sys.exit(main())
