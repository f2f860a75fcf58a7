"""Makes a data set of one's own out of a recording; no ROS installation needed.

    segrgbx-extract BAG --config config/thermal.yaml --every 0.5s --out DATA
    segrgbx-extract BAG --config config/thermal.yaml --out DATA --labels CHECKPOINT_OR_FOLDER

Pairs are those that the node would segment: by its own pairing, decoding and registration. Each
becomes `rgb/<stamp>.png`, `x/<stamp>.*` (in the sensor's units), `x_picture/<stamp>.png` (as a
model sees it). `dataset.yaml` describes them, without classes; `segrgbx-labels import` adds these
with the labels. `--labels` writes drafts for an annotator to correct.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import ConfigError, DataError, EncodingError, command, did_you_mean
from segrgbx_core.base.files import path_text, replacing, write_text
from segrgbx_core.base.images import write_image
from segrgbx_core.base.overrides import CommandParser, add_set_option, apply_overrides
from segrgbx_core.base.samples import NS_PER_MS, Array, Events, RgbxSample
from segrgbx_core.labels.overlay import colourise, contact_sheet, preview
from segrgbx_core.sensors import EncodingConfig, SensorConfig, encode
from segrgbx_ros.config.node import NodeConfig, Stream, flatten, read_node_yaml
from segrgbx_ros.pairing.pipeline import Pair, Pipeline
from segrgbx_ros.replay.bags import Bag, Recorded
from segrgbx_ros.replay.evaluation import complete_pairs
from segrgbx_ros.replay.topic_routes import Routes, find_routes, parse_remaps
from segrgbx_ros.tools.annotations import DraftWriter
from segrgbx_ros.tools.labels import NO_CLASSES
from segrgbx_ros.tools.prelabel import CheckpointDrafter, Drafter, open_drafter

_THUMBNAIL = (32, 24)
_SHEET_ROWS = 6
DRAFTS = "drafts"
_BLOCK_S = 10.0
"""Neighbouring frames of this time are in one split: they show nearly the same."""


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a user error."""
    options = _parser().parse_args(argv)
    try:
        return _extract(options)
    except KeyboardInterrupt:
        return 130


def _extract(options: argparse.Namespace) -> int:
    config = read_node_yaml(options.config, _overrides(options))
    pair = _pair(config, options.pair)
    folder = Path(options.out)
    if (folder / "dataset.yaml").exists():
        raise ConfigError(f"{folder}: holds a dataset.yaml already; choose another --out")
    with ExitStack() as stack:
        bag = stack.enter_context(Bag(options.bag))
        infos = [(pair, stream) for stream in _recorded_infos(bag, pair)]
        remaps = parse_remaps(options.remap)
        routes = find_routes(bag, config, [pair], options.namespace, remaps, infos)
        drafter = open_drafter(options.labels, config, pair) if options.labels else None
        encoding = EncodingConfig()
        if isinstance(drafter, CheckpointDrafter):
            encoding = drafter.checkpoint.contract.encoding
        bar = stack.enter_context(
            tqdm(
                total=sum(bag.topics[topic].count for topic in routes.inputs),
                unit="msg",
                file=sys.stderr,
                disable=options.quiet,
                leave=False,
            )
        )
        writer = PairWriter(folder, config, pair, encoding, drafter)
        chooser = Chooser(options.every, options.similar, options.limit)
        faults: Counter[str] = Counter()
        pipeline = Pipeline(config, encoding)
        for one in _pairs(bag, routes, pipeline, faults, bar.update):
            if chooser.is_due(one) and not _add(one, chooser, writer, faults):
                break
        for text in bag.warnings:
            print(f"warning: {text}", file=sys.stderr)
    if not writer.stems:
        raise DataError(
            f"{options.bag}: no pair of '{pair}' in the recording "
            f"({chooser.text()}{_fault_text(faults)}); look at sync.max_dt_ms and the topics"
        )
    writer.finish(Path(options.bag).resolve().name)
    print(f"{len(writer.stems)} pairs in {folder} ({chooser.text()}{_fault_text(faults)})")
    return 0


def _add(one: Pair, chooser: Chooser, writer: PairWriter, faults: Counter[str]) -> bool:
    """Writes one pair; False when there are enough."""
    try:
        sample = one.sample()
        picture = writer.picture(sample)
    except EncodingError as error:
        faults[str(error)] += 1
        return True
    if chooser.is_new(sample.rgb, picture, one.rgb_stamp_ns):
        writer.add_pair(one, sample, picture)
    return not chooser.has_enough


def _pairs(
    bag: Bag, routes: Routes, pipeline: Pipeline, faults: Counter[str], progress: Any
) -> Iterator[Pair]:
    def push(name: str, stream: Stream, message: Any, now_ns: int) -> list[Pair]:
        try:
            return pipeline.push_message(name, stream, message, now_ns)
        except EncodingError as error:
            faults[str(error)] += 1
            return []

    def refuse(_: str, __: Stream, error: Exception) -> None:
        faults[str(error)] += 1

    def on_message(_: Recorded) -> None:
        progress()

    flat = complete_pairs(bag, routes, push, pipeline.flush, refuse, on_message)
    return (one for _, one in flat)


def _fault_text(faults: Counter[str]) -> str:
    if not faults:
        return ""
    text, _ = faults.most_common(1)[0]
    return f", {faults.total()} messages cannot be used: {text}"


class Chooser:
    """Which pairs of a recording are kept.

    Args:
        every_ns: least time between two kept ones.
        similar: least mean difference of a pair from the last kept one, full scale is 1.
        limit: most pairs, 0 for all.
    """

    def __init__(self, every_ns: int, similar: float, limit: int) -> None:
        self._every_ns, self._similar, self._limit = every_ns, similar, limit
        self._due_ns: int | None = None
        self._last: NDArray[np.float32] | None = None
        self._kept = 0
        self.num_alike = 0
        self.num_without_x = 0

    @property
    def has_enough(self) -> bool:
        """Whether the limit is reached."""
        return 0 < self._limit <= self._kept

    def is_due(self, one: Pair) -> bool:
        """Whether enough time has passed; pairs without X are never taken."""
        if one.x is None:
            self.num_without_x += 1
            return False
        return self._due_ns is None or one.rgb_stamp_ns >= self._due_ns

    def is_new(self, rgb: Array, picture: Array, stamp_ns: int) -> bool:
        """Whether a due pair shows something else than the last kept one; then it is kept."""
        small = np.concatenate([_thumbnail(rgb), _thumbnail(picture)])
        if self._last is not None and self._similar > 0:
            gap = max(float(np.abs(part).mean()) for part in np.split(small - self._last, 2))
            if gap < self._similar:
                self.num_alike += 1
                return False
        self._last, self._due_ns = small, stamp_ns + self._every_ns
        self._kept += 1
        return True

    def text(self) -> str:
        """What was left out, in words."""
        return f"left out: {self.num_alike} alike, {self.num_without_x} without X"


def _thumbnail(picture: Array) -> NDArray[np.float32]:
    small = cv2.resize(picture, _THUMBNAIL, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


class PairWriter:
    """Writes pairs of one name as a data set.

    Args:
        folder: of the data set.
        config: of node and replay.
        pair: name of the pair.
        encoding: how X is drawn in the pictures.
        drafter: labels drafts; None for none.

    Attributes:
        stems: stamps of what was written, in ns, as text.
    """

    def __init__(
        self,
        folder: Path,
        config: NodeConfig,
        pair: str,
        encoding: EncodingConfig,
        drafter: Drafter | None,
    ) -> None:
        self._folder, self._config, self._pair = folder, config, pair
        self._encoding, self._drafter = encoding, drafter
        self._drafts = None
        if drafter is not None:
            self._drafts = DraftWriter(folder / DRAFTS, drafter.names, drafter.palette)
        self.stems: list[str] = []
        self._rows: list[tuple[str, int, int, float]] = []
        self._sheet: list[list[Array | None]] = []
        self._calibration: dict[str, Any] = {}
        self._suffix, self._form = "", config.pair(pair).x_form

    def picture(self, sample: RgbxSample) -> NDArray[np.uint8]:
        """X as a model sees it, uint8 (h, w, 3)."""
        return preview(encode(sample, self._encoding, self._config.sensor))

    def add_pair(self, one: Pair, sample: RgbxSample, picture: NDArray[np.uint8]) -> None:
        """Writes RGB, X, the picture of X, and a draft where drafts are wanted.

        Raises:
            DataError: when the disk is full or cannot be written to.
        """
        stem = str(sample.stamp_ns)
        for name in ("rgb", "x", "x_picture"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        write_image(self._folder / f"rgb/{stem}.png", sample.rgb)
        self._suffix = write_x(self._folder / "x", stem, sample)
        write_image(self._folder / f"x_picture/{stem}.png", picture)
        self._form = sample.x_form
        labels = None
        if self._drafter is not None and self._drafts is not None:
            labels = self._drafter.draft(sample)
            self._drafts.add_labels(stem, labels)
        for name, info in (("rgb", one.rgb_info), ("x", one.x_info)):
            if info is not None:
                self._calibration[name] = _camera(info)
        self.stems.append(stem)
        dt_ms = (one.dt_ns or 0) / NS_PER_MS
        self._rows.append((stem, sample.stamp_ns, one.x_stamp_ns or 0, round(dt_ms, 3)))
        self._keep_for_sheet(sample, picture, labels)

    def finish(self, title: str) -> None:
        """Writes `dataset.yaml`, stamps, calibration, a contact sheet, and the drafts' classes."""
        with replacing(self._folder / "stamps.csv") as part, part.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("stem", "rgb_stamp_ns", "x_stamp_ns", "dt_ms"))
            rows.writerows(self._rows)
        if self._calibration:
            text = yaml.safe_dump(self._calibration, sort_keys=False)
            write_text(self._folder / "calibration.yaml", text)
        write_text(self._folder / "dataset.yaml", self._description(title))
        rows_shown = [row for row in self._sheet if row]
        titles = ("RGB", "X", "draft")[: len(rows_shown[0])]
        heading = f"{title}: {len(self.stems)} pairs"
        write_image(self._folder / "sheet.png", contact_sheet(rows_shown, titles, heading=heading))
        if self._drafts is not None:
            self._drafts.finish()

    def _description(self, title: str) -> str:
        section = self._config.pair(self._pair)
        frames = 1
        if len(self._rows) > 1:
            span_s = (self._rows[-1][1] - self._rows[0][1]) / 1e9
            frames = max(1, round(_BLOCK_S * (len(self._rows) - 1) / max(span_s, 1e-9)))
        content: dict[str, Any] = {
            "modality": section.modality.value,
            "rgb": "rgb/*.png",
            "x": f"x/*{self._suffix}",
            "x_form": self._form.value,
            "labels": "labels/*.png",
            "splits": {"val": 0.15, "test": 0.15},
            "block": min(frames, max(1, len(self._rows) // 10)),
        }
        sensor = _differences(to_plain(self._config.sensor), to_plain(SensorConfig()))
        if sensor:
            content["sensor"] = sensor
        origin = f"# From the recording {title}, pair '{self._pair}', by segrgbx-extract."
        head = f"{origin}\n{NO_CLASSES}\n"
        return head + yaml.safe_dump(content, sort_keys=False)

    def _keep_for_sheet(
        self, sample: RgbxSample, picture: NDArray[np.uint8], labels: Array | None
    ) -> None:
        """Keeps a few rows, evenly spread whatever the number of pairs turns out to be."""
        row: list[Array | None] = [_small(sample.rgb), _small(picture)]
        if labels is not None and self._drafter is not None:
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(self._drafter.names)] = self._drafts_palette()
            row.append(_small(colourise(labels, palette)))
        self._sheet.append(row)
        if len(self._sheet) > 2 * _SHEET_ROWS:
            self._sheet = self._sheet[::2]

    def _drafts_palette(self) -> Any:
        assert self._drafts is not None
        return self._drafts.palette


def write_x(folder: Path, stem: str, sample: RgbxSample) -> str:
    """Writes X in the units of its sensor; gives back the suffix.

    Grey and colour of 8 and 16 bits become PNG, fractions TIFF, other arrays `.npy`; events become
    `.npz` with x, y, t_ns, p, width, height and stamp_ns, the end of their window.
    """
    x = sample.x
    if isinstance(x, Events):
        size: dict[str, Any] = {"width": x.width, "height": x.height}
        with replacing(folder / f"{stem}.npz") as part, part.open("wb") as file:
            np.savez_compressed(
                file, x=x.x, y=x.y, t_ns=x.t_ns, p=x.p, stamp_ns=sample.stamp_ns, **size
            )
        return ".npz"
    x = x[..., 0] if x.ndim == 3 and x.shape[2] == 1 else x
    is_picture = x.ndim == 2 or (x.ndim == 3 and x.shape[2] == 3)
    if is_picture and x.dtype in (np.uint8, np.uint16):
        write_image(folder / f"{stem}.png", x)
        return ".png"
    if x.ndim == 2 and np.issubdtype(x.dtype, np.floating):
        write_image(folder / f"{stem}.tiff", x.astype(np.float32))
        return ".tiff"
    with replacing(folder / f"{stem}.npy") as part, part.open("wb") as file:
        np.save(file, x)
    return ".npy"


def _small(picture: Array) -> Array:
    scale = min(1.0, 320 / picture.shape[1])
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def _camera(info: Any) -> dict[str, Any]:
    """A CameraInfo as plain values."""
    return {
        "frame_id": str(info.header.frame_id),
        "width": int(info.width),
        "height": int(info.height),
        "distortion_model": str(info.distortion_model),
        **{name: [float(value) for value in getattr(info, name)] for name in ("d", "k", "r", "p")},
    }


def _differences(plain: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """What differs from the usual values, nested."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            inner = _differences(value, usual.get(name, {}))
            flat |= {name: inner} if inner else {}
        elif value != usual.get(name):
            flat[name] = value
    return flat


def _recorded_infos(bag: Bag, pair: str) -> list[Stream]:
    """The calibrations of a pair that the recording holds."""
    return [
        stream
        for stream in (Stream.RGB_INFO, Stream.X_INFO)
        if any(topic.endswith(f"/{pair}/{stream.value}") for topic in bag.topics)
    ]


def _pair(config: NodeConfig, name: str) -> str:
    if name:
        if name not in config.pairs:
            raise ConfigError(
                f"--pair: '{name}' is not configured{did_you_mean(name, config.pairs)}"
            )
        return name
    if len(config.pairs) > 1:
        raise ConfigError(f"--pair: name one of {', '.join(config.pairs)}; a data set has one X")
    return config.pairs[0]


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    values = flatten(apply_overrides({}, options.set))
    if options.labels:
        values["model.checkpoint"] = options.labels
    if options.label_space:
        values["label.space"] = options.label_space
    return values


def _duration_ns(text: str) -> int:
    """A time such as `0.5s`, `200ms` or `1` (seconds), in ns."""
    number, unit = text.strip().lower(), 1.0
    if number.endswith("ms"):
        number, unit = number[:-2], 1e-3
    elif number.endswith("s"):
        number = number[:-1]
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write such as 0.5s or 200ms")
    return round(seconds * 1e9)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="segrgbx-extract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bag", type=path_text, help="rosbag2 folder, or one .mcap or .db3 file")
    add("--config", type=path_text, required=True, help="ROS parameter file, as for the node")
    add("--out", type=path_text, required=True, help="folder of the data set")
    add("--pair", default="", help="the pair to extract, where several are configured")
    add("--every", type=_duration_ns, default="0.5s", help="least time between pairs (0.5s)")
    add(
        "--similar",
        type=float,
        default=0.01,
        help="leave out a pair whose small pictures differ less from the last one's, full scale "
        "is 1; 0 keeps all (%(default)s)",
    )
    add("--limit", type=int, default=0, help="most pairs; 0 for all")
    add(
        "--labels",
        type=path_text,
        default="",
        help="segrgbx checkpoint, or folder of a transformers network, that drafts labels",
    )
    add("--label-space", default="", help="classes of the drafts: unified or a data set's own")
    add("--namespace", help="what stands before the node's topics (default: found)")
    add("--remap", action="append", default=[], metavar="FROM:=TO", help="recorded topic")
    add_set_option(parser, "overrides an option of the config")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
