"""Finds a node's topics in a recording: the same names, namespaces and remaps as live."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from segrgbx_core.bags.message_types import CAMERA_INFO, COMPRESSED_IMAGE, EVENT_PACKET, IMAGE
from segrgbx_core.base.errors import ConfigError, DataError, did_you_mean
from segrgbx_core.sync.aligner import OnMissingX
from segrgbx_ros.config.node import ANGLES, NodeConfig, Registration, Stream
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
    its transport. Both sides of a remap may name it with or without that suffix. Without a
    namespace the root is tried, then the one namespace under which the recording has all the
    inputs.

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
    prefix, notes = _namespace(bag, wanted.values(), namespace)
    inputs: dict[str, tuple[tuple[str, Stream], ...]] = {}
    for (pair, stream), name in wanted.items():
        topic = _absolute(prefix, name)
        if stream is not Stream.RGB and topic not in bag.topics and not _needs_x(config):
            notes.append(f"pair '{pair}': topic '{topic}' is not recorded; RGB goes alone")
            continue
        _check(bag, config, pair, stream, topic)
        inputs[topic] = (*inputs.get(topic, ()), (pair, stream))
    return Routes(prefix, inputs, tuple(notes))


def recorded_transports(bag: Bag, config: NodeConfig, pair: str) -> dict[str, str]:
    """Options that make a pair's transports those of the recording, by dotted name.

    Args:
        bag: open recording.
        config: node options.
        pair: name of the pair.

    Returns:
        options for the inputs that are recorded under another transport than configured.
    """
    transports = {}
    for stream in config.streams(pair).values():
        if stream is Stream.EVENTS:
            continue
        if any(name.endswith(f"/{config.topic(pair, stream)}") for name in bag.topics):
            continue
        base = f"/{pair}/{stream.value}"
        for transport in _TRANSPORTS[stream]:
            full = base if transport == "raw" else f"{base}/{transport}"
            if any(name.endswith(full) for name in bag.topics):
                transports[f"{pair}.{_FIELDS[stream]}"] = transport
                break
    return transports


def _infos(
    config: NodeConfig, pair: str, also: Collection[tuple[str, Stream]]
) -> tuple[Stream, ...]:
    """Calibrations without which X cannot be registered, and those that are asked for."""
    if config.pair(pair).registration is Registration.CAMERA_INFO:
        return config.info_streams(pair)
    return tuple(stream for name, stream in also if name == pair)


def _needs_x(config: NodeConfig) -> bool:
    return config.sync.on_missing_x is not OnMissingX.RGB_ONLY


def _remapped(config: NodeConfig, pair: str, stream: Stream, unused: dict[str, str]) -> str:
    """The name after remapping; takes the remap that fits out of `unused`."""
    full = config.topic(pair, stream)
    base = f"{pair}/{stream.value}"
    for source in (full, f"/{full}"):
        if source in unused:
            return unused.pop(source)
    for source in (base, f"/{base}"):
        if source in unused:
            target, suffix = unused.pop(source), full.removeprefix(base)
            return target if target.endswith(suffix) else target + suffix
    return full


def _absolute(namespace: str, name: str) -> str:
    return name if name.startswith("/") else f"{namespace}/{name}"


def _namespace(bag: Bag, names: Iterable[str], namespace: str | None) -> tuple[str, list[str]]:
    """The namespace, and a note when it was found rather than given."""
    if namespace is not None:
        return f"/{namespace.strip('/')}" if namespace.strip("/") else "", []
    relative = [name for name in names if not name.startswith("/")]
    if not relative or f"/{relative[0]}" in bag.topics:
        return "", []
    namespaces = {
        topic.removesuffix(f"/{relative[0]}")
        for topic in bag.topics
        if topic.endswith(f"/{relative[0]}")
    }
    fitting = [
        one
        for one in sorted(namespaces)
        if all(f"{one}/{name}" in bag.topics for name in relative)
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
    kinds = [IMAGE] if transport == "raw" else [COMPRESSED_IMAGE]
    if topic in bag.topics:
        bag.require(topic, kinds, hint=f"set {pair}.{field} to fit")
        return
    base = topic if transport == "raw" else topic.removesuffix(f"/{transport}")
    for other in _TRANSPORTS[stream]:
        name = base if other == "raw" else f"{base}/{other}"
        if name in bag.topics:
            raise DataError(
                f"{bag.path}: no topic '{topic}' ({pair}.{field}: {transport}), but '{name}' is "
                f"recorded; use --set {pair}.{field}={other}"
            )
    bag.require(topic, kinds, hint="name it with --remap or --namespace")
