"""From messages to samples: pairing by stamp and decoding, the same live and in replay.

Neither ROS nor torch: whoever receives messages calls `push` with them, live node and replay
alike, so both make the same pairs. Decoding is put off until someone asks for the sample, because
a pair that a newer one replaces is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Array, Events, RgbxSample, XForm
from segrgbx_core.sensors import EncodingConfig
from segrgbx_core.sync.aligner import AlignCounts, Match, PairAligner, event_aligner
from segrgbx_core.sync.counts import NS_PER_MS
from segrgbx_ros.config.node import ANGLES, NodeConfig, PairConfig, Stream, XSource
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.pairing.angles import AngleSets
from segrgbx_ros.pairing.registration import Registrar

__all__ = ["PairedMessages", "Pipeline", "Stream"]


_GREY = ("mono8", "8UC1", "mono16", "16UC1")
_RGB = ("rgb8", "bgr8", "rgba8", "bgra8")
_BAYER = tuple(name for name in messages.COLOUR_ENCODINGS if name.startswith("bayer_"))
# Which encodings of a raw X image make sense for a modality; drawn pictures take `_PICTURE`.
_RAW = {
    Modality.THERMAL: (*_GREY, "32FC1"),
    Modality.DEPTH: ("16UC1", "mono16", "32FC1"),
    Modality.POLARIZATION: (*_GREY, *_BAYER, "8UC4", "16UC4", "32FC2", *_RGB),
    Modality.LIGHT_FIELD: messages.COLOUR_ENCODINGS,
    Modality.EVENT: (),
}
_PICTURE = (*_GREY, *messages.COLOUR_ENCODINGS)


@dataclass(frozen=True)
class _Received:
    message: Any
    now_ns: int


@dataclass(frozen=True, eq=False)
class PairedMessages:
    """Messages that belong together, not decoded yet.

    Attributes:
        pair: name of the RGB-X pair.
        options: the pair's section.
        rgb_topic: where `rgb` came from, for error messages.
        x_topic: where `x` came from.
        rgb: the RGB message; its header is the header of every answer.
        x: the X message, four of them (one per polarizer angle), or the events of the window that
            ends at RGB's stamp (on the clock of X; held ones are moved there); None where the
            policy lets RGB go alone.
        stamp_ns: RGB's stamp in ns.
        x_stamp_ns: X's stamp in ns, None without X.
        dt_ns: stamp of X minus stamp of RGB minus the pair's offset, in ns, None without X.
        held: True where X was already used with an earlier RGB.
        arrived_ns: the `now_ns` that RGB was pushed with.
        registrar: puts X onto RGB's grid.
    """

    pair: str
    options: PairConfig
    rgb_topic: str
    x_topic: str
    rgb: Any
    x: Any | None
    stamp_ns: int
    x_stamp_ns: int | None
    dt_ns: int | None
    held: bool
    arrived_ns: int
    registrar: Registrar

    def sample(self) -> RgbxSample:
        """Decodes both messages.

        Raises:
            EncodingError: naming the topic, what is wrong with its message and what is allowed.
        """
        try:
            rgb = messages.rgb_array(self.rgb)
        except EncodingError as error:
            raise EncodingError(f"topic '{self.rgb_topic}': {error}") from None
        x, form = self._x(rgb)
        sample = RgbxSample(
            rgb=rgb,
            x=x,
            modality=self.options.modality,
            stamp_ns=self.stamp_ns,
            frame_id=str(self.rgb.header.frame_id),
            x_form=form,
        )
        if self.x is None:
            return sample
        try:
            return self.registrar.register(sample)
        except EncodingError as error:
            raise EncodingError(f"pair '{self.pair}': {error}") from None

    def _x(self, rgb: Array) -> tuple[Array | Events, XForm]:
        if (
            self.x is None
        ):  # RGB alone: a black picture of X, as modality dropout in training shows it
            return np.zeros(rgb.shape, np.uint8), XForm.IMAGE
        if isinstance(self.x, Events):
            times = self.x.t_ns - _offset_ns(self.options)
            return replace(self.x, t_ns=times), XForm.RAW
        try:
            if isinstance(self.x, tuple):
                planes = [self._pixels(message) for message in self.x]
                return _stacked(planes), self.options.x_form
            return self._pixels(self.x), self.options.x_form
        except EncodingError as error:
            place = f"topic '{self.x_topic}' ({self.options.modality})"
            raise EncodingError(f"{place}: {error}") from None

    def _pixels(self, message: Any) -> Array:
        modality, form = self.options.modality, self.options.x_form
        return messages.any_array(
            message,
            self.options.x_encoding,
            allowed=_PICTURE if form is XForm.IMAGE else _RAW[modality],
            mosaic=modality is Modality.POLARIZATION and form is XForm.RAW,
        )


def _stacked(planes: list[Array]) -> Array:
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1 or planes[0].ndim != 2:
        raise EncodingError(f"images of one exposure have shapes {sorted(shapes)}; use grey ones")
    return np.stack(planes, axis=-1)


class Pipeline:
    """Pairs the messages of every RGB-X pair by stamp.

    Not thread-safe: one thread pushes and polls. Times called `now_ns` only need to come from one
    clock that does not run backward; stamps come from the messages.
    """

    def __init__(self, config: NodeConfig, encoding: EncodingConfig) -> None:
        self._config = config
        self._encoding = encoding
        self._aligners = {name: self._aligner(section) for name, section in config.sections()}
        self._events = {
            name: EventStream(config.sensor.event.time_source)
            for name, section in config.sections()
            if section.x_stream is Stream.EVENTS
        }
        self._angles = {
            name: AngleSets()
            for name, section in config.sections()
            if section.x_source is XSource.ANGLES
        }
        self._infos: dict[tuple[str, Stream], Any] = {}

    @property
    def config(self) -> NodeConfig:
        """The options in force."""
        return self._config

    @property
    def encoding(self) -> EncodingConfig:
        """How the checkpoint wants X drawn."""
        return self._encoding

    def configure(self, config: NodeConfig) -> None:
        """Takes changed values of dynamic options; what waits stays."""
        self._config = config
        for name, section in config.sections():
            self._aligners[name].configure(config.sync, _offset_ns(section))

    def push(self, pair: str, stream: Stream, message: Any, now_ns: int) -> list[PairedMessages]:
        """Takes one message; gives back the pairs that are complete now, in the order of RGB.

        Raises:
            EncodingError: when a message of events cannot be decoded; images are decoded later.
        """
        if stream is Stream.EVENTS:
            return self._push_events(pair, message, now_ns)
        if stream in (Stream.RGB_INFO, Stream.X_INFO):
            self._infos[pair, stream] = message
            return []
        aligner, stamp = self._aligners[pair], messages.stamp_ns(message)
        if stream in ANGLES.values():
            message = self._angles[pair].take(stream, stamp, message)
            if message is None:
                return []
        received = _Received(message, now_ns)
        if stream is Stream.RGB:
            return self._paired(pair, aligner.push_rgb(stamp, received, now_ns))
        return self._paired(pair, aligner.push_x(stamp, received, now_ns))

    def poll(self, now_ns: int) -> list[PairedMessages]:
        """Pairs whose waiting time is over at `now_ns`."""
        return [
            paired
            for pair, aligner in self._aligners.items()
            for paired in self._paired(pair, aligner.poll(now_ns))
        ]

    def flush(self) -> list[PairedMessages]:
        """Resolves all that waits; for the end of a recording."""
        return [
            paired
            for pair, aligner in self._aligners.items()
            for paired in self._paired(pair, aligner.flush())
        ]

    def clear(self) -> None:
        """Forgets all messages that wait."""
        for aligner in self._aligners.values():
            aligner.clear()
        for events in self._events.values():
            events.reset()
        for angles in self._angles.values():
            angles.clear()

    def info(self, pair: str, stream: Stream) -> Any | None:
        """The newest calibration that came on a topic, None before the first."""
        return self._infos.get((pair, stream))

    def counts(self, pair: str) -> AlignCounts:
        """What became of the messages of a pair so far."""
        return self._aligners[pair].counts

    def num_lost(self, pair: str) -> int:
        """Event packets missing between those that came, or exposures that lack an angle."""
        if pair in self._angles:
            return self._angles[pair].num_incomplete
        events = self._events.get(pair)
        return 0 if events is None else events.num_lost

    def next_deadline_ns(self) -> int | None:
        """When `poll` will have something to do at the latest, None when nothing waits."""
        deadlines = (aligner.next_deadline_ns() for aligner in self._aligners.values())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _aligner(self, section: PairConfig) -> PairAligner[_Received, Any]:
        sync, offset_ns = self._config.sync, _offset_ns(section)
        if section.x_stream is Stream.X:
            return PairAligner[_Received, _Received](sync, offset_ns)
        window_ns = round(self._encoding.event.window_ms * NS_PER_MS)
        max_bytes = self._config.sensor.event.max_buffer_mb << 20
        return event_aligner(sync, window_ns, offset_ns, max_bytes)

    def _push_events(self, pair: str, message: Any, now_ns: int) -> list[PairedMessages]:
        try:
            taken = self._events[pair].take(message)
        except EncodingError as error:
            topic = self._config.topic(pair, Stream.EVENTS)
            raise EncodingError(f"topic '{topic}' (event): {error}") from None
        if taken is None:
            return []
        # An unset stamp says nothing about the sensor's clock; the aligner counts and drops it.
        reached_ns = taken.reached_ns if messages.stamp_ns(message) > 0 else 0
        matches = self._aligners[pair].push_x(reached_ns, taken.events, now_ns)
        return self._paired(pair, matches)

    def _paired(self, pair: str, matches: Iterable[Match[_Received, Any]]) -> list[PairedMessages]:
        config, section = self._config, self._config.pair(pair)
        registrar = Registrar(
            pair,
            section,
            self._encoding,
            config.sensor,
            self.info(pair, Stream.RGB_INFO),
            self.info(pair, Stream.X_INFO),
        )
        return [
            PairedMessages(
                pair=pair,
                options=section,
                rgb_topic=config.topic(pair, Stream.RGB),
                x_topic=config.topic(pair, next(iter(section.x_streams.values()))),
                rgb=match.rgb.message,
                x=match.x.message if isinstance(match.x, _Received) else match.x,
                stamp_ns=match.rgb_stamp_ns,
                x_stamp_ns=match.x_stamp_ns,
                dt_ns=match.dt_ns,
                held=match.held,
                arrived_ns=match.rgb.now_ns,
                registrar=registrar,
            )
            for match in matches
        ]


def _offset_ns(section: PairConfig) -> int:
    return round(section.x_offset_ms * NS_PER_MS)
