"""Records of rendered scenes: every sensor's data of one moment, kept as npz files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile

import numpy as np
from numpy.lib.format import write_array
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.files import replacing
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import Events, RgbxSample, XForm
from segrgbx_core.sensors import AddedModality, PolarizationSensor, SensorConfig
from segrgbx_core.sensors.polarization import PolarizationLayout

LIDAR, NIR = Modality("lidar"), Modality("nir")
ADDED = {
    LIDAR: AddedModality(
        high=60.0,
        unit="m",
        count=0.01,
        zero_is_missing=True,
        interpolates=False,
        reveals=("person", "car", "pole"),  # what stands out from the ground, in any light
    ),
    NIR: AddedModality(
        high=255.0,
        slot=6,
        reveals=("person", "vegetation"),  # bright by the camera's own lamp
    ),
}
"""Sensors beyond the paper's five that the renderer has, as checkpoints describe them."""
RENDERED = (*MODALITIES, *ADDED)
X_ARRAYS = {
    Modality.EVENT: (),
    Modality.THERMAL: ("thermal",),
    Modality.DEPTH: ("depth", "depth_truth"),
    Modality.POLARIZATION: ("polarization",),
    Modality.LIGHT_FIELD: ("light_field",),
    LIDAR: ("lidar",),
    NIR: ("nir",),
}
ARRAYS = ("rgb", "labels", *(name for names in X_ARRAYS.values() for name in names))
EVENT_ARRAYS = ("x", "y", "t_ns", "p")
RECORD_SENSOR = SensorConfig(
    polarization=PolarizationSensor(layout=PolarizationLayout.CHANNELS4, full_scale=4095)
)
"""Units of a record's X: hundredths of a kelvin, stacked polarizer images of 12 bits."""


@dataclass(frozen=True, eq=False)
class Record:
    """One moment of a scene as all sensors delivered it.

    Attributes:
        seed: the scene.
        stamp_ns: time of the RGB exposure from the start of the scene, ns.
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), native ids of `label_space`, on the RGB grid.
        label_space: name of the native label space.
        meta: time of day, exposure and the like, plain values.
        x_stamp_ns: time of the X exposure.
        thermal: uint16 (h, w), hundredths of a kelvin, or uint8 behind the camera's own gain
            control; None when not asked for.
        depth: float32 (h, w), metres along the optical axis as a stereo camera measures it; 0
            invalid.
        depth_truth: float32 (h, w), the exact depth; inf for the sky.
        events: events of the window that ends at `x_stamp_ns`.
        polarization: uint16 (h, w, 4), 12-bit images behind analysers at 0, 45, 90, 135 degrees.
        light_field: uint8 (V, h, w, 3), views row by row (one corner view when V is 1).
        lidar: uint16 (rings, w), ranges in hundredths of a metre; 0 where nothing came back.
        nir: uint8 (h, w), near infrared.
    """

    seed: int
    stamp_ns: int
    rgb: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    label_space: str = "synthetic_street"
    meta: Mapping[str, Any] = field(default_factory=dict)
    x_stamp_ns: int = 0
    thermal: NDArray[np.uint16] | NDArray[np.uint8] | None = None
    depth: NDArray[np.float32] | None = None
    depth_truth: NDArray[np.float32] | None = None
    events: Events | None = None
    polarization: NDArray[np.uint16] | None = None
    light_field: NDArray[np.uint8] | None = None
    lidar: NDArray[np.uint16] | None = None
    nir: NDArray[np.uint8] | None = None


def save_record(path: Path, record: Record) -> None:
    """Writes a record as a compressed npz file, atomically."""
    arrays: dict[str, Any] = {
        name: getattr(record, name) for name in ARRAYS if getattr(record, name) is not None
    }
    if record.events is not None:
        for name in EVENT_ARRAYS:
            arrays[f"events_{name}"] = getattr(record.events, name)
        arrays["events_size"] = np.array([record.events.width, record.events.height])
    metadata = {
        "seed": record.seed,
        "stamp_ns": record.stamp_ns,
        "x_stamp_ns": record.x_stamp_ns,
        "label_space": record.label_space,
        "meta": dict(record.meta),
    }
    arrays["facts"] = np.array(json.dumps(metadata))
    with replacing(path) as part, ZipFile(part, "w", ZIP_DEFLATED, compresslevel=1) as archive:
        # The default level takes three times as long and saves 2 % of the size.
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                write_array(member, np.asanyarray(array), allow_pickle=False)


def load_record(path: Path | str, sensors: Collection[Modality] = MODALITIES) -> Record:
    """Reads what `save_record` wrote.

    Args:
        path: the file.
        sensors: X modalities to read, as far as the file has them; the others stay None.

    Raises:
        DataError: when the file is missing or is no record.
    """
    wanted = ["rgb", "labels", *(name for one in sensors for name in X_ARRAYS.get(one, ()))]
    try:
        with np.load(path, allow_pickle=False) as archive:
            metadata = json.loads(str(archive["facts"]))
            arrays: dict[str, Any] = {name: archive[name] for name in wanted if name in archive}
            if Modality.EVENT in sensors and "events_size" in archive:
                width, height = (int(value) for value in archive["events_size"])
                columns = {name: archive[f"events_{name}"] for name in EVENT_ARRAYS}
                arrays["events"] = Events(**columns, width=width, height=height)
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: is no rendered record ({error})") from None
    return Record(**metadata, **arrays)


def record_sample(record: Record, modality: Modality, place: str = "record") -> RgbxSample:
    """One modality of a record as a sensor sample.

    Raises:
        DataError: when the record was rendered without that modality.
    """
    name = "events" if modality is Modality.EVENT else modality.value
    x: Any = getattr(record, name) if modality in X_ARRAYS else None
    if x is None:
        raise DataError(
            f"{place}: was rendered without {modality}; render it with --sensors {modality}, one "
            f"of {', '.join(RENDERED)}"
        )
    if modality is Modality.LIGHT_FIELD and x.shape[0] == 1:
        x = x[0]
    return RgbxSample(
        rgb=np.ascontiguousarray(record.rgb),
        x=x,
        modality=modality,
        stamp_ns=record.x_stamp_ns,
        x_form=XForm.RAW,
    )
