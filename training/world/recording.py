"""Writes a rendered scene as a rosbag2 recording (mcap): what a vehicle's cameras would publish.

    python -m training.world.recording --demo thermal --out resource/demo/thermal
    python -m training.world.recording --seed 20030 --modality depth,event --out FOLDER
    python -m training.world.recording --modality depth --set family=indoor --out FOLDER

Topics, with each pair named like its modality: `/<pair>/rgb/image/compressed` (JPEG), the truth
`/<pair>/label/compressed` (PNG, mono8, unified ids, 255 void) with RGB's stamps, and X as a driver
of that sensor publishes it on `/<pair>/x/image/compressed`: thermal counts of 0.01 K, depth in
millimetres, the polarization sensor's mosaic with its 12 bits at the upper end of 16, one corner
view of the light field (JPEG). Every image comes with its `camera_info`. Events travel as
EventPacket messages on `/event/x/events`, and drawn as pictures like the other sensors, for
machines without that message package.

Thermal and polarization cameras run on their own clock: a little later than RGB, with jitter, and
they really exposed then. Depth and light field share RGB's trigger. Recordings are synthetic; the
bag's custom data says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.bags.message_types import CAMERA_INFO, COMPRESSED_IMAGE, EVENT_PACKET
from segrgbx_core.base.camera import depth_counts
from segrgbx_core.base.errors import DataError, command
from segrgbx_core.base.files import user_path
from segrgbx_core.base.images import image_size
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.overrides import CommandParser, add_set_option
from segrgbx_core.base.samples import Events
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.labels.overlay import preview
from segrgbx_core.sensors import encode
from segrgbx_core.sensors.event_words import encode_libcaer_cmp
from training.world.config import TEST_SEEDS, Corruption, Light, WorldConfig
from training.world.rays.cameras import Camera
from training.world.records import LIDAR, NIR, Record, record_sample
from training.world.render import parse_sensors, world_config
from training.world.sensors.polarization import mosaic
from training.world.world import World

START_NS = 1_767_297_600_000_000_000
"""Stamp of a recording's first moment; a round date, because the scene has none."""
RATE_HZ = 10.0
X_DELAY_MS = 11.0
X_JITTER_MS = 3.0
JPEG_QUALITY = 88
THERMAL_STEP = 4
"""Counts of 0.01 K that thermal images are rounded to: below the noise, and it packs well."""


@dataclass(frozen=True)
class DemoScene:
    """The scene of one of the demo's recordings: none of a training split, chosen by content.

    Attributes:
        seed: the scene.
        seconds: length.
        light: time of day.
        speed_mps: of the camera; negative draws it.
        corruption: failure of the RGB camera.
        exposure: of RGB, as a multiple of the metered one.
        x_scale: size of X images relative to RGB.
    """

    seed: int
    seconds: float
    light: Light
    speed_mps: float = 4.0
    corruption: Corruption = Corruption.NONE
    exposure: float = 1.0
    x_scale: float = 1.0


DEMO_SCENES = {
    Modality.EVENT: DemoScene(20_044, 5.0, Light.DAY, exposure=0.005),
    Modality.THERMAL: DemoScene(20_024, 8.0, Light.NIGHT, 3.5, exposure=0.05),
    Modality.DEPTH: DemoScene(20_055, 5.0, Light.DUSK, corruption=Corruption.MOTION_BLUR),
    # Four pixels of the mosaic make one measurement, so it has twice RGB's pixels per side.
    Modality.POLARIZATION: DemoScene(20_043, 5.0, Light.DAY, exposure=0.005, x_scale=2.0),
    Modality.LIGHT_FIELD: DemoScene(20_044, 5.0, Light.OVERCAST),
}
"""Where RGB shows little: people, cars and cyclists in a picture 200 times too dark; people at
night, exposed as short as a moving camera must; a blurred street at dusk; a wet road with glass,
200 times too dark; and a plain day, because light fields promise nothing special."""
TRIGGERED = frozenset({Modality.EVENT, Modality.DEPTH, Modality.LIGHT_FIELD})
"""Modalities that expose with RGB; the others run on a clock of their own."""
PACKETS_PER_WINDOW = 10
ARRIVAL_NS = 400_000
JPEG_FORM = "rgb8; jpeg compressed bgr8"


@dataclass(frozen=True)
class Packet:
    """One message on its way into the bag: `fields` are those beside the header."""

    receive_ns: int
    topic: str
    frame_id: str
    stamp_ns: int
    kind: str
    fields: dict[str, Any]


def packets(
    world: World, modalities: Sequence[Modality], seconds: float, rate_hz: float = RATE_HZ
) -> Iterator[Packet]:
    """Messages of a recording in receive order."""
    rng = np.random.default_rng([world.seed, 71])
    groups = [
        [m for m in modalities if (m in TRIGGERED) is triggered] for triggered in (False, True)
    ]
    held: list[Packet] = []
    for index in range(round(seconds * rate_hz)):
        jitter_ms = np.clip(rng.normal(0, X_JITTER_MS / 2), -X_JITTER_MS, X_JITTER_MS)
        delays_s = ((X_DELAY_MS + float(jitter_ms)) * 1e-3, 0.0)
        for group, delay_s in zip(groups, delays_s, strict=True):
            if group:
                time_s = index / rate_hz
                record = world.record(time_s, group, x_delay_s=delay_s)
                cameras = world.scene.camera(time_s), world.x_camera(time_s + delay_s)
                for modality in group:
                    images = _of_record(record, modality, rng, index)
                    held += [*images, *_calibrations(images, cameras)]
        held.sort(key=lambda packet: packet.receive_ns)
        while held and held[0].receive_ns < START_NS + round(index / rate_hz * 1e9):
            yield held.pop(0)
    yield from held


def _of_record(
    record: Record, modality: Modality, rng: np.random.Generator, index: int
) -> list[Packet]:
    pair = modality.value
    stamp, x_stamp = START_NS + record.stamp_ns, START_NS + record.x_stamp_ns
    unified = synthetic_label_space().unify(record.labels, record.label_space)
    lags = (rng.uniform([9e6, 14e6], [14e6, 22e6])).astype(np.int64)
    rgb_at, x_at = stamp + int(lags[0]), x_stamp + int(lags[1])
    frame, x_frame = f"{pair}_rgb_optical_frame", f"{pair}_x_optical_frame"
    rgb, label = _compressed(JPEG_FORM, _jpeg(record.rgb)), _compressed("mono8", _png(unified))
    messages = [
        Packet(rgb_at, f"/{pair}/rgb/image/compressed", frame, stamp, COMPRESSED_IMAGE, rgb),
        Packet(rgb_at + 1, f"/{pair}/label/compressed", frame, stamp, COMPRESSED_IMAGE, label),
    ]
    fields = _compressed(*x_image(record, modality))
    topic = f"/{pair}/x/image/compressed"
    messages.append(Packet(x_at, topic, x_frame, x_stamp, COMPRESSED_IMAGE, fields))
    if record.events is not None and modality is Modality.EVENT:
        messages += _event_packets(record.events, x_stamp, x_frame, index)
    return messages


def _calibrations(images: Sequence[Packet], cameras: tuple[Camera, Camera]) -> Iterator[Packet]:
    """Calibrations of the RGB and the X camera, with their images' stamps and arrivals."""
    for packet in images:
        for stream, camera in zip(("rgb", "x"), cameras, strict=True):
            if packet.topic.endswith(f"/{stream}/image/compressed"):
                topic = packet.topic.replace("image/compressed", "camera_info")
                yield replace(packet, topic=topic, kind=CAMERA_INFO, fields=_camera_info(camera))


def _camera_info(camera: Camera) -> dict[str, Any]:
    """Fields of a CameraInfo without distortion; the centre of the first pixel is at 0."""
    x, y = camera.width / 2 - 0.5, camera.height / 2 - 0.5
    k = np.array([[camera.focal, 0, x], [0, camera.focal, y], [0, 0, 1]])
    return {
        "height": camera.height,
        "width": camera.width,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": k.ravel(),
        "r": np.eye(3).ravel(),
        "p": np.hstack([k, np.zeros((3, 1))]).ravel(),
        "binning_x": 0,
        "binning_y": 0,
    }


def _event_packets(events: Events, end_ns: int, frame: str, index: int) -> list[Packet]:
    """One window of events in packets of equal duration, stamped by arrival."""
    stamps = events.t_ns + START_NS
    window_ns = round(1e9 / RATE_HZ) if len(events) == 0 else end_ns - int(stamps[0])
    edges = (
        end_ns - window_ns + np.arange(PACKETS_PER_WINDOW + 1) * window_ns // PACKETS_PER_WINDOW
    )
    places = np.searchsorted(stamps, edges, side="right")
    places[0] = 0
    messages = []
    for part, (first, last) in enumerate(pairwise(places)):
        if first == last:
            continue
        span = slice(first, last)
        part_events = Events(
            events.x[span],
            events.y[span],
            stamps[span],
            events.p[span],
            events.width,
            events.height,
        )
        time_base, data = encode_libcaer_cmp(part_events)
        fields = {
            "height": events.height,
            "width": events.width,
            "seq": index * PACKETS_PER_WINDOW + part,
            "time_base": time_base,
            "encoding": "libcaer_cmp",
            "is_bigendian": False,
            "events": np.frombuffer(data, np.uint8),
        }
        receive_ns = int(edges[part + 1]) + 2 * ARRIVAL_NS
        stamp_ns = int(stamps[first]) + ARRIVAL_NS
        messages.append(
            Packet(receive_ns, "/event/x/events", frame, stamp_ns, EVENT_PACKET, fields)
        )
    return messages


def _compressed(form: str, data: bytes) -> dict[str, Any]:
    text = form if "jpeg" in form else f"{form}; png compressed "
    return {"format": text, "data": np.frombuffer(data, np.uint8)}


def x_image(record: Record, modality: Modality) -> tuple[str, bytes]:
    """Encoding (or whole format of a JPEG) and data of what a driver of the modality publishes.

    Raises:
        DataError: when the record was rendered without the modality.
    """
    if modality is Modality.EVENT and record.events is not None:
        return "rgb8", _png(preview(encode(record_sample(record, modality)))[..., ::-1])
    if modality is Modality.THERMAL and record.thermal is not None:
        if record.thermal.dtype == np.uint8:
            return "mono8", _png(record.thermal)
        return "mono16", _png(record.thermal // THERMAL_STEP * THERMAL_STEP)
    if modality is Modality.DEPTH and record.depth is not None:
        return "16UC1", _png(depth_counts(record.depth))
    if modality is Modality.POLARIZATION and record.polarization is not None:
        return "mono16", _png(mosaic(record.polarization) << 4)
    if modality is Modality.LIGHT_FIELD and record.light_field is not None:
        return JPEG_FORM, _jpeg(record.light_field[0])
    if modality is LIDAR and record.lidar is not None:
        return "16UC1", _png(record.lidar)
    if modality is NIR and record.nir is not None:
        return "mono8", _png(record.nir)
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
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with BagWriter(path, origin=f"synthetic scene, seed {world.seed}") as bag:
        for packet in tqdm(packets(world, modalities, seconds, rate_hz), unit="message"):
            message = bag.message(packet.kind, packet.stamp_ns, packet.frame_id, **packet.fields)
            bag.write(packet.topic, message, packet.receive_ns)
            count += 1
    return count


def demo_world(modality: Modality, width: int = 320, height: int = 240) -> World:
    """The world of one of the demo's recordings."""
    scene = DEMO_SCENES[modality]
    config = WorldConfig(
        width=width,
        height=height,
        light=scene.light,
        speed_mps=scene.speed_mps,
        corruption=scene.corruption,
        exposure=scene.exposure,
        x_scale=scene.x_scale,
        **_event_windows(RATE_HZ),
    )
    return World(scene.seed, config)


def _event_windows(rate_hz: float) -> dict[str, Any]:
    """Windows that meet make a stream without gaps."""
    return {"event_window_ms": 1000.0 / rate_hz, "event_substeps": 8}


@command()
def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options = _parser().parse_args(argv)
    if options.demo:
        modality = Modality(options.demo)
        world, seconds = demo_world(modality), DEMO_SCENES[modality].seconds
        count = write_recording(options.out, world, [modality], seconds)
    else:
        config = world_config(options.size, options.set, _event_windows(options.rate))
        world, modalities = World(options.seed, config), parse_sensors(options.modality)
        count = write_recording(options.out, world, modalities, options.seconds, options.rate)
    size = sum(file.stat().st_size for file in options.out.iterdir())
    print(f"{options.out}: {count} messages, {size / 1e6:.2f} MB")
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(description="Write a synthetic scene as a rosbag2 recording.")
    add = parser.add_argument
    add("--out", type=user_path, required=True, help="folder to make")
    add("--demo", choices=[m.value for m in MODALITIES], help="the demo's scene of this modality")
    add("--seed", type=int, default=TEST_SEEDS.start, help="the scene")
    add("--seconds", type=float, default=8.0)
    add("--rate", type=float, default=RATE_HZ, help="images per second")
    add("--modality", default="thermal", help="comma list of modalities, or 'all'")
    add("--size", type=image_size, default="320x240", help="WIDTHxHEIGHT")
    add_set_option(parser, "any other world option")
    return parser


if __name__ == "__main__":
    sys.exit(main())
