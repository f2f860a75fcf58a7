"""Writes rendered records in the layout of a public data set, to run its whole path without it.

    python -m training.data.datasets.export_rendered mfnet runs/data/street OUT --splits train val

Everything written is synthetic. Classes that the data set lacks become void, or MFNet's unlabeled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.base.camera import Pinhole, depth_counts
from segrgbx_core.base.errors import DataError, command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array
from segrgbx_core.labels.label_space import VOID, synthetic_label_space
from segrgbx_core.labels.overlay import preview
from segrgbx_core.sensors import encode
from segrgbx_core.sensors.hha import hha_image
from training.data.datasets.export import (
    Frame,
    export_deliver,
    export_mfnet,
    export_nyu,
    export_urbanlf,
    export_zju,
)
from training.data.datasets.synthetic import mark_rendered
from training.world.config import WorldConfig
from training.world.records import Record, load_record, record_sample

EXPORTS: dict[str, Callable[..., list[str]]] = {
    "deliver": export_deliver,
    "mfnet": export_mfnet,
    "nyu": export_nyu,
    "urbanlf": export_urbanlf,
    "zju_rgbp": export_zju,
}
"""Data set to the function that writes it."""

_WEATHER = {"night": "night", "overcast": "cloud"}
_CASE = {
    "motion_blur": "motionblur",
    "over_exposure": "overexposure",
    "under_exposure": "underexposure",
    "event_low_resolution": "eventlowres",
}


def frame_of(record: Record, data_set: str, number: int) -> Frame:
    """A record as a sample of a public data set.

    Args:
        record: with the sensor that the data set has.
        data_set: key of `EXPORTS`.
        number: position among the exported samples, for names.

    Raises:
        DataError: when the record lacks the sensor.
    """
    return Frame(
        name=_name(record, data_set, number),
        rgb=record.rgb,
        labels=_labels(record, data_set),
        x=_PICTURES[data_set](record),
    )


def _labels(record: Record, data_set: str) -> NDArray[np.uint8]:
    space = synthetic_label_space()
    labels = space.to_native(space.unify(record.labels, record.label_space), data_set)
    if data_set == "mfnet":
        labels[labels == VOID] = 0  # there, everything without a class of its own is unlabeled
    return labels


def _name(record: Record, data_set: str, number: int) -> str:
    time = str(record.meta.get("time_of_day", "day"))
    if data_set == "mfnet":
        return f"{number:05d}{'N' if time == 'night' else 'D'}"
    if data_set == "deliver":
        case = _CASE.get(str(record.meta.get("corruption")))
        scene = f"MAP_{record.seed}_point1{f'_{case}' if case else ''}"
        return f"{_WEATHER.get(time, 'sun')}/{scene}/{number:06d}"
    if data_set == "urbanlf":
        return f"Image{number:04d}"
    return f"{number:06d}_image0" if data_set == "zju_rgbp" else f"{number:06d}"


def _event_and_depth(record: Record) -> dict[str, Array]:
    pictures: dict[str, Array] = {}
    if record.events is not None:
        pictures["event"] = preview(encode(record_sample(record, Modality.EVENT)))
    if record.depth is not None:
        pictures["hha"] = _hha(record.depth)
    if not pictures:
        raise DataError("record: has neither events nor depth; render it with --sensors all")
    return pictures


def _thermal(record: Record) -> dict[str, Array]:
    image = preview(encode(record_sample(record, Modality.THERMAL)))[..., 0]
    return {"thermal": _fitted(image, record.rgb)}


def _depth(record: Record) -> dict[str, Array]:
    depth_m = record_sample(record, Modality.DEPTH).x
    assert isinstance(depth_m, np.ndarray)
    return {"depth": depth_counts(depth_m), "hha": _hha(depth_m)}


def _angles(record: Record) -> dict[str, Array]:
    stack = record_sample(record, Modality.POLARIZATION).x
    assert isinstance(stack, np.ndarray)
    if stack.shape[:2] != record.rgb.shape[:2]:
        stack = _fitted(stack, record.rgb)
    # The rendered polarization camera is grey: RGB lends it colour and is the mean of the four.
    share = stack / np.maximum(stack.mean(axis=2, keepdims=True), 1)
    angles = share[..., None] * record.rgb[:, :, None].astype(np.float32)
    return {"angles": np.clip(np.rint(angles), 0, 255).astype(np.uint8)}


def _views(record: Record) -> dict[str, Array]:
    if record.light_field is None:
        raise DataError("record: has no light field; render it with --sensors all")
    views = record.light_field
    if len(views) != 81:
        return {"1_1": views[0]}
    return {f"{i // 9 + 1}_{i % 9 + 1}": view for i, view in enumerate(views) if i != 40}


_PICTURES: dict[str, Callable[[Record], dict[str, Array]]] = {
    "deliver": _event_and_depth,
    "mfnet": _thermal,
    "nyu": _depth,
    "urbanlf": _views,
    "zju_rgbp": _angles,
}


def _hha(depth_m: NDArray[np.float32]) -> Array:
    height, width = depth_m.shape
    angle = np.radians(WorldConfig.model_fields["field_of_view_deg"].default)
    focal = width / 2 / float(np.tan(angle / 2))
    camera = Pinhole(fx=focal, fy=focal, cx=width / 2, cy=height / 2)
    return hha_image(depth_m.astype(np.float64), camera, 1.0)


def _fitted(image: Array, like: Array) -> Array:
    size = (like.shape[1], like.shape[0])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data_set", choices=sorted(EXPORTS))
    parser.add_argument(
        "records", type=user_path, help="folder with a folder of .npz records per split"
    )
    parser.add_argument("out", type=user_path, help="folder to write into")
    parser.add_argument("--splits", nargs="+", default=["train", "val"])
    parser.add_argument("--limit", type=int, default=0, help="samples per split; 0 for all")
    options: Any = parser.parse_args(arguments)
    first = 0
    for split in options.splits:
        paths = sorted((options.records / split).glob("*.npz"))[: options.limit or None]
        if not paths:
            raise DataError(f"{options.records / split}: holds no .npz records")
        names = EXPORTS[options.data_set](
            _frames(paths, options.data_set, first), options.out, split
        )
        first += len(names)
        mark_rendered(options.out)
        print(f"{split}: {len(names)} samples in {options.out}")
    return 0


def _frames(paths: Sequence[Path], data_set: str, first: int) -> Iterator[Frame]:
    for number, path in enumerate(tqdm(paths, unit="record", leave=False), start=first):
        yield frame_of(load_record(path), data_set, number)


if __name__ == "__main__":
    raise SystemExit(main())
