"""The sections of the options of node and replay; `config` makes one tree of them."""

from __future__ import annotations

from enum import Enum

import numpy as np
from pydantic import model_validator

from segrgbx_core.base.config import Config, PathText, option
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.runtime.options import Backend, InferenceConfig


class Stream(str, Enum):
    """Which input of a pair a message belongs to. The value is the topic below the pair's name."""

    RGB = "rgb/image"
    X = "x/image"
    EVENTS = "x/events"
    I0 = "x/i0"
    I45 = "x/i45"
    I90 = "x/i90"
    I135 = "x/i135"
    RGB_INFO = "rgb/camera_info"
    X_INFO = "x/camera_info"


ANGLES = {"i0": Stream.I0, "i45": Stream.I45, "i90": Stream.I90, "i135": Stream.I135}
"""The four images of a polarization camera that publishes one topic per angle."""


class RgbTransport(str, Enum):
    """How RGB images travel; auto: by whatever arrives."""

    AUTO = "auto"
    RAW = "raw"
    COMPRESSED = "compressed"


class XTransport(str, Enum):
    """How X images travel; auto: by whatever arrives."""

    AUTO = "auto"
    RAW = "raw"
    COMPRESSED = "compressed"
    COMPRESSED_DEPTH = "compressedDepth"


class XSource(str, Enum):
    """What X arrives as."""

    AUTO = "auto"
    IMAGE = "image"
    EVENTS = "events"
    ANGLES = "angles"


class Registration(str, Enum):
    """How the pixels of X get onto RGB's grid."""

    NONE = "none"
    HOMOGRAPHY = "homography"
    CAMERA_INFO = "camera_info"


class Reliability(str, Enum):
    """What the input subscriptions ask of their publishers."""

    BEST_EFFORT = "best_effort"
    RELIABLE = "reliable"
    AUTO = "auto"


class PairConfig(Config):
    """One RGB-X pair: which sensor its X is and how its messages arrive."""

    modality: Modality = option(
        doc="which sensor X is: event, thermal, depth, polarization, light_field, or one that was "
        "added to the checkpoint; a pair named after one of the five need not say it"
    )
    rgb_transport: RgbTransport = option(
        RgbTransport.AUTO,
        doc="transport of the RGB topic; auto: what arrives is taken, raw where both do",
    )
    x_transport: XTransport = option(
        XTransport.AUTO,
        doc="transport of the X topic; auto: what arrives is taken, raw before compressedDepth "
        "before compressed",
    )
    x_source: XSource = option(
        XSource.AUTO,
        doc="image, events (raw event camera) or angles (polarization on x/i0, x/i45, x/i90, "
        "x/i135); auto: events for raw X of modality event, else image",
    )
    label_space: str = option(
        "", doc="label space of this pair's answers; empty: that of label.space"
    )
    x_offset_ms: float = option(
        0.0,
        doc="stamp of X minus stamp of RGB for one instant; the constant skew of the two clocks",
        unit="ms",
        low=-86_400_000,
        high=86_400_000,
        dynamic=True,
    )
    rgb_encoding: str = option(
        "",
        doc="encoding of raw RGB images where the driver names a wrong one or none, which makes "
        "rgb_transport auto mean raw; empty: as in the message",
    )
    rgb_full_scale: int = option(
        65535,
        doc="value of white in RGB images of 16 bits per channel; 4095 for a camera of 12 bits "
        "whose driver leaves the upper ones 0",
        low=255,
        high=65535,
    )
    x_encoding: str = option(
        "",
        doc="encoding of raw images of X where the driver names a wrong one, which makes "
        "x_transport auto mean raw; empty: as in the message",
    )
    x_form: XForm = option(
        XForm.RAW, doc="raw: what the driver publishes; image: an already drawn 8-bit picture of X"
    )
    registration: Registration = option(
        Registration.NONE,
        doc="how X gets onto RGB's grid: none where both show the same field of view, a fixed "
        "homography, or the calibration of both cameras (rectified images)",
    )
    homography: tuple[float, float, float, float, float, float, float, float, float] = option(
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        doc="pixel of X to pixel of RGB, row by row (registration: homography)",
    )
    extrinsics: tuple[float, float, float, float, float, float, float] = option(
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
        doc="pose of X's optical frame in RGB's: x y z in metres, then the quaternion x y z w "
        "(registration: camera_info); what TF calls the transform from RGB's frame to X's",
    )
    plane_m: float = option(
        0.0,
        doc="distance of the plane on which X lies (registration: camera_info, but for depth, "
        "which brings its own); 0: infinitely far",
        unit="m",
        low=0,
        high=10000,
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PairConfig:
        of_depth = self.modality is Modality.DEPTH or self.modality.is_added
        if self.x_transport is XTransport.COMPRESSED_DEPTH and not of_depth:
            raise ValueError(
                f"x_transport 'compressedDepth' carries depth only, not {self.modality}"
            )
        if self.x_source is XSource.EVENTS and self.x_stream is not Stream.EVENTS:
            raise ValueError(
                f"x_source 'events' is for raw X of modality event, not for {self.modality} "
                f"with x_form '{self.x_form.value}'"
            )
        if self.x_source is XSource.IMAGE and self.x_stream is Stream.EVENTS:
            raise ValueError("images of events are drawn pictures; set x_form: image")
        has_angles = self.modality is Modality.POLARIZATION or self.modality.is_added
        if self.x_source is XSource.ANGLES and not (has_angles and self.x_form is XForm.RAW):
            raise ValueError("x_source 'angles' is for raw X of modality polarization")
        self._check_encoding()
        if abs(np.linalg.det(np.reshape(self.homography, (3, 3)))) < 1e-12:
            raise ValueError("homography cannot be inverted; its determinant is 0")
        if abs(np.linalg.norm(self.extrinsics[3:]) - 1) > 1e-3:
            raise ValueError("extrinsics end with a quaternion x y z w, whose length is 1")
        return self

    def _check_encoding(self) -> None:
        if self.rgb_encoding and self.rgb_transport is RgbTransport.COMPRESSED:
            raise ValueError(
                f"rgb_encoding has no effect with rgb_transport '{self.rgb_transport.value}', "
                "whose images say themselves what they hold; leave it out"
            )
        if not self.x_encoding:
            return
        if self.x_stream is Stream.EVENTS:
            raise ValueError(
                "x_encoding has no effect on events, whose messages have their own; leave it out"
            )
        if self.x_transport not in (XTransport.AUTO, XTransport.RAW):
            raise ValueError(
                f"x_encoding has no effect with x_transport '{self.x_transport.value}', whose "
                "images say themselves what they hold; leave it out"
            )

    def transports(self, stream: Stream) -> tuple[str, ...]:
        """Transports by which an input may arrive, the preferred one first."""
        if stream in (Stream.EVENTS, Stream.RGB_INFO, Stream.X_INFO):
            return ("raw",)
        chosen, encoding = self.x_transport.value, self.x_encoding
        if stream is Stream.RGB:
            chosen, encoding = self.rgb_transport.value, self.rgb_encoding
        if chosen != "auto":
            return (chosen,)
        if encoding:  # it is an encoding of raw images
            return ("raw",)
        if stream is Stream.X and self.modality is Modality.DEPTH:
            return ("raw", "compressedDepth", "compressed")
        return ("raw", "compressed")

    @property
    def x_stream(self) -> Stream:
        """Where X comes from: images, or an event stream."""
        is_event = self.modality is Modality.EVENT
        if self.modality.is_added:  # the checkpoint names its encoder, which may be that of events
            is_event = self.x_source is XSource.EVENTS
        return Stream.EVENTS if is_event and self.x_form is XForm.RAW else Stream.X

    @property
    def x_streams(self) -> dict[str, Stream]:
        """The topics that make X, by short name."""
        return dict(ANGLES) if self.x_source is XSource.ANGLES else {"x": self.x_stream}


class ModelOptions(InferenceConfig):
    """Which checkpoint runs, where and how."""

    checkpoint: PathText = option("", doc="path of the checkpoint (.safetensors)")
    allow_random_weights: bool = option(
        False,
        doc="without a checkpoint, run an untrained network: for dry runs, labels mean nothing",
    )
    warmup_iterations: int = option(
        1,
        doc="passes per batch size before the node is ready, so that no camera waits for the slow "
        "first ones; 0: none",
        low=0,
        high=50,
    )
    max_memory_mb: int = option(
        0,
        doc="memory of the GPU that this process may take, beyond which a pass fails and is tried "
        "in smaller batches; 0: all. Without effect on a CPU",
        unit="MB",
        low=0,
        high=200_000,
    )

    @model_validator(mode="after")
    def _limits_what_runs(self) -> ModelOptions:
        if self.max_memory_mb and self.backend.runs_exported:
            is_onnx = self.backend is Backend.ONNX
            way = "; provider cuda takes gpu_mem_limit=BYTES in onnx.provider_options"
            raise ValueError(
                f"max_memory_mb has no effect with backend {self.backend.value}, leave it out"
                + way * is_onnx
            )
        return self


class BatchConfig(Config):
    """How pairs that are ready at about the same time share one forward pass."""

    max_size: int = option(4, doc="pairs in one forward pass", low=1, high=16)
    max_wait_ms: float = option(
        5.0,
        doc="how long a ready pair waits for others before it runs",
        unit="ms",
        low=0,
        high=100,
    )


class DropPolicy(str, Enum):
    """What becomes of a ready pair while the model is busy."""

    LATEST = "latest"
    QUEUE = "queue"


class DropConfig(Config):
    """What becomes of pairs that come faster than the model answers."""

    policy: DropPolicy = option(
        DropPolicy.LATEST,
        doc="latest: a newer pair replaces one that waits, answers are never old; queue: pairs "
        "wait in line, the oldest go when it is full, answers may be old",
    )
    queue_size: int = option(
        10, doc="pairs of one name that may wait (drop.policy: queue)", low=1, high=100
    )

    @property
    def depth(self) -> int:
        """Pairs of one name that may wait."""
        return self.queue_size if self.policy is DropPolicy.QUEUE else 1


class RateConfig(Config):
    """How often a pair is answered."""

    max_hz: float = option(
        0.0,
        doc="most answers per second and pair, by RGB's stamps; 0: as fast as the device can",
        unit="Hz",
        low=0,
        high=240,
        dynamic=True,
    )


class FuseConfig(Config):
    """Fused masks; each adds an option of its name with the pairs that it fuses.

    `fuse.<name>: [front_thermal, front_depth]` publishes `<name>/mask` and so on. Its pairs share
    one RGB topic.
    """

    min_members: int = option(
        1,
        doc="pairs with a usable X below which a frame gets no fused mask; 0: RGB alone then",
        low=0,
        high=8,
    )

    def members(self) -> dict[str, tuple[str, ...]]:
        """The pairs of every fused mask, by its name."""
        names = set(type(self).model_fields) - set(FuseConfig.model_fields)
        return {name: getattr(self, name) for name in sorted(names)}


class QosConfig(Config):
    """Quality of service of the inputs; outputs are reliable, which suits every subscriber."""

    input_reliability: Reliability = option(
        Reliability.BEST_EFFORT,
        doc="best_effort matches every publisher; reliable resends lost images; auto: reliable, "
        "until a publisher of the topic turns out to be best effort",
    )
    input_depth: int = option(10, doc="messages kept per input topic", low=1, high=100)


class DiagnosticsConfig(Config):
    """When /diagnostics warns."""

    enabled: bool = option(True, doc="publish /diagnostics")
    period_s: float = option(1.0, doc="time between two reports", unit="s", low=0.1, high=60)
    min_rate_hz: float = option(
        5.0, doc="input rate below which an input is reported as slow", unit="Hz", low=0, high=1000
    )
    max_latency_ms: float = option(
        200.0,
        doc="RGB arrival to publication above which inference is reported as slow",
        unit="ms",
        low=0,
    )
    max_drop_ratio: float = option(
        0.5,
        doc="share of pairs replaced by newer ones above which inference is reported as slow",
        low=0,
        high=1,
    )
