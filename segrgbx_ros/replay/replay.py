"""Replays a recording through the node's decoding, pairing and model; no ROS installation needed.

`segrgbx-replay BAG --config config/thermal.yaml --checkpoint FILE` writes a report with mIoU,
pairing statistics and latency, overlays and a contact sheet, and, if asked, a recording of the
predictions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.base.errors import ConfigError, DataError, command, did_you_mean
from segrgbx_core.base.files import path_text
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from segrgbx_core.base.samples import XForm
from segrgbx_core.labels.label_space import UNIFIED
from segrgbx_ros.config.node import NodeConfig, Stream, flatten, read_node_yaml
from segrgbx_ros.messages.images import stamp_ns
from segrgbx_ros.pairing.fused import FusedFrames
from segrgbx_ros.pairing.published_labels import pair_labels
from segrgbx_ros.replay.bags import Bag, Recorded
from segrgbx_ros.replay.evaluation import evaluate
from segrgbx_ros.replay.ground_truth import (
    FolderGroundTruth,
    GroundTruth,
    TopicGroundTruth,
    recorded_ground_truth,
)
from segrgbx_ros.replay.report import Report
from segrgbx_ros.replay.topic_routes import Routes, find_routes, parse_remaps
from segrgbx_ros.replay.writers import BagContent, FrameWriter, PictureWriter, PredictionWriter

if TYPE_CHECKING:
    from segrgbx_core.runtime.segmenter import Segmenter

__all__ = ["evaluate", "main"]

SHOWN_OVERLAYS = 6
"""Overlays on the page at most; all that were asked for lie beside it."""


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the replay; returns the exit status."""
    options = _parser().parse_args(argv)
    try:
        folder = _folder(options.out)
        report = replay(options, folder)
        report.save(folder)
    except KeyboardInterrupt:
        return 130
    print(report.summary())
    print(f"written: {folder / 'report.md'}")
    return 0


def replay(options: argparse.Namespace, folder: Path) -> Report:
    """Opens everything that the command line names, and evaluates.

    Args:
        options: as `main` parses them.
        folder: for pictures; exists.

    Raises:
        SegrgbxError: one sentence for whatever does not fit.
    """
    config = read_node_yaml(options.config, _overrides(options), options.namespace)
    pairs = _chosen_pairs(config, options.pair)
    contents = _contents(options, config, pairs)
    with ExitStack() as stack:
        bag = stack.enter_context(Bag(options.bag))
        stack.callback(_warn, bag)
        routes = _routes(bag, config, pairs, contents, options)
        truths = {
            pair: truth
            for pair in pairs
            if (truth := _ground_truth(bag, routes, pair, options)) is not None
        }
        recorder = None
        if options.write_bag:
            recorder = stack.enter_context(BagWriter(options.write_bag, compress=True))
        segmenter = _load(config)
        classes = {pair: one.classes for pair, one in pair_labels(config, segmenter).items()}
        topics = bag.topics
        overlays = None if options.overlays == "all" else int(options.overlays)
        counts = _frame_counts(bag, config, pairs, routes)
        alpha = config.output.overlay_alpha
        pictures = PictureWriter(folder, classes, counts, overlays, alpha)
        predictions = None
        if recorder is not None:
            predictions = PredictionWriter(recorder, classes, routes, config, contents)
        total = sum(topics[topic].count for topic in routes.inputs)
        bar = stack.enter_context(
            tqdm(total=total, unit="msg", file=sys.stderr, disable=options.quiet, leave=False)
        )

        def on_message(message: Recorded) -> None:
            bar.update()
            if predictions is not None:
                predictions.on_message(message, topics[message.topic])

        writers: list[FrameWriter] = [pictures]
        if predictions is not None:
            writers.append(predictions)
        report = evaluate(bag, config, segmenter, routes, truths, writers, on_message)
        name = Path(options.bag).resolve().name
        weights = report.checkpoint["hash"][:12] or "random weights"
        sheets = pictures.save_sheets(
            f"Replay of {name}", f"checkpoint {weights}, {report.device}"
        )
    shown_files = [*sheets, *pictures.overlays[:SHOWN_OVERLAYS]]
    return replace(report, pictures=tuple(path.name for path in shown_files))


def _frame_counts(
    bag: Bag, config: NodeConfig, pairs: Sequence[str], routes: Routes
) -> dict[str, int]:
    """Recorded RGB images of every pair and of every fused mask."""
    shown = dict(zip(pairs, pairs, strict=True)) | {
        name: one.members[0] for name, one in FusedFrames(config, pairs).collectors.items()
    }
    topics = bag.topics
    return {name: topics[routes.topic(pair, Stream.RGB)].count for name, pair in shown.items()}


def _routes(
    bag: Bag,
    config: NodeConfig,
    pairs: Sequence[str],
    contents: set[BagContent],
    options: argparse.Namespace,
) -> Routes:
    infos = [(pair, Stream.RGB_INFO) for pair in _depth_pairs(config, pairs)]
    remaps = parse_remaps(options.remap)
    needed = infos if BagContent.POINTS in contents else ()
    routes = find_routes(bag, config, pairs, options.namespace, remaps, needed)
    for name, one in FusedFrames(config, pairs).collectors.items():
        first, *others = one.members
        topic = routes.topic(first, Stream.RGB)
        for pair in others:
            if (other := routes.topic(pair, Stream.RGB)) != topic:
                raise ConfigError(
                    f"fuse.{name}: '{first}' has RGB of '{topic}', '{pair}' of '{other}'; give "
                    f"both one topic: --remap {config.topic(pair, Stream.RGB)}:={topic}"
                )
    return routes


def _warn(bag: Bag) -> None:
    for text in bag.warnings:
        print(f"warning: {text}", file=sys.stderr)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="segrgbx-replay",
        description="Segments a recording as the node would, and scores it where truth is given.",
    )
    add = parser.add_argument
    add(
        "bag",
        type=path_text,
        help="rosbag2 folder, or one .mcap or .db3 file; compressed ones too",
    )
    add("--config", type=path_text, required=True, help="ROS parameter file, as for the node")
    add(
        "--checkpoint",
        type=path_text,
        help="checkpoint (.safetensors); wins over model.checkpoint of the file",
    )
    add("--pair", action="append", metavar="NAME", help="replay this pair only; may be repeated")
    add("--namespace", help="what stands before the node's topics (default: found)")
    add(
        "--remap",
        action="append",
        default=[],
        metavar="FROM:=TO",
        help="recorded topic of an input",
    )
    add_set_option(parser, "overrides an option")
    add("--label-space", help="labels to publish and score: unified or a data set's own")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument(
        "--truth-topic",
        help="label images with the RGB stamp (default: <pair>/label where recorded; '' for none)",
    )
    truth.add_argument(
        "--truth-folder",
        type=path_text,
        help="<stamp in ns>.png, or one .png per RGB image in order of names",
    )
    add("--truth-space", default=UNIFIED, help="label space of the truth's ids (default: unified)")
    _add_outputs(parser)
    return parser


def _add_outputs(parser: CommandParser) -> None:
    add = parser.add_argument
    add(
        "--out",
        type=path_text,
        default="replay_out",
        help="folder for report and pictures (default: %(default)s)",
    )
    add(
        "--write-bag",
        type=path_text,
        metavar="DIR",
        help="also record masks and confidences into a new folder, compressed",
    )
    add(
        "--bag-contents",
        default="",
        metavar="LIST",
        help="what --write-bag holds besides: comma list of rgb, x, overlay, points",
    )
    add(
        "--overlays",
        default="6",
        metavar="N|all|0",
        help="how many overlays (default: %(default)s)",
    )
    add("--quiet", action="store_true", help="no progress bar")


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Options of the command line by dotted name; the later ones win."""
    if options.overlays != "all" and not options.overlays.isdigit():
        raise ConfigError(f"--overlays: '{options.overlays}' is neither a number nor 'all'")
    values = flatten(apply_overrides({}, options.set))
    if options.checkpoint:
        values["model.checkpoint"] = options.checkpoint
    if options.label_space:
        values["label.space"] = options.label_space
    return values


def _contents(
    options: argparse.Namespace, config: NodeConfig, pairs: Sequence[str]
) -> set[BagContent]:
    known = [one.value for one in BagContent]
    names = [name.strip() for name in options.bag_contents.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ConfigError(f"--bag-contents: '{name}' is unknown{did_you_mean(name, known)}")
    if names and not options.write_bag:
        raise ConfigError("--bag-contents: nothing is recorded; add --write-bag DIR")
    if BagContent.POINTS.value in names and not _depth_pairs(config, pairs):
        raise ConfigError("--bag-contents: points need a pair of depth whose x_form is raw")
    return {BagContent(name) for name in names}


def _depth_pairs(config: NodeConfig, pairs: Sequence[str]) -> list[str]:
    """Pairs that points can be made of."""
    sections = ((pair, config.pair(pair)) for pair in pairs)
    return [
        pair
        for pair, section in sections
        if section.modality is Modality.DEPTH and section.x_form is XForm.RAW
    ]


def _chosen_pairs(config: NodeConfig, names: Sequence[str] | None) -> list[str]:
    for name in names or ():
        if name not in config.pairs:
            raise ConfigError(
                f"--pair: '{name}' is not configured{did_you_mean(name, config.pairs)}"
            )
    return list(names or config.pairs)


def _ground_truth(
    bag: Bag, routes: Routes, pair: str, options: argparse.Namespace
) -> GroundTruth | None:
    """As the command line says, else the label topic beside the pair's images, else none."""
    space = options.truth_space
    if options.truth_folder:
        topic = routes.topic(pair, Stream.RGB)
        stamps = [stamp_ns(message.raw) for message in bag.messages({topic})]
        return FolderGroundTruth(options.truth_folder, stamps, space)
    if options.truth_topic is not None:
        name = options.truth_topic
        if not name:
            return None
        full = name if name.startswith("/") else f"{routes.namespace}/{name}"
        return TopicGroundTruth(bag, full, space)
    return recorded_ground_truth(bag, routes, pair, space)


def _load(config: NodeConfig) -> Segmenter:
    from segrgbx_ros.load_model import load_segmenter  # noqa: PLC0415 - torch takes seconds to import

    segmenter = load_segmenter(config)
    if segmenter.warning:
        print(f"checkpoint {segmenter.checkpoint.name}: {segmenter.warning}", file=sys.stderr)
    return segmenter


def _folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made ({error.strerror})") from None
    return folder


if __name__ == "__main__":
    sys.exit(main())
