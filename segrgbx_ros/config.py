"""The options of node and replay alike: one strict tree, from ROS parameters or from YAML.

Every RGB-X pair named in `pairs` has a section of its own name, so the tree's type depends on its
data: `node_config` builds the type first and then reads strictly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model, model_validator

from segrgbx_core.align import AlignConfig
from segrgbx_core.config import Config, from_mapping, option, read_mapping
from segrgbx_core.encoders import SensorConfig
from segrgbx_core.errors import ConfigError
from segrgbx_core.inference_options import InferenceConfig
from segrgbx_core.modality import Modality
from segrgbx_core.samples import XForm

NODE_NAME = "segrgbx"
MAX_PAIRS = 8
_PAIR_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Parameters that rclpy itself declares; they are no options of this tree.
_FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides")


class Stream(str, Enum):
    """Which input of a pair a message belongs to. The value is the topic below the pair's name."""

    RGB = "rgb/image"
    X = "x/image"
    EVENTS = "x/events"


class RgbTransport(str, Enum):
    """How RGB images travel."""

    RAW = "raw"
    COMPRESSED = "compressed"


class XTransport(str, Enum):
    """How X images travel. The value is also the suffix of the topic, but for raw."""

    RAW = "raw"
    COMPRESSED = "compressed"
    COMPRESSED_DEPTH = "compressedDepth"


class XSource(str, Enum):
    """What X arrives as."""

    AUTO = "auto"
    IMAGE = "image"
    EVENTS = "events"


class Reliability(str, Enum):
    """What the input subscriptions ask of their publishers."""

    BEST_EFFORT = "best_effort"
    RELIABLE = "reliable"


class PairConfig(Config):
    """One RGB-X pair: which sensor its X is and how its messages arrive."""

    modality: Modality = option(
        doc="which sensor X is; a pair named after a modality need not say it"
    )
    rgb_transport: RgbTransport = option(RgbTransport.RAW, doc="transport of the RGB topic")
    x_transport: XTransport = option(XTransport.RAW, doc="transport of the X topic")
    x_source: XSource = option(
        XSource.AUTO, doc="images or an event stream; auto: events for raw X of modality event"
    )
    x_offset_ms: float = option(
        0.0,
        doc="stamp of X minus stamp of RGB for one instant; the constant skew of the two clocks",
        unit="ms",
        low=-1000,
        high=1000,
        dynamic=True,
    )
    x_encoding: str = option(
        "", doc="encoding of X where the driver names a wrong one; empty: as in the message"
    )
    x_form: XForm = option(
        XForm.RAW, doc="raw: what the driver publishes; image: an already drawn 8-bit picture of X"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> PairConfig:
        if self.x_transport is XTransport.COMPRESSED_DEPTH and self.modality is not Modality.DEPTH:
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
        return self

    @property
    def x_stream(self) -> Stream:
        """Where X comes from: images, or an event stream."""
        is_stream = self.modality is Modality.EVENT and self.x_form is XForm.RAW
        return Stream.EVENTS if is_stream else Stream.X


class ModelOptions(InferenceConfig):
    """Which checkpoint runs, where and how."""

    checkpoint: str = option("", doc="path of the checkpoint (.safetensors)")
    allow_random_weights: bool = option(
        False,
        doc="without a checkpoint, run an untrained network: for dry runs, labels mean nothing",
    )


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


class LabelConfig(Config):
    """Which labels are published."""

    space: str = option(
        "unified", doc="label space: unified, or a data set's own that the checkpoint knows"
    )
    min_confidence: float = option(
        0.0,
        doc="pixels whose class is less probable than this become unlabeled (255)",
        low=0,
        high=1,
    )


class OutputConfig(Config):
    """Which topics besides the mask are published, and how they look."""

    publish_confidence: bool = option(True, doc="publish the confidence image", dynamic=True)
    publish_color: bool = option(
        True, doc="publish mask_color while someone subscribes", dynamic=True
    )
    publish_overlay: bool = option(
        True, doc="publish overlay while someone subscribes", dynamic=True
    )
    publish_preview: bool = option(
        True,
        doc="publish x/preview (X as the model sees it) while someone subscribes",
        dynamic=True,
    )
    overlay_alpha: float = option(
        0.5, doc="weight of the label colours in the overlay", low=0, high=1, dynamic=True
    )


class QosConfig(Config):
    """Quality of service of the inputs; outputs are reliable, which suits every subscriber."""

    input_reliability: Reliability = option(
        Reliability.BEST_EFFORT,
        doc="best_effort matches every publisher; reliable resends lost images",
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


class NodeConfig(Config):
    """What node and replay can be told; each pair adds a `PairConfig` under its own name."""

    autostart: bool = option(
        True, doc="configure and activate without waiting for a lifecycle manager"
    )
    pairs: tuple[str, ...] = option(
        ("thermal",), doc="names of the RGB-X pairs; each has a section of its name"
    )
    model: ModelOptions = ModelOptions()
    batch: BatchConfig = BatchConfig()
    sync: AlignConfig = AlignConfig()
    label: LabelConfig = LabelConfig()
    output: OutputConfig = OutputConfig()
    qos: QosConfig = QosConfig()
    sensor: SensorConfig = SensorConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    def pair(self, name: str) -> PairConfig:
        """The section of one pair."""
        section: PairConfig = getattr(self, name)
        return section

    def sections(self) -> Iterator[tuple[str, PairConfig]]:
        """Every pair's name with its section, in the order of `pairs`."""
        return ((name, self.pair(name)) for name in self.pairs)

    def streams(self, pair: str) -> dict[str, Stream]:
        """The two inputs of a pair by short name."""
        return {"rgb": Stream.RGB, "x": self.pair(pair).x_stream}

    def topic(self, pair: str, stream: Stream) -> str:
        """Relative topic of one input of a pair, with the suffix of its transport."""
        section = self.pair(pair)
        transport: str = section.x_transport.value
        if stream is Stream.RGB:
            transport = section.rgb_transport.value
        suffix = "" if transport == "raw" or stream is Stream.EVENTS else f"/{transport}"
        return f"{pair}/{stream.value}{suffix}"


@cache
def node_config_type(pairs: tuple[str, ...]) -> type[NodeConfig]:
    """The tree's type for these pairs: `NodeConfig` with one section per pair.

    Raises:
        ConfigError: when a name is no name, is taken by another section, or stands twice.
    """
    if not 1 <= len(pairs) <= MAX_PAIRS:
        raise ConfigError(f"pairs: {len(pairs)} names; allowed are 1 to {MAX_PAIRS}")
    for name in pairs:
        if not _PAIR_NAME.fullmatch(name):
            raise ConfigError(
                f"pairs: '{name}' is no name; use a-z, 0-9 and _, starting with a letter"
            )
        if hasattr(NodeConfig, name) or name in NodeConfig.model_fields or is_foreign(f"{name}."):
            raise ConfigError(
                f"pairs: '{name}' is taken by a section of that name; choose another"
            )
        if pairs.count(name) > 1:
            raise ConfigError(f"pairs: '{name}' stands twice")
    sections: dict[str, Any] = {name: (_pair_type(name), ...) for name in pairs}
    return create_model("NodeConfig", __base__=NodeConfig, **sections)


def node_config(data: Mapping[str, Any], where: str = "") -> NodeConfig:
    """Reads the tree from plain values, nested or with dotted names.

    Args:
        data: what a ROS parameter file holds below `ros__parameters`, or ROS parameters by name.
        where: put before every message, such as a file name.

    Raises:
        ConfigError: for the first option that is unknown, missing, of the wrong type or out of
            range.
    """
    place = f"{where}: " if where else ""
    nested = _nest(data, place)
    pairs = nested.get("pairs", NodeConfig.model_fields["pairs"].default)
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(name, str) for name in pairs):
        raise ConfigError(f"{place}pairs: {pairs!r} is no list of names")
    try:
        kind = node_config_type(tuple(pairs))
    except ConfigError as error:
        raise ConfigError(f"{place}{error}") from None
    for name in pairs:
        nested.setdefault(name, {})
    return from_mapping(kind, nested, where)


def read_node_yaml(path: Path | str, overrides: Mapping[str, Any] | None = None) -> NodeConfig:
    """Reads a ROS parameter file as the node would.

    Args:
        path: YAML with `/**`, or the node's name, above `ros__parameters`.
        overrides: dotted names that win over the file.

    Raises:
        ConfigError: when no section fits the node, or an option in it is wrong.
    """
    sections = list(_parameter_sections(read_mapping(path)))
    if not sections:
        raise ConfigError(
            f"{path}: no 'ros__parameters' under '/**' or '{NODE_NAME}'; add that wrapper"
        )
    flat: dict[str, Any] = {}
    for section in sections:
        flat.update(flatten(section))
    flat.update(overrides or {})
    return node_config(flat, where=str(path))


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted values by their dotted name."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def is_foreign(name: str) -> bool:
    """True for parameters that rclpy declares itself, such as `use_sim_time`."""
    return name.split(".", 1)[0] in _FOREIGN


def _nest(data: Mapping[str, Any], place: str) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in flatten(data).items():
        if is_foreign(name):
            continue
        *parents, last = name.split(".")
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{place}{name}: '{part}' is itself an option, with none below")
        level[last] = value
    return nested


@cache
def _pair_type(name: str) -> type[PairConfig]:
    """A pair named after a modality need not repeat it."""
    if name not in {modality.value for modality in Modality}:
        return PairConfig
    doc = PairConfig.model_fields["modality"].description or ""
    field: Any = (Modality, option(Modality(name), doc=doc))
    return create_model("PairConfig", __base__=PairConfig, modality=field)


def _parameter_sections(data: Mapping[str, Any], key: str = "") -> Iterator[Mapping[str, Any]]:
    for name, value in data.items():
        if not isinstance(value, Mapping):
            continue
        if name == "ros__parameters":
            if key.rsplit("/", 1)[-1] in ("**", "*", NODE_NAME):
                yield value
        else:
            yield from _parameter_sections(value, str(name))
