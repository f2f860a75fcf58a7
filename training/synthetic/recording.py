"""Writes a rendered scene as a rosbag2 recording (mcap): what a vehicle's cameras would publish.

    python -m training.synthetic.recording --out resource/demo/thermal --seed 20024 --seconds 8

Topics, with each pair named like its modality: `/<pair>/rgb/image/compressed` (JPEG),
`/<pair>/x/image/compressed` and the truth `/<pair>/label/compressed` (PNG, mono8, unified ids, 255
void) with RGB's stamps. X is what a driver of that sensor publishes: thermal counts of 0.01 K,
depth in millimetres, the polarization sensor's mosaic with its 12 bits at the upper end of 16, one
corner view of the light field (JPEG), and a drawn picture of the events. X cameras run on their
own
clock: a little later than RGB, with jitter, and they really exposed then. Recordings are
    synthetic;
the bag's custom data says so.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from tqdm import tqdm

from segrgbx_core.encoders import event as event_encoder
from segrgbx_core.errors import DataError, SegrgbxError
from segrgbx_core.labels import synthetic_label_space
from segrgbx_core.modality import Modality
from training.synthetic.records import TEST_SEEDS, Light, Record, WorldConfig
from training.synthetic.render import parse_sensors, parse_size
from training.synthetic.sensors.polarization import mosaic
from training.synthetic.world import World

START_NS = 1_767_297_600_000_000_000
"""Stamp of a recording's first moment; a round date, because the scene has none."""
RATE_HZ = 10.0
X_DELAY_MS = 11.0
X_JITTER_MS = 3.0
JPEG_QUALITY = 88
THERMAL_STEP = 4
"""Counts of 0.01 K that thermal images are rounded to: below the noise, and it packs well."""
COMPRESSED = "sensor_msgs/msg/CompressedImage"
JPEG_FORM, PNG_FORM = "rgb8; jpeg compressed bgr8", "{}; png compressed "


@dataclass(frozen=True)
class Packet:
    """One message on its way into the bag."""

    receive_ns: int
    topic: str
    frame_id: str
    stamp_ns: int
    form: str
    data: bytes


def packets(
    world: World, modalities: Sequence[Modality], seconds: float, rate_hz: float = RATE_HZ
) -> Iterator[Packet]:
    """Messages of a recording in receive order."""
    rng = np.random.default_rng([world.seed, 71])
    held: list[Packet] = []
    for index in range(round(seconds * rate_hz)):
        jitter_ms = np.clip(rng.normal(0, X_JITTER_MS / 2), -X_JITTER_MS, X_JITTER_MS)
        delay_s = (X_DELAY_MS + float(jitter_ms)) * 1e-3
        record = world.record(index / rate_hz, modalities, x_delay_s=delay_s)
        for modality in modalities:
            held += _of_record(record, modality, rng)
        held.sort(key=lambda packet: packet.receive_ns)
        while held and held[0].receive_ns < START_NS + record.stamp_ns:
            yield held.pop(0)
    yield from held


def _of_record(record: Record, modality: Modality, rng: np.random.Generator) -> list[Packet]:
    pair = modality.value
    stamp, x_stamp = START_NS + record.stamp_ns, START_NS + record.x_stamp_ns
    unified = synthetic_label_space().unify(record.labels, record.label_space)
    lags = (rng.uniform([9e6, 14e6], [14e6, 22e6])).astype(np.int64)
    rgb_at, x_at = stamp + int(lags[0]), x_stamp + int(lags[1])
    rgb_frame, x_frame = f"{pair}_rgb_optical_frame", f"{pair}_x_optical_frame"
    x_form, x_data = x_image(record, modality)
    png = PNG_FORM.format("mono8")
    return [
        Packet(
            rgb_at, f"/{pair}/rgb/image/compressed", rgb_frame, stamp, JPEG_FORM, _jpeg(record.rgb)
        ),
        Packet(rgb_at + 1, f"/{pair}/label/compressed", rgb_frame, stamp, png, _png(unified)),
        Packet(x_at, f"/{pair}/x/image/compressed", x_frame, x_stamp, x_form, x_data),
    ]


def x_image(record: Record, modality: Modality) -> tuple[str, bytes]:
    """Format and data of the CompressedImage that a driver of the modality would publish.

    Raises:
        DataError: when the record was rendered without the modality.
    """
    if modality is Modality.THERMAL and record.thermal is not None:
        return PNG_FORM.format("mono16"), _png(record.thermal // THERMAL_STEP * THERMAL_STEP)
    if modality is Modality.DEPTH and record.depth is not None:
        return PNG_FORM.format("16UC1"), _png(np.round(record.depth * 1000).astype(np.uint16))
    if modality is Modality.POLARIZATION and record.polarization is not None:
        return PNG_FORM.format("mono16"), _png(mosaic(record.polarization) << 4)
    if modality is Modality.LIGHT_FIELD and record.light_field is not None:
        return JPEG_FORM, _jpeg(record.light_field[0])
    if modality is Modality.EVENT and record.events is not None:
        encoding = event_encoder.EventEncoding()
        drawn = event_encoder.from_raw(record.events, encoding, event_encoder.EventSensor())
        picture = np.round(drawn * 255).astype(np.uint8)
        return "rgb8; png compressed bgr8", _png(picture[..., ::-1])
    raise DataError(f"recording: the record holds no {modality}; render it with that sensor")


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return bytes(cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)[1].tobytes())


def _png(image: NDArray[Any]) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 9]
    return bytes(cv2.imencode(".png", image, options)[1].tobytes())


def write_recording(
    path: Path | str,
    world: World,
    modalities: Sequence[Modality],
    seconds: float,
    rate_hz: float = RATE_HZ,
) -> int:
    """Writes a new bag; returns its number of messages.

    Raises:
        DataError: when the folder exists already.
    """
    path = Path(path)
    if path.exists():
        raise DataError(f"{path}: exists already; choose another folder or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    store = get_typestore(Stores.ROS2_JAZZY)
    kinds: dict[str, Any] = dict(store.types)
    count = 0
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.set_custom_data("origin", f"synthetic scene, seed {world.seed}")
        connections: dict[str, Any] = {}
        total = round(seconds * rate_hz) * 3 * len(modalities)
        for packet in tqdm(
            packets(world, modalities, seconds, rate_hz), total=total, unit="message"
        ):
            if packet.topic not in connections:
                connections[packet.topic] = writer.add_connection(
                    packet.topic, COMPRESSED, typestore=store
                )
            sec, nanosec = divmod(packet.stamp_ns, 1_000_000_000)
            stamp = kinds["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
            header = kinds["std_msgs/msg/Header"](stamp=stamp, frame_id=packet.frame_id)
            data = np.frombuffer(packet.data, np.uint8)
            message = kinds[COMPRESSED](header=header, format=packet.form, data=data)
            raw = store.serialize_cdr(message, COMPRESSED)
            writer.write(connections[packet.topic], packet.receive_ns, raw)
            count += 1
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description="Write a synthetic scene as a rosbag2 recording.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=TEST_SEEDS.start, help="the scene")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=float, default=RATE_HZ, help="images per second")
    parser.add_argument("--modality", default="thermal", help="comma list of modalities, or 'all'")
    parser.add_argument("--size", default="320x240", help="WIDTHxHEIGHT")
    parser.add_argument("--light", default="any", choices=[light.value for light in Light])
    parser.add_argument("--speed", type=float, default=-1.0, help="m/s; negative draws it")
    options = parser.parse_args(argv)
    try:
        width, height = parse_size(options.size)
        config = WorldConfig(
            width=width, height=height, light=Light(options.light), speed_mps=options.speed
        )
        world = World(options.seed, config)
        modalities = parse_sensors(options.modality)
        count = write_recording(options.out, world, modalities, options.seconds, options.rate)
    except SegrgbxError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {count} messages, {size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
