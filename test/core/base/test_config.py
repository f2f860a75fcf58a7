from enum import Enum
from pathlib import Path

import pytest
from pydantic import ValidationError

from segrgbx_core.base.config import Config, from_mapping, leaves, option, read_yaml, to_plain
from segrgbx_core.base.errors import ConfigError, SegrgbxError, did_you_mean


class Policy(str, Enum):
    NEAREST = "nearest"
    EXACT = "exact"


class Sync(Config):
    """A section."""

    policy: Policy = option(Policy.NEAREST, doc="Which stamps may pair.")
    max_dt_ms: float = option(50.0, doc="Largest distance.", unit="ms", low=0, high=1000)
    queue_size: int = option(30, doc="Messages kept.", low=2, high=500, dynamic=True)


class Model(Config):
    """Another section."""

    checkpoint: str = option(doc="Weights to load.")
    use_fp16: bool = option(False, doc="Half precision.")
    pattern: tuple[int, ...] = option((90, 45, 135, 0), doc="Order of polarizers.")
    threshold: float | None = option(None, doc="None for none.", low=0.0, high=1.0)


class Root(Config):
    """The tree."""

    name: str = option("segrgbx", doc="Name of the node.")
    sync: Sync = Sync()
    model: Model = option(doc="The model section.")
    extra: dict[str, Sync] = option({}, doc="Sections by name.")


MINIMAL = {"model": {"checkpoint": "a.safetensors"}}


def _refused(data, cls=Root, where=""):
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, data, where)
    return str(caught.value)


def test_defaults_fill_what_is_not_said():
    root = from_mapping(Root, MINIMAL)
    assert root.sync == Sync()
    assert root.model.pattern == (90, 45, 135, 0)


def test_nested_values_are_read():
    root = from_mapping(
        Root,
        {**MINIMAL, "sync": {"policy": "exact"}, "extra": {"front": {"queue_size": 3}}},
    )
    assert root.sync.policy is Policy.EXACT
    assert root.extra["front"].queue_size == 3


def test_unknown_option_suggests_the_nearest_beside_it():
    message = _refused({**MINIMAL, "sync": {"queue_sise": 3}}, where="node.yaml")
    assert message == "node.yaml: unknown option 'sync.queue_sise' (did you mean 'queue_size'?)"
    assert "did you mean 'model'" in _refused({"modl": {}, **MINIMAL})


def test_unknown_option_far_from_all_lists_what_is_known():
    message = _refused({"zzz": 1}, Sync)
    assert message == "unknown option 'zzz' (known: max_dt_ms, policy, queue_size)"


def test_missing_option_is_named():
    assert _refused({"model": {}}) == "option 'model.checkpoint' is required; set it"


def test_range_is_given_with_unit():
    message = _refused({**MINIMAL, "sync": {"max_dt_ms": -3.0}}, where="config/thermal.yaml")
    assert message == "config/thermal.yaml: sync.max_dt_ms: -3.0 ms is outside [0, 1000] ms"
    assert _refused({"queue_size": 501}, Sync) == "queue_size: 501 is outside [2, 500]"
    assert _refused({"queue_size": 1}, Sync).endswith("outside [2, 500]")


@pytest.mark.parametrize("value", [0, 1000, 0.0, 1000.0])
def test_ends_of_a_range_belong_to_it(value):
    assert from_mapping(Sync, {"max_dt_ms": value}).max_dt_ms == value


class Unbounded(Config):
    """Numbers without a range."""

    lowest: float = option(0.0, doc="Bounded on one side.", low=0)
    any: float = option(0.0, doc="Not bounded.")
    several: tuple[float, float] = option((0.0, 1.0), doc="Two numbers.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_numbers_are_finite(value):
    end = f": {value} is not a finite number"
    assert _refused({"max_dt_ms": value}, Sync) == f"max_dt_ms{end}"
    assert _refused({"lowest": value}, Unbounded) == f"lowest{end}"
    assert _refused({"any": value}, Unbounded, where="a.yaml") == f"a.yaml: any{end}"
    assert _refused({"several": [1.0, value]}, Unbounded) == f"several.1{end}"


def test_choices_are_listed():
    assert _refused({"policy": "nearst"}, Sync) == "policy: 'nearst' is not one of nearest, exact"


@pytest.mark.parametrize(
    ("cls", "data", "name"),
    [
        (Sync, {"queue_size": "3"}, "queue_size"),
        (Sync, {"queue_size": 3.5}, "queue_size"),
        (Sync, {"queue_size": True}, "queue_size"),
        (Sync, {"max_dt_ms": "50"}, "max_dt_ms"),
        (Sync, {"max_dt_ms": None}, "max_dt_ms"),
        (Model, {"checkpoint": 3}, "checkpoint"),
        (Model, {"checkpoint": "a", "use_fp16": 1}, "use_fp16"),
        (Model, {"checkpoint": "a", "use_fp16": "true"}, "use_fp16"),
        (Model, {"checkpoint": "a", "pattern": [90.5]}, "pattern"),
        (Root, {"model": 3}, "model"),
    ],
)
def test_types_are_strict(cls, data, name):
    assert name in _refused(data, cls)


def test_integers_widen_and_lists_become_tuples():
    assert from_mapping(Sync, {"max_dt_ms": 3}).max_dt_ms == 3.0
    assert from_mapping(Model, {"checkpoint": "a", "pattern": [0, 45]}).pattern == (0, 45)


def test_foreign_values_are_refused():
    message = _refused({"queue_size": object()}, Sync)
    assert message.startswith("value <object")
    assert "of type object is not a plain value" in message
    assert "object" in _refused([1, 2], Sync)


def test_defaults_are_checked_too():
    class Wrong(Config):
        """A default outside its range."""

        size: int = option(1, doc="Size.", low=2)

    with pytest.raises(ValidationError):
        Wrong()


def test_trees_are_frozen():
    with pytest.raises(ValidationError):
        Sync().queue_size = 3


@pytest.mark.parametrize(
    "root",
    [
        from_mapping(Root, MINIMAL),
        Root(model=Model(checkpoint="b", threshold=0.5), sync=Sync(policy=Policy.EXACT)),
        Root(model=Model(checkpoint="c"), extra={"front": Sync(max_dt_ms=1.25)}),
    ],
)
def test_round_trip(root):
    plain = to_plain(root)
    assert from_mapping(Root, plain) == root
    assert isinstance(plain["sync"]["policy"], str)
    assert type(plain["model"]["pattern"]) is list


def test_leaves_walk_the_tree_in_order():
    found = {leaf.name: leaf for leaf in leaves(Root)}
    assert list(found) == [
        "name",
        "sync.policy",
        "sync.max_dt_ms",
        "sync.queue_size",
        "model.checkpoint",
        "model.use_fp16",
        "model.pattern",
        "model.threshold",
    ]
    dt = found["sync.max_dt_ms"]
    assert (dt.default, dt.unit, dt.low, dt.high, dt.dynamic) == (50.0, "ms", 0, 1000, False)
    assert dt.doc == "Largest distance."
    assert found["sync.policy"].choices == ("nearest", "exact")
    assert found["sync.policy"].default == "nearest"
    assert found["sync.queue_size"].dynamic
    assert found["model.checkpoint"].required
    assert found["model.checkpoint"].default is None
    assert found["model.pattern"].default == [90, 45, 135, 0]
    assert found["model.threshold"].high == 1.0
    assert next(leaves(Sync, "front.")).name == "front.policy"


def test_yaml(tmp_path):
    path = tmp_path / "node.yaml"
    path.write_text("/**:\n  ros__parameters:\n    max_dt_ms: 20\n    policy: exact\n")
    assert read_yaml(Sync, path, ["/**", "ros__parameters"]) == Sync(
        policy=Policy.EXACT, max_dt_ms=20
    )
    path.write_text("")
    assert read_yaml(Sync, path) == Sync()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"max_dt_ms: -1", "node.yaml: max_dt_ms: -1 ms is outside"),
        (b"max_dt_ms: .inf", "node.yaml: max_dt_ms: inf is not a finite number"),
        (b"a: [1", "is not YAML"),
        (b"- 1\n- 2", "holds list; expected names with values"),
        (b"\xff\xfe\x00\x01", "is not YAML"),
    ],
)
def test_wrong_yaml_names_the_file(tmp_path, content, message):
    path = tmp_path / "node.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"node\.yaml") as caught:
        read_yaml(Sync, path)
    assert message in str(caught.value)


def test_missing_yaml_or_section_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read \(No such file"):
        read_yaml(Sync, tmp_path / "none.yaml")
    path = Path(tmp_path / "node.yaml")
    path.write_text("other: {}")
    with pytest.raises(ConfigError, match=r"section '/.*ros__parameters' is missing at"):
        read_yaml(Sync, path, ["/**", "ros__parameters"])


def test_did_you_mean():
    assert did_you_mean("modalty", ["modality", "model"]) == " (did you mean 'modality'?)"
    assert did_you_mean("x", []) == ""
    assert issubclass(ConfigError, SegrgbxError)
    assert issubclass(ConfigError, ValueError)


def test_a_tree_without_end_is_refused():
    tree = {}
    for _ in range(100_000):
        tree = {"a": tree}
    with pytest.raises(ConfigError, match="more levels than can be read"):
        from_mapping(Sync, tree)
