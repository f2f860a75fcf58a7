"""From messages to samples: pairing by stamp and decoding, the same live and in replay.

Neither ROS nor torch: whoever receives messages calls `push_message` with them, live node and
replay alike, so both make the same pairs. Decoding waits until the sample is used,
because a pair that a newer one replaces is never looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import EncodingError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import NS_PER_MS, Array, Events, RgbxSample, XForm
from segrgbx_core.sensors import PICTURE, EncodingConfig, encoder_of, x_content
from segrgbx_core.sensors.content import EMPTY_SHARE, XContent, rgb_content
from segrgbx_core.sensors.freeze import FROZEN, FreezeDetector
from segrgbx_core.sync.aligner import (
    AlignConfig,
    AlignCounts,
    Match,
    OnMissingX,
    PairAligner,
    event_aligner,
)
from segrgbx_ros.config.node import NodeConfig, PairConfig, Stream, XSource
from segrgbx_ros.messages import images as messages
from segrgbx_ros.messages.events.stream import EventStream
from segrgbx_ros.pairing.registration import Registrar

__all__ = ["EmptyXError", "Pair", "PairPipeline", "Pipeline", "SampleReader", "Stream"]


_GREY = ("mono8", "8UC1", "mono16", "16UC1")
_RGB = ("rgb8", "bgr8", "rgba8", "bgra8")
_BAYER = tuple(name for name in messages.COLOUR_ENCODINGS if name.startswith("bayer_"))
# Which encodings of a raw X image make sense for an encoder.
_RAW: dict[str, tuple[str, ...]] = {
    Modality.THERMAL: (*_GREY, "32FC1"),
    Modality.DEPTH: ("16UC1", "mono16", "32FC1"),
    Modality.POLARIZATION: (*_GREY, *_BAYER, "8UC4", "16UC4", "32FC2", *_RGB),
    Modality.LIGHT_FIELD: messages.COLOUR_ENCODINGS,
    Modality.EVENT: (),
    PICTURE: (*_GREY, "32FC1", *_RGB),
}
_ANGLES_IN_ORDER = (Stream.I0, Stream.I45, Stream.I90, Stream.I135)
_RGB_JUDGED_EVERY = 10
"""Frames; a lens that is covered stays so for longer, and looking costs a millisecond."""
_MAX_INCOMPLETE = 8
"""Exposures that may lack an angle at a time; drivers of one sensor are never this far apart."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair(Match[Any, Any]):
    """Messages that belong together, not decoded yet.

    `rgb` is the RGB message, whose header is the header of every answer. `x` is the X message,
    four of them (one per polarizer angle), or the events of the window that ends at RGB's stamp
    (on the clock of X; held ones are moved there); None where the policy lets RGB go alone.

    Attributes:
        name: of the RGB-X pair.
        reader: decodes the messages.
        rgb_info: newest calibration of RGB by then, None before the first.
        x_info: newest calibration of X by then, None before the first.
    """

    name: str
    reader: SampleReader
    rgb_info: Any = None
    x_info: Any = None

    @property
    def offset_ns(self) -> int:
        """The `x_offset_ms` that it was paired with, in ns; 0 without X."""
        if self.x_stamp_ns is None or self.dt_ns is None:
            return 0
        return self.x_stamp_ns - self.rgb_stamp_ns - self.dt_ns

    def sample(self) -> RgbxSample:
        """Decodes both messages and puts X onto RGB's grid.

        Raises:
            EncodingError: naming the topic, what is wrong with its message and what is allowed.
        """
        return self.reader.read(self)


X_EMPTY = "x_empty"
"""Cause under which pairs are counted that are dropped because their X carries nothing."""


class EmptyXError(EncodingError):
    """X carries nothing, and the policy is to drop its pair then."""


class SampleReader:
    """Decodes the messages of one pair and judges what they carry.

    An X that carries nothing is as good as missing: `sync.on_missing_x` says what becomes of it.
    Only events may be none, because that is what a still scene gives.
    One thread reads; others may look at the attributes.

    Args:
        name: of the pair.
        config: options of node and replay.
        encoding: how the checkpoint's X is drawn.

    Attributes:
        num_empty: X without content so far.
        first_problem: what is wrong with the first of them, empty before it.
        x_content: of the newest X, None before the first.
        rgb_content: of a recent RGB image, None before the first.
        x_fault: why the X of the newest sample says nothing of its RGB image, one word; empty
            where it does.
        is_black: True where the newest sample is RGB alone.
    """

    def __init__(self, name: str, config: NodeConfig, encoding: EncodingConfig) -> None:
        self._options = config.pair(name)
        self._sync = config.sync
        self._encoding = encoding
        self._encoder = encoder_of(self._options.modality, encoding)
        self._sensor = config.sensor
        self._rgb_topic = config.topic(name, Stream.RGB)
        self._x_topic = config.topic(name, next(iter(self._options.x_streams.values())))
        self._registrar = Registrar(name, self._options, encoding, config.sensor)
        self._last: RgbxSample | None = None
        self._num_read = 0
        self.num_empty = 0
        self.first_problem = ""
        self.x_content: XContent | None = None
        self.rgb_content: XContent | None = None
        self.x_fault = ""
        self.is_black = False
        self._freeze = FreezeDetector()

    def configure(self, sync: AlignConfig) -> None:
        """Takes changed rules for an X without content."""
        self._sync = sync

    def forget(self) -> None:
        """Forgets the X that could be held."""
        self._last = None

    def read(self, pair: Pair, rgb: NDArray[np.uint8] | None = None) -> RgbxSample:
        """See `Pair.sample`.

        Args:
            pair: messages of this pair.
            rgb: the decoded RGB image, where another pair has decoded the same.

        Raises:
            EmptyXError: when X carries nothing and the policy is to drop its pair.
        """
        self.x_fault, self.is_black = "missing", pair.x is None
        if rgb is None:
            rgb = self._rgb(pair.rgb)
        if pair.x is None:  # RGB alone
            return self._sample(pair, rgb, *black_x(rgb))
        try:
            sample = self._sample(pair, rgb, *self._x(pair))
            content = x_content(sample, self._encoding, self._sensor)
        except EncodingError as error:
            place = f"topic '{self._x_topic}' ({self._options.modality})"
            raise EncodingError(f"{place}: {error}") from None
        self.x_content = content
        self.x_fault = self._fault(pair, sample, content)
        if content.is_empty:
            self.num_empty += 1
            self.first_problem = self.first_problem or content.problem
        if not content.is_empty:
            self._last = sample
        elif not isinstance(sample.x, Events):  # a still scene is no fault of the camera
            if self._sync.on_missing_x is OnMissingX.RGB_ONLY:
                self.is_black = True
                return self._sample(pair, rgb, *black_x(rgb))
            sample = self._held(sample, content)
        try:
            return self._registrar.register(sample, pair.rgb_info, pair.x_info)
        except EncodingError as error:
            raise EncodingError(f"pair '{pair.name}': {error}") from None

    def _fault(self, pair: Pair, sample: RgbxSample, content: XContent) -> str:
        if isinstance(sample.x, Events):  # no events say that nothing moves
            return "stale" if pair.held else ""
        self._freeze.on_image(np.ascontiguousarray(sample.x), pair.x_stamp_ns or 0)
        if content.is_empty:
            return "saturated" if content.valid > EMPTY_SHARE else "empty"
        if content.is_noise:
            return "noise"
        if self._freeze.row >= FROZEN:
            return "frozen"
        return "stale" if pair.held else ""

    def _sample(self, pair: Pair, rgb: Array, x: Array | Events, form: XForm) -> RgbxSample:
        return RgbxSample(
            rgb=rgb,
            x=x,
            modality=self._options.modality,
            stamp_ns=pair.rgb_stamp_ns,
            frame_id=str(pair.rgb.header.frame_id),
            x_form=form,
        )

    def _rgb(self, message: Any) -> NDArray[np.uint8]:
        options = self._options
        try:
            pixels = messages.picture_array(
                message, options.rgb_encoding, allowed=messages.RGB_ENCODINGS
            )
        except EncodingError as error:
            raise EncodingError(f"topic '{self._rgb_topic}': {error}") from None
        rgb = messages.rgb_of(pixels, options.rgb_full_scale)
        if self._num_read % _RGB_JUDGED_EVERY == 0:
            is_scaled = options.rgb_full_scale != messages.WHITE
            self.rgb_content = rgb_content(rgb if is_scaled else pixels)
        self._num_read += 1
        return rgb

    def _held(self, sample: RgbxSample, content: XContent) -> RgbxSample:
        """The sample with the last X that carried something, where the policy allows."""
        last = self._last
        if self._sync.on_missing_x is OnMissingX.HOLD_LAST and last is not None:
            age_ns = sample.stamp_ns - last.stamp_ns
            if 0 <= age_ns <= self._sync.max_hold_ms * NS_PER_MS:
                return replace(sample, x=last.x)
        raise EmptyXError(f"topic '{self._x_topic}' ({sample.modality}): {content.problem}")

    def _x(self, pair: Pair) -> tuple[Array | Events, XForm]:
        x = pair.x
        if isinstance(x, Events):
            return replace(x, t_ns=x.t_ns - pair.offset_ns), XForm.RAW
        if isinstance(x, tuple):
            return _stacked([self._pixels(message) for message in x]), self._options.x_form
        return self._pixels(x), self._options.x_form

    def _pixels(self, message: Any) -> Array:
        encoding = self._options.x_encoding
        if self._options.x_form is XForm.IMAGE:
            return messages.picture_array(message, encoding)
        is_mosaic = self._encoder == Modality.POLARIZATION
        allowed = _RAW[self._encoder]
        return messages.any_array(message, encoding, allowed=allowed, mosaic=is_mosaic)


def black_x(rgb: Array) -> tuple[Array, XForm]:
    """X where RGB goes alone: black, as modality dropout in training shows it."""
    return np.zeros(rgb.shape, np.uint8), XForm.IMAGE


def _stacked(planes: list[Array]) -> Array:
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1 or planes[0].ndim != 2:
        raise EncodingError(f"images of one exposure have shapes {sorted(shapes)}; use grey ones")
    return np.stack(planes, axis=-1)


class AngleSets:
    """Four images of one exposure, one topic per polarizer angle, put together by their stamp.

    Attributes:
        num_incomplete: exposures given up because an angle did not come.
    """

    def __init__(self) -> None:
        self._sets: dict[int, dict[Stream, Any]] = {}
        self.num_incomplete = 0

    def add_image(self, stream: Stream, stamp_ns: int, message: Any) -> tuple[Any, ...] | None:
        """The messages at 0, 45, 90 and 135 degrees once all four of a stamp have come."""
        exposure = self._sets.setdefault(stamp_ns, {})
        exposure[stream] = message
        if len(exposure) == len(_ANGLES_IN_ORDER):
            del self._sets[stamp_ns]
            return tuple(exposure[angle] for angle in _ANGLES_IN_ORDER)
        if len(self._sets) > _MAX_INCOMPLETE:
            del self._sets[next(iter(self._sets))]
            self.num_incomplete += 1
        return None

    def clear(self) -> None:
        """Forgets what is incomplete."""
        self._sets.clear()


class PairPipeline:
    """Pairs the messages of one RGB-X pair by stamp.

    One thread pushes; others may call the rest meanwhile, and events are decoded without holding
    them up. Times called `now_ns` only need to come from one clock that does not run backward;
    stamps come from the messages.

    Attributes:
        name: of the pair.
        reader: decodes the pairs.
    """

    def __init__(self, name: str, config: NodeConfig, encoding: EncodingConfig) -> None:
        self.name = name
        section = config.pair(name)
        self._events_topic = config.topic(name, Stream.EVENTS)
        self._events: EventStream | None = None
        self._aligner: PairAligner[Any, Any]
        sync, offset_ns = config.sync, _offset_ns(section)
        if section.x_stream is Stream.EVENTS:
            window_ns = round(encoding.event.window_ms * NS_PER_MS)
            max_bytes = config.sensor.event.max_buffer_mb << 20
            self._events = EventStream(config.sensor.event.time_source)
            self._aligner = event_aligner(sync, window_ns, offset_ns, max_bytes)
        else:
            self._aligner = PairAligner(sync, offset_ns)
        self._angles = AngleSets() if section.x_source is XSource.ANGLES else None
        self.reader = SampleReader(name, config, encoding)
        self._infos: dict[Stream, Any] = {}
        self._lock = threading.Lock()
        self._must_reset = False

    @property
    def counts(self) -> AlignCounts:
        """What became of the messages so far; goes on counting."""
        return self._aligner.counts

    def counts_by_now(self) -> AlignCounts:
        """A copy of the counts, which agree with each other."""
        with self._lock:
            return deepcopy(self._aligner.counts)

    @property
    def num_lost(self) -> int:
        """Event packets missing between those that came, or exposures that lack an angle."""
        if self._angles is not None:
            return self._angles.num_incomplete
        return 0 if self._events is None else self._events.num_lost

    def configure(self, config: NodeConfig) -> None:
        """Takes changed values of dynamic options; what waits stays."""
        with self._lock:
            self._aligner.configure(config.sync, _offset_ns(config.pair(self.name)))
        self.reader.configure(config.sync)

    def push_message(
        self, stream: Stream, message: Any, now_ns: int, stamp_ns: int | None = None
    ) -> list[Pair]:
        """Takes one message; gives back the pairs that are complete now, in the order of RGB.

        Args:
            stream: which input it came on.
            message: of rclpy or rosbags.
            now_ns: when it arrived.
            stamp_ns: its stamp, where the caller has read it already.

        Raises:
            EncodingError: when a message of events cannot be decoded; images are decoded later.
        """
        if stream in (Stream.RGB_INFO, Stream.X_INFO):
            self._infos[stream] = message
            return []
        if stamp_ns is None:
            stamp_ns = messages.stamp_ns(message)
        if stream is Stream.RGB:
            with self._lock:
                return self._pairs(self._aligner.push_rgb(stamp_ns, message, now_ns))
        if self._events is not None:
            return self._push_events(self._events, message, now_ns, stamp_ns)
        if self._angles is not None:
            message = self._angles.add_image(stream, stamp_ns, message)
            if message is None:
                return []
        with self._lock:
            return self._pairs(self._aligner.push_x(stamp_ns, message, now_ns))

    def poll(self, now_ns: int) -> list[Pair]:
        """Pairs whose waiting time is over at `now_ns`."""
        with self._lock:
            return self._pairs(self._aligner.poll(now_ns))

    def flush(self) -> list[Pair]:
        """Resolves all that waits; for the end of a recording."""
        with self._lock:
            return self._pairs(self._aligner.flush())

    def clear(self) -> None:
        """Forgets all messages that wait; calibrations stay."""
        with self._lock:
            self._aligner.clear()
            self._must_reset = True
        self.reader.forget()
        if self._angles is not None:
            self._angles.clear()

    def info(self, stream: Stream) -> Any | None:
        """The newest calibration that came on a topic, None before the first."""
        return self._infos.get(stream)

    def next_deadline_ns(self) -> int | None:
        """When `poll` will have something to do at the latest, None when nothing waits."""
        with self._lock:
            return self._aligner.next_deadline_ns()

    def _push_events(
        self, events: EventStream, message: Any, now_ns: int, stamp_ns: int
    ) -> list[Pair]:
        with self._lock:
            must_reset, self._must_reset = self._must_reset, False
        if must_reset:  # messages may have been missed
            events.reset()
        try:
            taken = events.read_message(message)
        except EncodingError as error:
            raise EncodingError(f"topic '{self._events_topic}' (event): {error}") from None
        self._aligner.counts.cut_events = events.num_cut
        if taken is None:
            return []
        # An unset stamp says nothing about the sensor's clock; the aligner counts and drops it.
        reached_ns = taken.reached_ns if stamp_ns > 0 else 0
        with self._lock:
            return self._pairs(self._aligner.push_x(reached_ns, taken.events, now_ns))

    def _pairs(self, matches: Iterable[Match[Any, Any]]) -> list[Pair]:
        rgb_info, x_info = self.info(Stream.RGB_INFO), self.info(Stream.X_INFO)
        return [
            Pair(
                **vars(match),
                name=self.name,
                reader=self.reader,
                rgb_info=rgb_info,
                x_info=x_info,
            )
            for match in matches
        ]


class Pipeline:
    """Pairs the messages of every RGB-X pair; one `PairPipeline` each."""

    def __init__(self, config: NodeConfig, encoding: EncodingConfig) -> None:
        self._config = config
        self._pairs = {name: PairPipeline(name, config, encoding) for name in config.pairs}

    def __getitem__(self, pair: str) -> PairPipeline:
        return self._pairs[pair]

    def __iter__(self) -> Iterator[PairPipeline]:
        return iter(self._pairs.values())

    @property
    def config(self) -> NodeConfig:
        """The options in force."""
        return self._config

    def configure(self, config: NodeConfig) -> None:
        """Takes changed values of dynamic options; what waits stays."""
        self._config = config
        for one in self:
            one.configure(config)

    def push_message(
        self, pair: str, stream: Stream, message: Any, now_ns: int, stamp_ns: int | None = None
    ) -> list[Pair]:
        """See `PairPipeline.push_message`."""
        return self._pairs[pair].push_message(stream, message, now_ns, stamp_ns)

    def poll(self, now_ns: int) -> list[Pair]:
        """Pairs of any name whose waiting time is over at `now_ns`."""
        return [pair for one in self for pair in one.poll(now_ns)]

    def flush(self) -> list[Pair]:
        """Resolves all that waits; for the end of a recording."""
        return [pair for one in self for pair in one.flush()]

    def clear(self) -> None:
        """Forgets all messages that wait."""
        for one in self:
            one.clear()

    def next_deadline_ns(self) -> int | None:
        """When `poll` will have something to do at the latest, None when nothing waits."""
        deadlines = (one.next_deadline_ns() for one in self)
        return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _offset_ns(section: PairConfig) -> int:
    return round(section.x_offset_ms * NS_PER_MS)
