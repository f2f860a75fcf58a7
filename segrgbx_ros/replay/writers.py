"""Where a replay puts its frames: pictures, a contact sheet, a recording of the predictions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import POINT_CLOUD
from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Prediction, RgbxSample
from segrgbx_core.labels import overlay
from segrgbx_core.labels.label_space import PublishedLabels
from segrgbx_ros.config.node import ConfidenceEncoding, MaskEncoding, NodeConfig, Stream
from segrgbx_ros.messages.clouds import cloud_fields, sample_points
from segrgbx_ros.messages.geometry import fitted
from segrgbx_ros.messages.labels import label_map_text
from segrgbx_ros.pairing.published_labels import published_ids
from segrgbx_ros.replay.bags import Recorded, Topic
from segrgbx_ros.replay.topic_routes import Routes

SHEET_ROWS = 6
"""Rows of the contact sheet, shared by the pairs."""
_RGB_STREAMS = (Stream.RGB, Stream.RGB_INFO)


@dataclass(frozen=True, eq=False)
class SegmentedFrame:
    """One segmented frame.

    Attributes:
        pair: name of the RGB-X pair.
        number: position among the pair's frames, from 0.
        sample: what was asked.
        prediction: what was answered.
        truth: ids of the published label space, None without truth.
        receive_ns: receive time of the message that completed the pair.
        rgb_info: calibration of RGB, None where none was read.
    """

    pair: str
    number: int
    sample: RgbxSample
    prediction: Prediction
    truth: NDArray[np.uint8] | None
    receive_ns: int
    rgb_info: Any = None


@dataclass(frozen=True, eq=False)
class SheetRow:
    """One row of a contact sheet.

    Attributes:
        rgb: uint8 (H, W, 3).
        x_image: X as the model saw it.
        labels: predicted ids.
        truth: true ids, None where there are none.
    """

    rgb: Array
    x_image: Array
    labels: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None = None


class FrameWriter(Protocol):
    """Takes every frame of a replay in order."""

    def on_frame(self, frame: SegmentedFrame) -> None:
        """Takes its part of a frame."""
        ...


class PictureWriter:
    """Overlays of some frames, and a contact sheet of a few of them.

    Args:
        folder: where to write; must exist.
        labels: the published classes by pair.
        counts: expected number of frames by pair, from which frames are chosen at equal distances.
        overlays: how many overlays per pair, None for all.
        alpha: weight of the label colours.

    Attributes:
        overlays: paths of those that were written.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, PublishedLabels],
        counts: dict[str, int],
        overlays: int | None,
        alpha: float = 0.5,
    ) -> None:
        self._folder = folder
        self._labels = labels
        self._palettes = {pair: one.palette_array() for pair, one in labels.items()}
        self._alpha = alpha
        self._overlays = {
            pair: evenly_spaced(count, count if overlays is None else overlays)
            for pair, count in counts.items()
        }
        self._rows_of = {
            pair: evenly_spaced(count, max(1, SHEET_ROWS // len(counts)))
            for pair, count in counts.items()
        }
        self._rows: list[tuple[str, str, SheetRow]] = []
        self.overlays: list[Path] = []

    def on_frame(self, frame: SegmentedFrame) -> None:
        """Writes the overlay of a chosen frame; keeps a small row of others for the sheet."""
        if frame.number in self._overlays[frame.pair]:
            name = f"overlay_{frame.pair}_{frame.prediction.stamp_ns}.png"
            self.overlays.append(self._folder / name)
            write_image(self.overlays[-1], self._overlay(frame))
        answer = frame.prediction
        if frame.number in self._rows_of[frame.pair]:
            row = SheetRow(frame.sample.rgb, answer.x_image, answer.labels, frame.truth)
            self._rows.append((frame.pair, _caption(frame), row))

    def save_sheets(self, heading: str = "", note: str = "") -> list[Path]:
        """Writes `contact_sheet.png`, or one for each pair where their classes differ.

        Args:
            heading: above the pictures.
            note: small text below it, such as where they come from.

        Returns:
            their paths, none without frames.
        """
        pairs = list(dict.fromkeys(pair for pair, *_ in self._rows))
        looks = {
            (one.names, one.palette, one.fixed_ids) for one in map(self._labels.__getitem__, pairs)
        }
        groups = [pairs] if len(looks) == 1 else [[pair] for pair in pairs]
        paths = []
        for group in groups:
            shown = [(caption, row) for pair, caption, row in self._rows if pair in group]
            name = "contact_sheet" if len(groups) == 1 else f"contact_sheet_{group[0]}"
            paths.append(self._folder / f"{name}.png")
            captions, rows = zip(*shown, strict=True)
            labels = self._labels[group[0]]
            write_image(paths[-1], sheet(rows, captions, labels, heading, note))
        return paths

    def _overlay(self, frame: SegmentedFrame) -> Array:
        answer, palette = frame.prediction, self._palettes[frame.pair]
        rgb = fitted(frame.sample.rgb, answer.labels.shape)
        blended = overlay.blend(rgb, answer.labels, palette, self._alpha)
        classes = (_names(self._labels[frame.pair]), palette, overlay.present_ids(answer.labels))
        return overlay.annotated(blended, _caption(frame), classes)


class BagContent(str, Enum):
    """What a recording of predictions may hold besides masks and confidences."""

    RGB = "rgb"
    X = "x"
    OVERLAY = "overlay"
    POINTS = "points"


class PredictionWriter:
    """Records what the node would have published: masks and confidences with the RGB header.

    Args:
        writer: open recording.
        labels: the published classes by pair.
        routes: where the inputs were recorded; the namespace is put before the node's topics.
        config: options of the node.
        contents: what is recorded besides.
    """

    def __init__(
        self,
        writer: BagWriter,
        labels: Mapping[str, PublishedLabels],
        routes: Routes,
        config: NodeConfig,
        contents: Collection[BagContent] = (),
    ) -> None:
        self._writer = writer
        self._labels = labels
        self._palettes = {pair: one.palette_array() for pair, one in labels.items()}
        self._namespace = routes.namespace
        self._config = config
        self._contents = frozenset(contents)
        self._copied = {
            topic
            for topic, uses in routes.inputs.items()
            for _, stream in uses
            if (BagContent.RGB if stream in _RGB_STREAMS else BagContent.X) in self._contents
        }
        self._described: set[str] = set()

    def on_message(self, message: Recorded, topic: Topic) -> None:
        """Copies an input where the recording is to hold it.

        Args:
            message: as recorded.
            topic: of the message, with the profiles that its publishers offered.
        """
        if topic.name in self._copied:
            self._writer.write_raw(
                topic.name, message.type, message.raw, message.receive_ns, topic.profiles
            )

    def on_frame(self, frame: SegmentedFrame) -> None:
        """Writes the messages of one frame."""
        answer, labels = frame.prediction, self._labels[frame.pair]
        if frame.pair not in self._described:
            self._described.add(frame.pair)
            self._describe(frame)
        output = self._config.output
        is_wide = output.mask_encoding is MaskEncoding.MONO16
        ids = published_ids(answer.labels, labels.unlabeled_id, is_wide)
        self._write_image(frame, "mask", ids, output.mask_encoding.value)
        confidence: Array = answer.confidence
        if output.confidence_encoding is ConfidenceEncoding.FLOAT:
            confidence = confidence.astype(np.float32) / np.float32(255)
        self._write_image(frame, "confidence", confidence, output.confidence_encoding.value)
        if BagContent.OVERLAY in self._contents:
            rgb = fitted(frame.sample.rgb, ids.shape)
            palette = self._palettes[frame.pair]
            picture = overlay.blend(rgb, answer.labels, palette, output.overlay_alpha)
            self._write_image(frame, "overlay", picture, "rgb8")
        is_pair = frame.pair in self._config.pairs
        is_depth = is_pair and self._config.pair(frame.pair).modality is Modality.DEPTH
        if BagContent.POINTS in self._contents and is_depth and frame.rgb_info is not None:
            self._write_points(frame, ids)

    def _describe(self, frame: SegmentedFrame) -> None:
        writer, labels = self._writer, self._labels[frame.pair]
        base = f"{self._namespace}/{frame.pair}"
        text = writer.string(label_map_text(labels))
        writer.write(f"{base}/label_map", text, frame.receive_ns, latched=True)
        info = writer.label_info(_names(labels), self._config.label.min_confidence)
        writer.write(f"{base}/label_info", info, frame.receive_ns, latched=True)

    def _write_image(self, frame: SegmentedFrame, name: str, pixels: Array, encoding: str) -> None:
        answer = frame.prediction
        message = self._writer.image(pixels, encoding, answer.stamp_ns, answer.frame_id)
        self._writer.write(f"{self._namespace}/{frame.pair}/{name}", message, frame.receive_ns)

    def _write_points(self, frame: SegmentedFrame, ids: Array) -> None:
        answer, unit = frame.prediction, self._config.sensor.depth.unit_16u
        try:
            points = sample_points(frame.sample, ids, answer.confidence, frame.rgb_info, unit)
        except EncodingError as error:
            topic = self._config.topic(frame.pair, Stream.RGB_INFO)
            raise DataError(f"topic '{topic}': {error}; no points can be recorded") from None
        if points is None:
            return
        fields = cloud_fields(self._writer.types.types["sensor_msgs/msg/PointField"], points)
        message = self._writer.message(POINT_CLOUD, answer.stamp_ns, answer.frame_id, **fields)
        self._writer.write(f"{self._namespace}/{frame.pair}/points", message, frame.receive_ns)


def _names(labels: PublishedLabels) -> dict[int, str]:
    return dict(zip(labels.ids, labels.names, strict=True))


def _caption(frame: SegmentedFrame) -> str:
    return f"{frame.pair}, stamp {frame.prediction.stamp_ns / 1e9:.3f} s"


def sheet(
    rows: Sequence[SheetRow],
    captions: Sequence[str],
    labels: PublishedLabels,
    heading: str = "",
    note: str = "",
) -> Array:
    """A picture of RGB, X, truth where there is any, and prediction, with a legend.

    Args:
        rows: at least one.
        captions: one per row.
        labels: the published classes.
        heading: above everything.
        note: small text below the heading.
    """
    palette = labels.palette_array()
    has_truth = any(row.truth is not None for row in rows)
    titles = ["RGB", "X as the model sees it", *(["truth"] if has_truth else []), "prediction"]
    cells: list[list[Array | None]] = []
    for row in rows:
        cell: list[Array | None] = [row.rgb, row.x_image]
        if has_truth:
            cell.append(None if row.truth is None else overlay.colourise(row.truth, palette))
        cells.append([*cell, overlay.colourise(row.labels, palette)])
    maps = [item for row in rows for item in (row.labels, row.truth) if item is not None]
    classes = (_names(labels), palette, overlay.present_ids(*maps))
    return overlay.contact_sheet(
        cells, titles, captions, heading=heading, note=note, legend_classes=classes
    )


def evenly_spaced(count: int, wanted: int) -> set[int]:
    """At most `wanted` of the numbers below `count`, at equal distances, both ends included."""
    if count <= 0 or wanted <= 0:
        return set()
    return {int(number) for number in np.linspace(0, count - 1, min(wanted, count)).round()}
