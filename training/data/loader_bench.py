"""Times the stages of one data loading worker, on a data set or on generated files."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segrgbx_core.labels.label_space import unified_label_space
from segrgbx_core.sensors import EncodingConfig
from training.data.augment import AugmentConfig, augment
from training.data.datasets import spread
from training.data.datasets.export import (
    Frame,
    export_deliver,
    export_mfnet,
    export_nyu,
    export_urbanlf,
    export_zju,
)
from training.data.datasets.file_reader import FileReader
from training.data.preparation import Preparation, prepare


@dataclass(frozen=True)
class Timing:
    """CPU time of one sample in ms.

    Attributes:
        name: data set and size.
        read: files to arrays.
        prepare: read, X image, unified labels, tensors.
        item: prepare and a random training view.
    """

    name: str
    read: float
    prepare: float
    item: float

    def row(self) -> str:
        """A line of the table."""
        return (
            f"| {self.name} | {self.read:.1f} | {self.prepare:.1f} | {self.item:.1f} | "
            f"{1000 / self.item:.1f} |"
        )


HEADER = """\
| data set | read, ms | with encoding, ms | with augmentation, ms | samples/s |
|---|--:|--:|--:|--:|"""


def measure(reader: FileReader, samples: int, crop: int = 512) -> Timing:
    """Times one worker's stages on evenly spread samples.

    Args:
        reader: a split.
        samples: how many to average over.
        crop: height and width of training views.
    """
    stages = _stages(reader, crop)
    indices = spread(len(reader), samples)
    spent = []
    for stage in stages:
        stage(indices[0])  # the first call of a library costs more
        started = time.process_time()
        for index in indices:
            stage(index)
        spent.append(1000 * (time.process_time() - started) / len(indices))
    height, width = reader[indices[0]].sample.rgb.shape[:2]
    return Timing(f"{reader.native}, {width}x{height}", *spent)


def _stages(reader: FileReader, crop: int) -> tuple[Callable[[int], Any], ...]:
    """Reading; that and preparing; that and a random training view; each by a sample's index."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    view = AugmentConfig(crop_height=crop, crop_width=crop)
    preparation = Preparation(unified_label_space(), EncodingConfig(), reader.sensor, view)
    rng = np.random.default_rng(0)
    return (
        lambda index: reader[index],
        lambda index: prepare(reader, index, preparation),
        lambda index: augment(
            prepare(reader, index, preparation), view, preparation.encoding, rng
        ),
    )


def profile(reader: FileReader, samples: int, crop: int, count: int) -> list[tuple[str, float]]:
    """The functions that one worker spends most time in.

    Args:
        reader: a split.
        samples: how many to average over.
        crop: height and width of training views.
        count: how many functions.

    Returns:
        name and own time per sample in ms, longest first. The profiler itself makes functions
        that are called often look slower than they are.
    """
    stage = _stages(reader, crop)[-1]
    indices = spread(len(reader), samples)
    stage(indices[0])
    profiler = cProfile.Profile(time.process_time)
    for index in indices:
        profiler.runcall(stage, index)
    own: dict[str, float] = {}
    profile: dict[tuple[str, int, str], tuple[Any, ...]] = vars(pstats.Stats(profiler))["stats"]
    for (path, _, name), entry in profile.items():
        place = name if path.startswith("~") else f"{Path(path).stem}.{name}"
        own[place] = own.get(place, 0.0) + 1000 * entry[2] / len(indices)
    return sorted(own.items(), key=lambda item: -item[1])[:count]


def make_all(root: Path, count: int) -> dict[str, dict[str, Any]]:
    """Writes `count` samples per data set at its published size; returns the readers' options."""
    rng = np.random.default_rng(0)

    def frames(names: Sequence[str], size: tuple[int, int], classes: int, *kinds: str) -> Any:
        for name in names:
            x = {kind: _picture(rng, kind, size) for kind in kinds}
            yield Frame(name, _natural(rng, (*size, 3)), _regions(rng, size, classes), x)

    numbers = range(count)
    names = [f"sun/MAP_1_point{n}/{n:06d}" for n in numbers]
    export_deliver(frames(names, (1042, 1042), 25, "event"), root / "deliver", "train")
    names = [f"{n:05d}D" for n in numbers]
    export_mfnet(frames(names, (480, 640), 9, "thermal"), root / "mfnet", "train")
    names = [f"{n}" for n in numbers]
    export_nyu(frames(names, (480, 640), 40, "hha"), root / "nyu", "train")
    names = [f"{n}_image0" for n in numbers]
    export_zju(frames(names, (1024, 1224), 8, "angles"), root / "zju_rgbp", "train")
    names = [f"Image{n:03d}" for n in numbers]
    export_urbanlf(frames(names, (432, 623), 14, "1_1"), root / "urbanlf", "train")
    few = {"coding": "from_one"}  # what classes occur in a few samples proves nothing
    return {"deliver": {}, "mfnet": {}, "nyu": few, "zju_rgbp": {}, "urbanlf": {}}


def _natural(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Noise whose amplitude falls off with frequency as in photographs, and sensor noise."""
    height, width, *rest = shape
    size = (width, height)
    total = np.zeros(shape, np.float32)
    octave = 4
    while octave < max(height, width):
        coarse = rng.standard_normal((octave, octave, *rest)).astype(np.float32)
        total += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC) / octave * 4
        octave *= 2
    total += rng.standard_normal(shape).astype(np.float32) * 0.02
    return np.clip(128 + 50 * total, 0, 255).astype(np.uint8)


def _regions(rng: np.random.Generator, size: tuple[int, int], classes: int) -> NDArray[np.uint8]:
    coarse = rng.integers(0, classes, (size[0] // 24 + 1, size[1] // 24 + 1), dtype=np.uint8)
    labels = cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(labels, np.uint8)


def _picture(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    if kind == "thermal":
        return _natural(rng, size)
    if kind == "event":
        picture = np.full((*size, 3), 255, np.uint8)
        is_event = rng.random(size) < 0.1
        picture[is_event] = np.where(
            rng.random((is_event.sum(), 1)) < 0.5, (255, 0, 0), (0, 0, 255)
        )
        return picture
    if kind == "angles":
        scene = _natural(rng, (*size, 3)).astype(np.int16)
        noise = rng.integers(-6, 7, (*size, 4, 3))
        return np.clip(scene[:, :, None] + noise, 0, 255).astype(np.uint8)
    return _natural(rng, (*size, 3))
