"""Plays recordings through the live node and scores what comes back.

`python -m segrgbx_ros.tools.demo --modality thermal --out demo_out` starts the node in a
process of its own, plays a recording over DDS at the recorded rate, and writes label images,
overlays, a contact sheet and `metrics.json` to `demo_out/<modality>/`; `--modality all` plays
five, one for each sensor. Recordings and checkpoints come from the project's own renderer: the
figures say nothing about real roads.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import command
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import XForm
from segrgbx_ros.config.node import read_node_yaml
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.ground_truth import recorded_ground_truth
from segrgbx_ros.replay.topic_routes import find_routes, recorded_transports
from segrgbx_ros.tools.demo_files import (
    CHECKPOINT,
    NOTE,
    RGB_ONLY,
    ROOT,
    DemoFiles,
    demo_recording,
    knows_packets,
)
from segrgbx_ros.tools.demo_results import (
    metrics_of,
    pictures_of,
    remove_old,
    score_answers,
    score_rgb_only,
    summary,
    write_metrics,
    write_pictures,
)
from segrgbx_ros.tools.roundtrip import play_through_node

PROFILE = ROOT / "config" / "fastdds_large_images.xml"
ALL = "all"
MIN_RATIO = 0.95
"""Share of the frames that must come back."""
WAIT_MS = 100.0
"""How long RGB may wait for X; more than on a vehicle, as player and node share a processor."""
RATES = (1.0, 0.5, 0.25)
"""Speeds that are tried until the machine keeps up; the first is the recorded one."""


def run_demo(files: DemoFiles, pair: Modality, rate: float = 1.0) -> dict[str, Any]:
    """Plays a recording through the live node and writes the results.

    Args:
        files: recording, checkpoint, node options, folder for results.
        pair: the RGB-X pair, named after its modality.
        rate: speed against the recording.

    Returns:
        the content of `metrics.json`.

    Raises:
        SegrgbxError: when a file is missing, or the node ends or does not get ready.
    """
    files.check()
    files.out.mkdir(parents=True, exist_ok=True)
    remove_old(files.out)
    log = files.out / "node.log"
    with Bag(files.recording) as bag:
        changes: dict[str, Any] = {}
        if pair is Modality.EVENT and not knows_packets():
            print("event_camera_msgs is not installed: drawn event pictures stand for the stream")
            changes[f"{pair}.x_form"] = XForm.IMAGE.value
        changes |= recorded_transports(bag, read_node_yaml(files.config, changes), pair)
        config = read_node_yaml(files.config, changes)
        # Slower playing stretches the time between RGB and its X as well.
        wait_ms = min(500.0, max(config.sync.wait_ms, WAIT_MS) / rate)
        parameters: dict[str, Any] = {
            **changes,
            "model.checkpoint": str(files.checkpoint),
            "sync.wait_ms": wait_ms,
        }
        routes = find_routes(bag, config, [pair])
        truth = recorded_ground_truth(bag, routes, pair)
        print(f"the node starts and loads {files.checkpoint.name}; its log is {log}", flush=True)
        answers = play_through_node(bag, routes, pair, files.config, log, parameters, rate)
        scores = score_answers(answers, truth) if truth else None
        beside = None
        if truth and files.rgb_only and answers.masks:
            beside = score_rgb_only(bag, files, changes, routes, truth, set(answers.masks))
        if answers.masks:
            write_pictures(files, pair, answers, truth, pictures_of(bag, routes, pair, answers))
    metrics = {**metrics_of(files, pair, answers, scores, beside), "rate": rate}
    write_metrics(files.out / "metrics.json", metrics)
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


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the demo; returns the exit status."""
    options = _parser().parse_args(argv)
    if PROFILE.exists():  # both processes read it when they join their first domain
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(PROFILE))
    before = signal.signal(signal.SIGTERM, _interrupt)  # so that the node is ended too
    chosen = MODALITIES if options.modality == ALL else (Modality(options.modality),)
    found: dict[str, dict[str, Any]] = {}
    failed = False
    try:
        for modality in chosen:
            files = _files(options, modality)
            found[modality.value], failure = _play(files, modality, options.rate)
            failed = failed or bool(failure)
        if options.modality == ALL:
            _summarise(options.out, found)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 1 if failed else 0


def _play(files: DemoFiles, modality: Modality, rate: float | None) -> tuple[dict[str, Any], str]:
    """Figures of one recording, and why it failed at the speed tried last."""
    for speed in [rate] if rate else RATES:
        metrics = run_demo(files, modality, speed)
        failure = complaint(metrics, files.out / "node.log")
        _tell(metrics, files)
        if failure:
            print(f"demo: at rate {speed:g}, {failure}", file=sys.stderr)
        if not failure or metrics["masks_received"] == 0:
            break
    return metrics, failure


def _files(options: argparse.Namespace, modality: Modality) -> DemoFiles:
    is_own = bool(options.recording or options.checkpoint)
    return DemoFiles(
        options.recording or demo_recording(modality, options.out),
        options.checkpoint or CHECKPOINT,
        options.config or ROOT / "config" / f"{modality}.yaml",
        options.out / modality.value,
        options.rgb_only or (None if is_own else RGB_ONLY),
        "" if is_own else NOTE,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m segrgbx_ros.tools.demo", description=__doc__)
    add = parser.add_argument
    add("--modality", choices=[*map(str, MODALITIES), ALL], default="thermal")
    add("--out", type=Path, default=Path("demo_out"), help="results go to a folder in it")
    add("--recording", type=Path, help="another recording (default: the project's own)")
    add("--checkpoint", type=Path, help="another checkpoint (default: the shipped one)")
    add("--rgb-only", type=Path, help="checkpoint to compare with, fed with RGB alone")
    add("--config", type=Path, help="node options (default: config/<modality>.yaml)")
    add("--rate", type=float, help="speed (default: as recorded; slower when frames get lost)")
    return parser


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _summarise(out: Path, found: dict[str, dict[str, Any]]) -> None:
    table = summary(found)
    (out / "summary.md").write_text(table, encoding="utf-8")
    write_metrics(out / "summary.json", found)
    print(f"\n{table}\nwritten: {out / 'summary.md'}, summary.json")


def _tell(metrics: dict[str, Any], files: DemoFiles) -> None:
    print(
        f"{metrics['masks_received']} of {metrics['frames_sent']} frames came back, latency p50 "
        f"{metrics['latency_ms_p50']} ms, p95 {metrics['latency_ms_p95']} ms (RGB published to "
        "mask received)"
    )
    if metrics["miou"] is not None:
        beside = metrics["rgb_only"]
        alone = f" (RGB only: {beside['miou_true_classes']:.1%})" if beside else ""
        print(
            f"mIoU {metrics['miou_true_classes']:.1%}{alone} over the classes of the truth, "
            f"pixel accuracy {metrics['pixel_accuracy']:.1%}. {files.note}".rstrip()
        )
    print(f"written: {files.out / 'metrics.json'}, contact_sheet.png, overlay_*.png, mask_*.png")


if __name__ == "__main__":
    sys.exit(main())
