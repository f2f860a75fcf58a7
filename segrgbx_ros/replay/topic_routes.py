"""Finds a node's topics in a recording: the same names, namespaces and remaps as live."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from segrgbx_core.bags.message_types import CAMERA_INFO, COMPRESSED_IMAGE, EVENT_PACKET, IMAGE
from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.sync.aligner import OnMissingX
from segrgbx_ros.config.node import (
    ANGLES,
    NodeConfig,
    Registration,
    Stream,
    named_transport,
    transport_topic,
)
from segrgbx_ros.messages.events.arrays import TYPES as ARRAY_TYPES
from segrgbx_ros.replay.bags import Bag

EVENT_TYPES = (EVENT_PACKET, *ARRAY_TYPES)
_TRANSPORTS = {
    Stream.RGB: ("raw", "compressed"),
    Stream.X: ("raw", "compressed", "compressedDepth"),
    **dict.fromkeys(ANGLES.values(), ("raw", "compressed")),
}
_FIELDS = {
    Stream.RGB: "rgb_transport",
    Stream.X: "x_transport",
    **dict.fromkeys(ANGLES.values(), "x_transport"),
}
_INFOS = (Stream.RGB_INFO, Stream.X_INFO)


@dataclass(frozen=True)
class Routes:
    """Which recorded topic feeds which input.

    Attributes:
        namespace: what stands before the node's relative names, `""` or `/a/b`.
        inputs: pair and stream by recorded topic; several pairs may share a topic.
        notes: choices made for the user.
    """

    namespace: str
    inputs: dict[str, tuple[tuple[str, Stream], ...]]
    notes: tuple[str, ...] = ()

    def topic(self, pair: str, stream: Stream) -> str:
        """Recorded topic of an input, empty when the recording lacks it."""
        return next((name for name, uses in self.inputs.items() if (pair, stream) in uses), "")


def parse_remaps(texts: Sequence[str]) -> dict[str, str]:
    """`["/a:=/b"]` as `{"/a": "/b"}`.

    Raises:
        ConfigError: for a text of another form.
    """
    remaps = {}
    for text in texts:
        source, mark, target = text.partition(":=")
        if not (source and mark and target):
            raise ConfigError(f"--remap: '{text}' has not the form from:=to")
        remaps[source] = target
    return remaps


def find_routes(
    bag: Bag,
    config: NodeConfig,
    pairs: Iterable[str],
    namespace: str | None = None,
    remaps: Mapping[str, str] | None = None,
    infos: Collection[tuple[str, Stream]] = (),
) -> Routes:
    """Resolves every input of the pairs.

    A relative name `thermal/rgb/image` becomes `<namespace>/thermal/rgb/image`, with the suffix of
    its transport; where that is auto, the preferred one of those that are recorded. Both sides of
    a remap may name it with or without that suffix. Without a namespace the root is tried, then
    the one namespace under which the recording has all the inputs.

    Args:
        bag: open recording.
        config: node options.
        pairs: names of the pairs to replay.
        namespace: fixed namespace, None to find it.
        remaps: recorded name by the node's name.
        infos: calibrations that are needed besides those of registration, pair and stream.

    Raises:
        ConfigError: when a remap fits no input.
        DataError: when a topic is missing or has the wrong type.
    """
    names = list(pairs)
    unused = dict(remaps or {})
    wanted = {
        (pair, stream): _remapped(config, pair, stream, unused)
        for pair in names
        for stream in (*config.streams(pair).values(), *_infos(config, pair, infos))
    }
    if unused:
        known = [config.topic(pair, stream) for pair, stream in wanted]
        first = next(iter(unused))
        raise ConfigError(f"--remap: '{first}' is no input{did_you_mean(first, known)}")
    prefix, notes = _namespace(bag, list(wanted.values()), namespace)
    inputs: dict[str, tuple[tuple[str, Stream], ...]] = {}
    for (pair, stream), candidates in wanted.items():
        topics = [_absolute(prefix, name) for name in candidates]
        topic = next((name for name in topics if name in bag.topics), topics[0])
        if stream is not Stream.RGB and topic not in bag.topics and not _needs_x(config):
            notes.append(f"pair '{pair}': topic '{topic}' is not recorded; RGB goes alone")
            continue
        _check(bag, config, pair, stream, topic)
        inputs[topic] = (*inputs.get(topic, ()), (pair, stream))
    return Routes(prefix, inputs, tuple(notes))


def _infos(
    config: NodeConfig, pair: str, also: Collection[tuple[str, Stream]]
) -> tuple[Stream, ...]:
    """Calibrations without which X cannot be registered, and those that are asked for."""
    if config.pair(pair).registration is Registration.CAMERA_INFO:
        return config.info_streams(pair)
    return tuple(stream for name, stream in also if name == pair)


def _needs_x(config: NodeConfig) -> bool:
    return config.sync.on_missing_x is not OnMissingX.RGB_ONLY


def _remapped(
    config: NodeConfig, pair: str, stream: Stream, unused: dict[str, str]
) -> tuple[str, ...]:
    """Names after remapping, the preferred first; takes the remap that fits out of `unused`."""
    topics = config.topics(pair, stream)
    for full in topics.values():
        for source in (full, f"/{full}"):
            if full != f"{pair}/{stream.value}" and source in unused:
                return (unused.pop(source),)
    base = f"{pair}/{stream.value}"
    for source in (base, f"/{base}"):
        if source in unused:
            target = unused.pop(source)
            if len(topics) > 1 and named_transport(target) != "raw":
                return (target,)
            return tuple(transport_topic(target, one) for one in topics)
    return tuple(topics.values())


def _absolute(namespace: str, name: str) -> str:
    return name if name.startswith("/") else f"{namespace}/{name}"


def _namespace(
    bag: Bag, wanted: Sequence[tuple[str, ...]], namespace: str | None
) -> tuple[str, list[str]]:
    """The namespace, and a note when it was found rather than given."""
    if namespace is not None:
        return f"/{namespace.strip('/')}" if namespace.strip("/") else "", []
    relative = [names for names in wanted if not names[0].startswith("/")]
    if not relative or any(f"/{name}" in bag.topics for name in relative[0]):
        return "", []
    namespaces = {
        topic.removesuffix(f"/{name}")
        for topic in bag.topics
        for name in relative[0]
        if topic.endswith(f"/{name}")
    }
    fitting = [
        one
        for one in sorted(namespaces)
        if all(any(f"{one}/{name}" in bag.topics for name in names) for names in relative)
    ]
    if len(fitting) == 1:
        return fitting[0], [f"namespace '{fitting[0]}' was found in the recording"]
    return "", []


def _check(bag: Bag, config: NodeConfig, pair: str, stream: Stream, topic: str) -> None:
    """Raises with the cure when the topic is missing or of another type than its transport."""
    if stream in _INFOS:
        bag.require(topic, [CAMERA_INFO], hint=f"name it with --remap, or set {pair}.registration")
        return
    if stream is Stream.EVENTS:
        hint = f"name it with --remap, or set {pair}.x_form=image for drawn pictures"
        bag.require(topic, EVENT_TYPES, hint=hint)
        return
    field = _FIELDS[stream]
    transport = str(getattr(config.pair(pair), field).value)
    kinds = {"auto": [IMAGE, COMPRESSED_IMAGE], "raw": [IMAGE]}.get(transport, [COMPRESSED_IMAGE])
    if topic in bag.topics:
        bag.require(topic, kinds, hint=f"set {pair}.{field} to fit")
        return
    base = topic.removesuffix(f"/{transport}")
    for other in _TRANSPORTS[stream]:
        name = base if other == "raw" else f"{base}/{other}"
        if name in bag.topics:
            raise DataError(
                f"{bag.path}: no topic '{topic}' ({pair}.{field}: {transport}), but '{name}' is "
                f"recorded; use --set {pair}.{field}={other}"
            )
    bag.require(topic, kinds, hint="name it with --remap or --namespace")
