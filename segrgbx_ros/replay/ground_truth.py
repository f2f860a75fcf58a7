"""Ground truth of a recording: label images found by the stamp of the RGB image."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.bags.message_types import COMPRESSED_IMAGE, IMAGE
from segrgbx_core.base.errors import DataError, EncodingError
from segrgbx_core.base.images import read_labels
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import UNIFIED, VOID, LabelSpace
from segrgbx_ros.messages import images as messages
from segrgbx_ros.replay.bags import Bag
from segrgbx_ros.replay.topic_routes import Routes

Labels = NDArray[np.uint8]

ENCODINGS = ("mono8", "8UC1", "mono16", "16UC1", "32SC1")
_UNLABELED = (-1, 65535)
"""What drivers of wider encodings write for pixels without a label, besides 255."""


class GroundTruth(Protocol):
    """Label images by stamp, and the label space that their ids belong to."""

    @property
    def space(self) -> str:
        """`unified` or a data set's name."""
        ...

    def labels(self, stamp_ns: int) -> Labels | None:
        """Ids of the image with this stamp, 255 where unlabeled; None when there is none."""
        ...


class TopicGroundTruth:
    """Label images of a recorded topic, matched by equal header stamps.

    Args:
        bag: open recording.
        topic: recorded name; Image (mono8, 16UC1, 32SC1) or CompressedImage (PNG) of ids.
        space: label space of the ids.

    Raises:
        DataError: when the topic is missing or an image holds no ids.
    """

    def __init__(self, bag: Bag, topic: str, space: str = UNIFIED) -> None:
        self.space = space
        bag.require(topic, [IMAGE, COMPRESSED_IMAGE])
        # Label images shrink to a few kB, so that a long recording fits into memory.
        self._packed: dict[int, tuple[tuple[int, ...], bytes]] = {}
        for recorded in bag.messages({topic}):
            message = bag.decode(recorded)
            try:
                stamp = messages.stamp_ns(message)
                pixels = messages.any_array(message, allowed=ENCODINGS)
                ids = to_ids(pixels)
            except (EncodingError, DataError) as error:
                raise DataError(f"{bag.path}: topic '{topic}': {error}") from None
            self._packed[stamp] = (ids.shape, zlib.compress(ids.tobytes(), 1))

    @property
    def stamps(self) -> set[int]:
        """Stamps that have labels, in ns."""
        return set(self._packed)

    def labels(self, stamp_ns: int) -> Labels | None:
        """Ids of the image with this stamp."""
        packed = self._packed.get(stamp_ns)
        if packed is None:
            return None
        shape, data = packed
        return np.frombuffer(zlib.decompress(data), np.uint8).reshape(shape)


class FolderGroundTruth:
    """Label files: `<stamp in ns>.png`, or one file per RGB image in the order of names.

    Args:
        folder: PNG files of ids.
        stamps: stamps of the recording's RGB images in receive order.
        space: label space of the ids.

    Raises:
        DataError: when the folder is empty, or names are no stamps and there is not one file per
            image.
    """

    def __init__(self, folder: Path | str, stamps: Sequence[int], space: str = UNIFIED) -> None:
        self.space = space
        self._folder = Path(folder)
        files = sorted(self._folder.glob("*.png"))
        if not files:
            raise DataError(f"{folder}: no *.png; expected one label file per RGB image")
        by_name = {int(file.stem): file for file in files if file.stem.isdigit()}
        if len(by_name) == len(files) and by_name.keys() & set(stamps):
            self._files = by_name
        elif len(files) == len(stamps):
            self._files = dict(zip(stamps, files, strict=True))
        else:
            raise DataError(
                f"{folder}: names are no stamps of the recording's RGB images, and {len(files)} "
                f"files do not stand for {len(stamps)} images; name them <stamp in ns>.png"
            )

    @property
    def stamps(self) -> set[int]:
        """Stamps that have labels, in ns."""
        return set(self._files)

    def labels(self, stamp_ns: int) -> Labels | None:
        """Ids of the image with this stamp."""
        file = self._files.get(stamp_ns)
        if file is None:
            return None
        try:
            return to_ids(read_labels(file))
        except DataError as error:
            text = str(error)
            raise DataError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def recorded_ground_truth(
    bag: Bag, routes: Routes, pair: str, space: str = UNIFIED
) -> TopicGroundTruth | None:
    """The labels that are recorded beside a pair's images; None where there are none."""
    base = f"{routes.namespace}/{pair}/label"
    name = next((name for name in (base, f"{base}/compressed") if name in bag.topics), None)
    return TopicGroundTruth(bag, name, space) if name else None


def to_ids(pixels: Array) -> Labels:
    """Label pixels of any integer type as uint8 ids; -1, 255 and 65535 become void.

    Raises:
        DataError: for pictures that are no ids.
    """
    if pixels.ndim != 2 or pixels.dtype.kind not in "iu":
        shape = "x".join(map(str, pixels.shape))
        raise DataError(
            f"{shape} of {pixels.dtype} are no label ids; expected one integer channel"
        )
    if pixels.dtype == np.uint8:
        return pixels
    wide = pixels.astype(np.int64)
    wide[np.isin(wide, _UNLABELED)] = VOID
    if wide.size and (wide.min() < 0 or wide.max() > VOID):
        bad = int(wide.min() if wide.min() < 0 else wide.max())
        raise DataError(f"label id {bad} is outside [0, 255]")
    return wide.astype(np.uint8)


def translator(space: LabelSpace, source: str, target: str) -> Callable[[Labels], Labels]:
    """A function that turns ids of one label space into ids of another.

    Args:
        space: the checkpoint's label space.
        source: space of the truth, `unified` or a data set's.
        target: space of the predictions.

    Raises:
        ConfigError: when a name is not known.
    """
    for name in (source, target):
        if name != UNIFIED:
            space.native(name)

    def translate(labels: Labels) -> Labels:
        if source == target:
            return labels
        unified = labels if source == UNIFIED else space.unify(labels, source)
        return unified if target == UNIFIED else space.to_native(unified, target)

    return translate
