"""The options of node and replay alike: one strict tree, from ROS parameters or from YAML.

Every RGB-X pair named in `pairs` has a section of its own name, so the tree's type depends on its
data: `node_config` builds the type first and then reads strictly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import create_model, model_validator

from segrgbx_core.base.config import Config, from_mapping, option
from segrgbx_core.base.errors import ConfigError, did_you_mean, shortened
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.base.samples import XForm
from segrgbx_core.sensors import SensorConfig
from segrgbx_core.sensors.polarization import PolarizationLayout
from segrgbx_core.sync.aligner import AlignConfig
from segrgbx_ros.config.options import (
    ANGLES,
    BatchConfig,
    DiagnosticsConfig,
    DropConfig,
    DropPolicy,
    FuseConfig,
    ModelOptions,
    PairConfig,
    QosConfig,
    RateConfig,
    Registration,
    Reliability,
    RgbTransport,
    Stream,
    XSource,
    XTransport,
)
from segrgbx_ros.config.outputs import (
    ConfidenceEncoding,
    LabelConfig,
    MaskEncoding,
    OutputConfig,
    OutputSize,
)
from segrgbx_ros.config.parameter_files import read_parameter_file

__all__ = [
    "ANGLES",
    "NODE_NAME",
    "BatchConfig",
    "ConfidenceEncoding",
    "DiagnosticsConfig",
    "DropConfig",
    "DropPolicy",
    "FuseConfig",
    "LabelConfig",
    "MaskEncoding",
    "ModelOptions",
    "NodeConfig",
    "OutputConfig",
    "OutputSize",
    "PairConfig",
    "QosConfig",
    "RateConfig",
    "Registration",
    "Reliability",
    "RgbTransport",
    "Stream",
    "XSource",
    "XTransport",
    "flatten",
    "is_foreign",
    "named_transport",
    "nested",
    "node_config",
    "node_config_type",
    "read_node_yaml",
    "transport_topic",
]

NODE_NAME = "segrgbx"
MAX_PAIRS = 8
FUSED_DOC = "pairs that share an RGB topic and are fused into one mask, on topics of this name"
_PAIR_NAME = re.compile(r"[a-z][a-z0-9_]*")
# Parameters that rclpy itself declares; they are no options of this tree.
_FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides")


class NodeConfig(Config):
    """Options of node and replay; each pair adds a `PairConfig` under its own name."""

    autostart: bool = option(
        True, doc="configure and activate without waiting for a lifecycle manager"
    )
    pairs: tuple[str, ...] = option(
        ("thermal",), doc="names of the RGB-X pairs; each has a section of its name"
    )
    model: ModelOptions = ModelOptions()
    batch: BatchConfig = BatchConfig()
    fuse: FuseConfig = FuseConfig()
    sync: AlignConfig = AlignConfig()
    drop: DropConfig = DropConfig()
    rate: RateConfig = RateConfig()
    label: LabelConfig = LabelConfig()
    output: OutputConfig = OutputConfig()
    qos: QosConfig = QosConfig()
    sensor: SensorConfig = SensorConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> NodeConfig:
        if self.label.unlabeled_id > 255 and self.output.mask_encoding is MaskEncoding.MONO8:
            raise ValueError(
                f"label.unlabeled_id: {self.label.unlabeled_id} does not fit into mono8; set "
                "output.mask_encoding: mono16"
            )
        self._check_fused()
        for name, section in self.sections():
            if section.x_source is not XSource.ANGLES:
                continue
            if self.sensor.polarization.layout is not PolarizationLayout.CHANNELS4:
                raise ValueError(
                    f"{name}.x_source: angles arrive as four channels; set "
                    "sensor.polarization.layout: channels4"
                )
        return self

    def _check_fused(self) -> None:
        """What fused pairs must have in common, except their topic, which remapping decides."""
        fused_by: dict[str, str] = {}
        for name, members in self.fuse.members().items():
            where = f"fuse.{name}"
            if len(members) < 2:
                raise ValueError(f"{where}: names {len(members)} pairs; a fused mask needs two")
            for pair in members:
                if pair not in self.pairs:
                    raise ValueError(
                        f"{where}: '{shortened(pair)}' is no pair{did_you_mean(pair, self.pairs)}"
                    )
                if pair in fused_by:
                    raise ValueError(
                        f"{where}: '{pair}' stands in fuse.{fused_by[pair]} already; a pair "
                        "belongs to one fused mask, once"
                    )
                fused_by[pair] = name
            first = members[0]
            for pair in members[1:]:
                for option_name in ("rgb_transport", "rgb_encoding", "rgb_full_scale"):
                    ours, theirs = (getattr(self.pair(one), option_name) for one in (first, pair))
                    if ours != theirs:
                        raise ValueError(
                            f"{where}: {first}.{option_name} and {pair}.{option_name} differ; "
                            "fused pairs share one RGB topic"
                        )
                if self.label_space(first) != self.label_space(pair):
                    raise ValueError(
                        f"{where}: label spaces of '{first}' and '{pair}' differ; give both one"
                    )

    def pair(self, name: str) -> PairConfig:
        """The section of one pair."""
        section: PairConfig = getattr(self, name)
        return section

    def sections(self) -> Iterator[tuple[str, PairConfig]]:
        """Every pair's name with its section, in the order of `pairs`."""
        return ((name, self.pair(name)) for name in self.pairs)

    def label_space(self, pair: str) -> str:
        """Label space of a pair's answers."""
        return self.pair(pair).label_space or self.label.space

    @property
    def fused_names(self) -> tuple[str, ...]:
        """Names of fused masks and of their members."""
        fused = self.fuse.members()
        return (*fused, *(pair for members in fused.values() for pair in members))

    def streams(self, pair: str) -> dict[str, Stream]:
        """The inputs of a pair that are paired by stamp, by short name."""
        return {"rgb": Stream.RGB, **self.pair(pair).x_streams}

    def info_streams(self, pair: str) -> tuple[Stream, ...]:
        """The calibrations that a pair needs."""
        section = self.pair(pair)
        if section.registration is Registration.CAMERA_INFO:
            return Stream.RGB_INFO, Stream.X_INFO
        has_points = section.modality is Modality.DEPTH and section.x_form is XForm.RAW
        other_grid = self.output.small_width or self.output.size is not OutputSize.INPUT
        if has_points or other_grid:
            return (Stream.RGB_INFO,)
        return ()

    def topics(self, pair: str, stream: Stream) -> dict[str, str]:
        """Relative topics by which an input may arrive, by transport, the preferred one first."""
        base = f"{pair}/{stream.value}"
        transports = self.pair(pair).transports(stream)
        return {one: transport_topic(base, one) for one in transports}

    def topic(self, pair: str, stream: Stream) -> str:
        """The preferred one of `topics`."""
        return next(iter(self.topics(pair, stream).values()))


def transport_topic(base: str, transport: str) -> str:
    """Topic of a transport, as image_transport names it; a base that names it is left alone."""
    suffix = "" if transport == "raw" else f"/{transport}"
    return base if suffix and base.endswith(suffix) else base + suffix


def named_transport(topic: str) -> str:
    """The transport that a topic's name ends in, raw for none."""
    ends = (one.value for one in XTransport if topic.endswith(f"/{one.value}"))
    return next(ends, XTransport.RAW.value)


@cache
def node_config_type(pairs: tuple[str, ...], fused: tuple[str, ...] = ()) -> type[NodeConfig]:
    """The tree's type for these pairs: `NodeConfig` with one section per pair.

    Args:
        pairs: their names.
        fused: names of fused masks.

    Raises:
        ConfigError: when a name is no name, is taken by another section, or stands twice.
    """
    if not 1 <= len(pairs) <= MAX_PAIRS:
        raise ConfigError(f"pairs: {len(pairs)} names; allowed are 1 to {MAX_PAIRS}")
    for name in pairs:
        if not _PAIR_NAME.fullmatch(name):
            raise ConfigError(
                f"pairs: '{shortened(name)}' is no name; use a-z, 0-9 and _, starting with a "
                "letter"
            )
        if hasattr(NodeConfig, name) or name in NodeConfig.model_fields or is_foreign(f"{name}."):
            raise ConfigError(
                f"pairs: '{name}' is taken by a section of that name; choose another"
            )
        if pairs.count(name) > 1:
            raise ConfigError(f"pairs: '{name}' stands twice")
    sections: dict[str, Any] = {name: (_pair_type(name), ...) for name in pairs}
    if fused:
        sections["fuse"] = (_fuse_type(pairs, fused), ...)
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
    tree = nested(data, place)
    pairs = tree.get("pairs", NodeConfig.model_fields["pairs"].default)
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(name, str) for name in pairs):
        raise ConfigError(f"{place}pairs: {shortened(repr(pairs))} is no list of names")
    fuse = tree.get("fuse", {})
    names = [name for name in fuse if name not in FuseConfig.model_fields]
    try:
        kind = node_config_type(tuple(pairs), tuple(sorted(names)))
    except ConfigError as error:
        raise ConfigError(f"{place}{error}") from None
    for name in pairs:
        tree.setdefault(name, {})
    return from_mapping(kind, tree, where)


def read_node_yaml(
    path: Path | str, overrides: Mapping[str, Any] | None = None, namespace: str | None = None
) -> NodeConfig:
    """Reads a ROS parameter file as the node would.

    Args:
        path: YAML with `/**`, or the node's name, above `ros__parameters`.
        overrides: dotted names that win over the file.
        namespace: of the node; None where the file speaks of one at most.

    Raises:
        ConfigError: when no section fits the node or it is open which one is meant, or an option
            is wrong.
    """
    file = read_parameter_file(path)
    if namespace is None:
        space = file.namespace(NODE_NAME)
    else:
        space = f"/{namespace.strip('/')}" if namespace.strip("/") else ""
    values = file.values(space, NODE_NAME)
    if values is None:
        where = f" in namespace '{space}'" if space else ""
        raise ConfigError(
            f"{path}: nothing in it is for '{NODE_NAME}'{where}; put 'ros__parameters' under "
            f"'/**' or '{NODE_NAME}'"
        )
    return node_config({**values, **(overrides or {})}, where=str(path))


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


def nested(data: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Nested values from nested or dotted ones, without the parameters of rclpy.

    Args:
        data: values by name.
        place: put before every message.

    Raises:
        ConfigError: when a name is an option and a section at once.
    """
    tree: dict[str, Any] = {}
    for name, value in flatten(data).items():
        if is_foreign(name):
            continue
        *parents, last = name.split(".")
        level = tree
        for part in parents:
            level = level.setdefault(part, {})
            if not isinstance(level, dict):
                raise ConfigError(f"{place}{name}: '{part}' is itself an option, with none below")
        level[last] = value
    return tree


def is_foreign(name: str) -> bool:
    """True for parameters that rclpy declares itself, such as `use_sim_time`."""
    return name.split(".", 1)[0] in _FOREIGN


def _fuse_type(pairs: tuple[str, ...], fused: tuple[str, ...]) -> type[FuseConfig]:
    for name in fused:
        if not _PAIR_NAME.fullmatch(name) or hasattr(FuseConfig, name):
            raise ConfigError(
                f"fuse.{shortened(name)}: is no name of a fused mask; use a-z, 0-9 and _, "
                "starting with a letter"
            )
        if name in pairs:
            raise ConfigError(f"fuse.{name}: is the name of a pair; choose another")
    fields: dict[str, Any] = {name: (tuple[str, ...], option(doc=FUSED_DOC)) for name in fused}
    return create_model("FuseConfig", __base__=FuseConfig, **fields)


@cache
def _pair_type(name: str) -> type[PairConfig]:
    """A pair named after one of the paper's modalities need not repeat it."""
    if name not in MODALITIES:
        return PairConfig
    doc = PairConfig.model_fields["modality"].description or ""
    field: Any = (Modality, option(Modality(name), doc=doc))
    return create_model("PairConfig", __base__=PairConfig, modality=field)
