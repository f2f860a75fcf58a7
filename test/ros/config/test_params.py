"""Options as ROS parameters: descriptors, round trip, refusals; and the same from YAML."""

import math

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed")
pytestmark = pytest.mark.ros

from rclpy.context import Context  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from segrgbx_core.base.config import leaves, to_plain  # noqa: E402
from segrgbx_core.base.errors import ConfigError  # noqa: E402
from segrgbx_ros.config.node import (  # noqa: E402
    NodeConfig,
    Stream,
    flatten,
    node_config,
    read_node_yaml,
)
from segrgbx_ros.node import parameters as params  # noqa: E402


@pytest.fixture(scope="module")
def context():
    context = Context()
    rclpy.init(context=context, domain_id=102)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def node_with(context):
    nodes = []

    def make(**values):
        nodes.append(
            rclpy.create_node(
                "segrgbx",
                context=context,
                automatically_declare_parameters_from_overrides=True,
                parameter_overrides=[
                    Parameter(name, value=value) for name, value in values.items()
                ],
            )
        )
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()


def test_every_option_is_declared_with_its_value_and_meaning(node_with):
    given = {"pairs": ["thermal", "front"], "front.modality": "depth", "sync.wait_ms": 25.0}
    node = node_with(**given)
    config = params.read_overrides(node)
    params.declare(node, config)
    for name, value in flatten(to_plain(config)).items():
        declared = node.get_parameter(name).value
        assert (list(declared) if isinstance(value, list) else declared) == value, name
    for leaf in leaves(type(config)):
        described = node.describe_parameter(leaf.name)
        assert described.description, leaf.name
        assert leaf.unit in described.description
        assert described.read_only is not leaf.dynamic
    assert params.read_overrides(node) == config


def test_ranges_choices_and_units_are_shown(node_with):
    node = node_with()
    params.declare(node, params.read_overrides(node))
    wait = node.describe_parameter("sync.wait_ms")
    assert wait.description.endswith("[ms]")
    (span,) = wait.floating_point_range
    assert (span.from_value, span.to_value) == (0.0, 500.0)
    (span,) = node.describe_parameter("batch.max_size").integer_range
    assert (span.from_value, span.to_value) == (1, 16)
    missing = node.describe_parameter("sync.on_missing_x")
    assert missing.additional_constraints == "one of: drop, rgb_only, hold_last"


def test_integers_widen_where_a_number_is_meant(node_with):
    node = node_with(**{"sync.wait_ms": 25})
    config = params.read_overrides(node)
    params.declare(node, config)
    assert node.get_parameter("sync.wait_ms").value == 25.0


@pytest.mark.parametrize("name", ["diagnostics.max_latency_ms", "sensor.depth.fx"])
def test_infinite_numbers_are_refused_before_they_are_declared(node_with, name):
    with pytest.raises(ConfigError, match=f"'segrgbx': {name}: inf is not a finite number"):
        params.read_overrides(node_with(**{name: math.inf}))


def test_what_rclpy_declares_itself_is_left_alone(node_with):
    node = node_with(use_sim_time=True, **{"qos_overrides./thermal/mask.publisher.depth": 7})
    config = params.read_overrides(node)
    params.declare(node, config)
    assert node.get_parameter("use_sim_time").value is True
    assert params.changed(config, [Parameter("use_sim_time", value=False)]) == config


def test_unknown_names_are_refused_with_the_nearest(node_with):
    with pytest.raises(ConfigError, match=r"'segrgbx': unknown option 'sync.wait' \(did you mean"):
        params.read_overrides(node_with(**{"sync.wait": 3.0}))


def test_changes_are_judged_like_files():
    config = node_config({})
    changed = params.changed(config, [Parameter("thermal.x_offset_ms", value=3.0)])
    assert changed.pair("thermal").x_offset_ms == 3.0
    with pytest.raises(ConfigError, match="outside"):
        params.changed(config, [Parameter("thermal.x_offset_ms", value=1e9)])
    with pytest.raises(ConfigError, match="cannot change while the node runs"):
        params.changed(config, [Parameter("pairs", value=["depth"])])


@pytest.mark.parametrize(
    "text",
    [
        "/**:\n  ros__parameters:\n    sync: {wait_ms: 5}\n",
        "/**:\n  ros__parameters:\n    sync.wait_ms: 5.0\n",
        "segrgbx:\n  ros__parameters:\n    sync: {wait_ms: 5}\n    use_sim_time: true\n",
        "/car/segrgbx:\n  ros__parameters:\n    sync: {wait_ms: 5}\n",
        "car:\n  segrgbx:\n    ros__parameters:\n      sync: {wait_ms: 5}\n",
        "/**:\n  ros__parameters: {sync.wait_ms: 9}\n"
        "/segrgbx:\n  ros__parameters: {sync.wait_ms: 5}\n"
        "other:\n  ros__parameters: {nonsense: 1}\n",
    ],
)
def test_yaml_is_read_under_every_usual_wrapper(tmp_path, text):
    path = tmp_path / "some.yaml"
    path.write_text(text)
    assert read_node_yaml(path).sync.wait_ms == 5.0
    assert read_node_yaml(path, {"sync.wait_ms": 7}).sync.wait_ms == 7.0


def test_yaml_without_wrapper_or_with_a_typo_is_refused(tmp_path):
    path = tmp_path / "some.yaml"
    path.write_text("sync: {wait_ms: 5}\n")
    with pytest.raises(ConfigError, match="line 1: 'wait_ms' stands outside of ros__parameters"):
        read_node_yaml(path)
    path.write_text("/**:\n  ros__parameters:\n    snyc: {wait_ms: 5}\n")
    with pytest.raises(
        ConfigError, match=r"some.yaml: unknown option 'snyc' \(did you mean 'sync'"
    ):
        read_node_yaml(path)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"pairs": []}, "0 names; allowed are 1 to 8"),
        ({"pairs": ["Thermal"]}, "'Thermal' is no name"),
        ({"pairs": ["sync"], "sync.modality": "depth"}, "'sync' is taken"),
        ({"pairs": ["thermal", "thermal"]}, "stands twice"),
        ({"pairs": "thermal"}, "is no list of names"),
        ({"pairs": 10**4000}, r"pairs: .{,80} is no list of names"),
        ({"pairs": ["z" * 5000 + "-"]}, r"pairs: .{,90} is no name"),
        ({"pairs": ["front"]}, "'front.modality' is required"),
        ({"pairs": ["event"], "event": {"x_source": "image"}}, "set x_form: image"),
        ({"thermal": {"x_source": "events"}}, "raw X of modality event, not for thermal"),
        ({"pairs": ["event"], "event": {"x_source": "events", "x_form": "image"}}, "'image'"),
        ({"depth.x_offset_ms": 1.0}, "unknown option 'depth'"),
        ({"thermal.x_transport": "compressedDepth"}, "carries depth only"),
        ({"thermal.rgb_transport": "compressedDepth"}, "not one of auto, raw, compressed"),
        ({"thermal.homography": [math.nan, *[0.0] * 7, 1.0]}, "nan is not a finite number"),
        ({"thermal.extrinsics": [math.inf, *[0.0] * 5, 1.0]}, "inf is not a finite number"),
        ({"sensor.depth.fx": math.inf}, "sensor.depth.fx: inf is not a finite number"),
        (
            {"thermal": {"x_encoding": "mono16", "x_transport": "compressed"}},
            "thermal: x_encoding has no effect with x_transport 'compressed'",
        ),
        ({"pairs": ["event"], "event.x_encoding": "mono8"}, "x_encoding has no effect on events"),
        (
            {"model": {"backend": "onnx", "max_memory_mb": 900}},
            "max_memory_mb has no effect with backend onnx.*gpu_mem_limit",
        ),
        ({"model": {"backend": "aot", "max_memory_mb": 900}}, "no effect with backend aot"),
        ({"model.device": "gpu"}, "not one of auto, cpu, cuda"),
        ({"sync": 3, "sync.wait_ms": 3}, "'sync' is itself an option"),
    ],
)
def test_contradictions_are_refused(values, complaint):
    with pytest.raises(ConfigError, match=complaint):
        node_config(values)


def test_topics_follow_the_transport():
    config = node_config(
        {
            "pairs": ["depth"],
            "depth.rgb_transport": "compressed",
            "depth.x_transport": "compressedDepth",
        }
    )
    assert config.topic("depth", Stream.RGB) == "depth/rgb/image/compressed"
    assert config.topic("depth", Stream.X) == "depth/x/image/compressedDepth"
    assert node_config({}).topics("thermal", Stream.X) == {
        "raw": "thermal/x/image",
        "compressed": "thermal/x/image/compressed",
    }
    both = {"pairs": ["depth"], "depth.x_transport": "auto"}
    assert list(node_config(both).topics("depth", Stream.X)) == [
        "raw", "compressedDepth", "compressed",
    ]  # fmt: skip
    stated = node_config({"thermal.rgb_encoding": "bgr8"})
    assert list(stated.topics("thermal", Stream.RGB)) == ["raw"]


def test_no_option_is_named_like_a_parameter_of_rclpy():
    assert not [leaf.name for leaf in leaves(NodeConfig) if leaf.name.startswith("qos_overrides")]
