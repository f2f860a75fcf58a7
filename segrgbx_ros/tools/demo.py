"""Plays recordings through the live node and scores what comes back.

`python -m segrgbx_ros.tools.demo --modality thermal --out demo_out` starts the node in a
process of its own, plays a recording over DDS at the recorded rate, and writes label images,
overlays, a contact sheet and `metrics.json` to `demo_out/<modality>/`; `--modality all` plays
five, one for each sensor. Recordings and checkpoints come from the project's own renderer: the
figures say nothing about real roads.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segrgbx_core.base.errors import DataError, command
from segrgbx_core.base.files import user_path, write_text
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.base.tables import UNDEFINED, Summary, markdown_table, percent
from segrgbx_core.labels.label_space import UNIFIED
from segrgbx_core.labels.metrics import ConfusionMatrix
from segrgbx_core.sync.aligner import OnMissingX
from segrgbx_ros.config.node import Stream, read_node_yaml
from segrgbx_ros.messages.images import rgb_array, stamp_ns
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.evaluation import evaluate
from segrgbx_ros.replay.ground_truth import Labels, TopicGroundTruth, recorded_ground_truth
from segrgbx_ros.replay.report import Scores
from segrgbx_ros.replay.topic_routes import Routes, find_routes
from segrgbx_ros.replay.writers import SheetRow, evenly_spaced, sheet
from segrgbx_ros.tools.roundtrip import Answers, play_through_node

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "resource" / "demo"
CHECKPOINT = SHIPPED / "segrgbx_tiny.safetensors"
RGB_ONLY = SHIPPED / "segrgbx_tiny_rgb_only.safetensors"
"""As large as `CHECKPOINT` and trained alike, but it never saw X."""
NOTE = (
    "Synthetic scenes rendered by this project; checkpoint trained on other such scenes. "
    "No statement about real roads."
)
PROFILE = ROOT / "config" / "fastdds_large_images.xml"
ALL = "all"
MIN_RATIO = 0.95
"""Share of the frames that must come back."""
WAIT_MS = 100.0
"""How long RGB may wait for X; more than on a vehicle, as player and node share a processor."""
RATES = (1.0, 0.5, 0.25)
"""Speeds that are tried until the machine keeps up; the first is the recorded one."""
PICTURES = 6


@dataclass(frozen=True)
class DemoFiles:
    """What the demo plays, and the folder it writes to.

    Attributes:
        recording: rosbag2 folder.
        checkpoint: answers it.
        config: node options.
        out: gets the results.
        rgb_only: checkpoint for comparison, fed with RGB alone; None for none.
        note: below pictures and figures; empty where the user brings a recording or checkpoint.
    """

    recording: Path
    checkpoint: Path
    config: Path
    out: Path
    rgb_only: Path | None = None
    note: str = NOTE

    def check(self) -> None:
        """Raises `DataError` for the first file that is missing."""
        for path in (self.recording, self.checkpoint, self.config, self.rgb_only):
            if path is not None and not path.exists():
                raise DataError(f"{path}: is missing; run the demo from a complete checkout")


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
        config = read_node_yaml(files.config, changes)
        wait_ms = max(config.sync.wait_ms, WAIT_MS)
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
    from_pair = Summary.of(answers.pair_latency_ms())
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
        "pair_latency_ms_p50": round(from_pair.p50, 1),
        "pair_latency_ms_p95": round(from_pair.p95, 1),
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
    results = scores.to_dict() if scores else {}
    names = ("miou", "miou_true_classes", "miou_absent_as_zero", "pixel_accuracy", "per_class_iou")
    plain = {name: results.get(name) for name in names}
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
    modalities = {stamps[index] for index in evenly_spaced(len(stamps), PICTURES)}
    topic = routes.topic(pair, Stream.RGB)
    return {
        stamp: rgb_array(bag.decode(message))
        for message in bag.messages({topic})
        if (stamp := stamp_ns(message.raw)) in modalities
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
    palette = labels.palette_array()
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
    shown = "classes that the sensor exists for"
    header = ("X", "masks of frames", "mIoU", "RGB only", shown, "mIoU", "RGB only")
    rows = []
    for name, metrics in all_metrics.items():
        beside = metrics["rgb_only"] or {}
        rows.append(
            (
                name,
                f"{metrics['masks_received']} of {metrics['frames_sent']}",
                percent(metrics["miou_true_classes"], 1),
                percent(beside.get("miou_true_classes"), 1),
                ", ".join(metrics.get("sensor_classes") or [UNDEFINED]),
                percent(metrics.get("sensor_classes_miou"), 1),
                percent(beside.get("sensor_classes_miou"), 1),
            )
        )
    notes = {str(metrics["note"]) for metrics in all_metrics.values()}
    table = markdown_table(header, rows, "lrrrlrr")
    return "\n".join([table, "", "mIoU in per cent over the classes of the truth.", *notes]) + "\n"


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Writes figures as JSON."""
    write_text(path, json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def remove_old(out: Path) -> None:
    """Removes the pictures of an earlier call."""
    for old in (*out.glob("mask_*.png"), *out.glob("overlay_*.png")):
        old.unlink()


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
    modalities = MODALITIES if options.modality == ALL else (Modality(options.modality),)
    results: dict[str, dict[str, Any]] = {}
    failed = False
    try:
        for modality in modalities:
            files = _files(options, modality)
            results[modality.value], failure = _play(files, modality, options.rate)
            failed = failed or bool(failure)
        if options.modality == ALL:
            _summarise(options.out, results)
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
    add("--out", type=user_path, default=Path("demo_out"), help="results go to a folder in it")
    add("--recording", type=user_path, help="another recording (default: the project's own)")
    add("--checkpoint", type=user_path, help="another checkpoint (default: the shipped one)")
    add("--rgb-only", type=user_path, help="checkpoint to compare with, fed with RGB alone")
    add("--config", type=user_path, help="node options (default: config/<modality>.yaml)")
    add("--rate", type=float, help="speed (default: as recorded; slower when frames get lost)")
    return parser


def _interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _summarise(out: Path, results: dict[str, dict[str, Any]]) -> None:
    table = summary(results)
    write_text(out / "summary.md", table)
    write_metrics(out / "summary.json", results)
    print(f"\n{table}\nwritten: {out / 'summary.md'}, summary.json")


def _tell(metrics: dict[str, Any], files: DemoFiles) -> None:
    print(
        f"{metrics['masks_received']} of {metrics['frames_sent']} frames came back, latency p50 "
        f"{metrics['latency_ms_p50']} ms, p95 {metrics['latency_ms_p95']} ms (RGB published to "
        f"mask received); from the complete pair {metrics['pair_latency_ms_p50']} and "
        f"{metrics['pair_latency_ms_p95']} ms"
    )
    if metrics["miou"] is not None:
        beside = metrics["rgb_only"]
        alone = f" (RGB only: {beside['miou_true_classes']:.1%})" if beside else ""
        print(
            f"mIoU {metrics['miou_true_classes']:.1%}{alone} over the classes of the truth, "
            f"pixel accuracy {metrics['pixel_accuracy']:.1%}. {files.note}".rstrip()
        )
    print(f"written: {files.out / 'metrics.json'}, contact_sheet.png, overlay_*.png, mask_*.png")


def demo_recording(modality: Modality, out: Path) -> Path:
    """The recording of a modality: the shipped one, else one below `out`, rendered if need be.

    A rendered one is kept until the code that renders changes.

    Raises:
        DataError: when it has to be rendered and cannot be.
    """
    shipped = SHIPPED / modality.value
    if shipped.exists():
        return shipped
    folder = out / "recordings"
    rendered = folder / f"{modality.value}_{_renderer()}"
    if not rendered.exists():
        for old in folder.glob(f"{modality.value}_*"):
            shutil.rmtree(old)
        draft = folder / f"{modality.value}_draft"
        _render(modality, draft)
        draft.replace(rendered)
    return rendered


def _renderer() -> str:
    """Eight digits that change with the code that renders."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "training" / "world").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def knows_packets() -> bool:
    """Whether the message package of event cameras is installed; it is no wheel, ROS brings it."""
    return importlib.util.find_spec("event_camera_msgs") is not None


def _render(modality: Modality, folder: Path) -> None:
    print(f"rendering the {modality} recording into {folder}; this is done once", flush=True)
    command = [sys.executable, "-m", "training.world.recording"]
    command += ["--demo", modality.value, "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise DataError(
            f"{folder}: the {modality} recording could not be rendered: {reason[0]}; "
            "MODALITY=thermal plays the shipped one"
        )


if __name__ == "__main__":
    sys.exit(main())
