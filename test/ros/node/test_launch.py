"""Structure of the launch files, with stand-ins for launch and launch_ros."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml

from segrgbx_core.base.modality import MODALITIES
from segrgbx_ros.config.node import node_config, read_node_yaml

ROOT = Path(__file__).resolve().parents[3]
LAUNCH = ROOT / "launch"


def record(kind):
    """A class that only remembers how it was called."""
    return lambda *args, **kwargs: SimpleNamespace(kind=kind, args=args, **kwargs)


def install(monkeypatch, packages):
    """Makes these ROS packages the installed ones."""

    def prefix(name):
        if name not in packages:
            raise KeyError(f"package '{name}' not found")
        return "/opt/ros"

    index = ModuleType("ament_index_python.packages")
    index.get_package_prefix = prefix
    monkeypatch.setitem(sys.modules, "ament_index_python", ModuleType("ament_index_python"))
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", index)


@pytest.fixture
def stand_ins(monkeypatch):
    for variable in ("RMW_IMPLEMENTATION", "FASTDDS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(variable, raising=False)
    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument",
            "ExecuteProcess",
            "IncludeLaunchDescription",
            "LogInfo",
            "OpaqueFunction",
            "RegisterEventHandler",
            "SetEnvironmentVariable",
        ],
        "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
        "launch.substitutions": [],
        "launch_ros": [],
        "launch_ros.actions": ["LifecycleNode", "Node"],
        "launch_ros.event_handlers": ["OnStateTransition"],
    }
    for name, kinds in names.items():
        module = ModuleType(name)
        for kind in kinds:
            setattr(module, kind, record(kind))
        monkeypatch.setitem(sys.modules, name, module)
    install(monkeypatch, {"rviz2"})
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr("sys.argv", ["ros2", "launch", "segrgbx_ros", "segrgbx.launch.py"])
    sys.modules["launch.substitutions"].LaunchConfiguration = lambda name: SimpleNamespace(
        perform=lambda context: context[name]
    )


def described(name):
    path = LAUNCH / name
    spec = importlib.util.spec_from_file_location("launch_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description().args[0]


def actions(**given):
    """What the main file starts with these arguments."""
    entities = described("segrgbx.launch.py")
    declared = {e.args[0]: e.default_value for e in entities if e.kind == "DeclareLaunchArgument"}
    assert set(given) <= set(declared)
    (opaque,) = [entity for entity in entities if entity.kind == "OpaqueFunction"]
    return opaque.function({**declared, **given})


def only(found, kind, package=None):
    (one,) = [
        action
        for action in found
        if action.kind == kind and (package is None or action.package == package)
    ]
    return one


def played(found):
    """What plays the recording, and what it waits for."""
    (handler,) = only(found, "RegisterEventHandler").args
    (play,) = handler.entities
    return play.cmd, handler


def test_by_default_one_node_with_the_shipped_parameters(stand_ins):
    found = actions()
    assert [action.kind for action in found] == ["SetEnvironmentVariable", "LifecycleNode"]
    node = only(found, "LifecycleNode")
    assert (node.package, node.name, node.namespace) == ("segrgbx_ros", "segrgbx", "segrgbx")
    assert (ROOT / "resource" / "lib" / node.executable).is_file()
    assert node.parameters == [str(ROOT / "config" / "thermal.yaml"), {}]
    assert node.remappings == []


def test_topic_arguments_become_remappings(stand_ins):
    node = only(
        actions(pair="depth", rgb_topic="/cam/color", x_topic="/cam/depth"), "LifecycleNode"
    )
    assert node.remappings == [("depth/rgb/image", "/cam/color"), ("depth/x/image", "/cam/depth")]


def test_other_arguments_become_parameters_that_the_node_knows(stand_ins):
    given = {
        "rgb_transport": "compressed",
        "x_transport": "compressed",
        "checkpoint": "a.safetensors",
        "device": "cpu",
        "precision": "bf16",
        "label_space": "mfnet",
        "on_missing_x": "rgb_only",
        "input_reliability": "reliable",
        "use_sim_time": "true",
        "autostart": "False",
    }
    _, parameters = only(actions(**given), "LifecycleNode").parameters
    assert parameters.pop("use_sim_time") is True
    config = node_config(parameters)
    assert config.autostart is False
    assert config.model.checkpoint == "a.safetensors"
    assert config.label_space("thermal") == "mfnet"
    assert len(parameters) == len(given) - 1


def test_a_recording_brings_its_clock(stand_ins):
    found = actions(bag="/data/drive")
    cmd, handler = played(found)
    assert cmd == ["ros2", "bag", "play", "/data/drive", "--clock"]
    assert handler.target_lifecycle_node is only(found, "LifecycleNode")
    assert (handler.goal_state, handler.handle_once) == ("active", True)
    assert only(found, "LifecycleNode").parameters[1] == {"use_sim_time": True}


def test_rviz_is_remapped_to_the_pair(stand_ins):
    rviz = only(actions(rviz="true", pair="event", rgb_topic="/cam"), "Node", "rviz2")
    remappings = dict(rviz.remappings)
    assert remappings["/segrgbx/thermal/overlay"] == "/segrgbx/event/overlay"
    assert remappings["/segrgbx/thermal/rgb/image"] == "/cam"
    assert Path(rviz.arguments[1]).name == "segrgbx.rviz"
    assert Path(rviz.arguments[1]).is_file()
    assert "-f" not in rviz.arguments


def test_without_rviz_the_rest_starts_and_says_so(stand_ins, monkeypatch):
    install(monkeypatch, set())
    found = actions(rviz="true", bag="/data/drive")
    kinds = [action.kind for action in found]
    assert kinds == ["SetEnvironmentVariable", "RegisterEventHandler", "LogInfo", "LifecycleNode"]
    assert "'rviz2' is not installed; going on without it" in only(found, "LogInfo").msg


def test_without_an_index_of_packages_there_is_no_rviz(stand_ins, monkeypatch):
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", None)
    assert "LogInfo" in [action.kind for action in actions(rviz="true")]


def test_nothing_starts_where_a_recording_cannot_be_played(stand_ins, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(RuntimeError, match="'ros2' is not found, which plays it"):
        actions(bag="/data/drive")


def test_rviz_shows_the_cloud_of_a_depth_pair_in_the_frame_asked_for(stand_ins):
    given = {"rviz": "true", "pair": "depth", "namespace": "car", "fixed_frame": "odom"}
    rviz = only(actions(**given), "Node", "rviz2")
    assert Path(rviz.arguments[1]) == ROOT / "config" / "depth_cloud.rviz"
    assert rviz.arguments[2:] == ["-f", "odom"]
    assert dict(rviz.remappings)["/segrgbx/depth/points"] == "/car/depth/points"
    mine = only(actions(**given, rviz_config="/mine.rviz"), "Node", "rviz2")
    assert mine.arguments[1] == "/mine.rviz"
    assert dict(mine.remappings)["/segrgbx/thermal/overlay"] == "/car/depth/overlay"


@pytest.mark.parametrize(
    ("environment", "arguments", "is_set"),
    [
        ({}, {}, True),
        ({"RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}, {}, True),
        ({"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}, {}, False),
        ({"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"}, {}, False),
        ({}, {"fastdds_profile": ""}, False),
    ],
)
def test_the_profile_is_set_where_it_helps(stand_ins, monkeypatch, environment, arguments, is_set):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = [a for a in actions(**arguments) if a.kind == "SetEnvironmentVariable"]
    assert bool(found) == is_set
    if is_set:
        name, path = found[0].args
        assert name == "FASTDDS_DEFAULT_PROFILES_FILE"
        assert Path(path).is_file()
        assert name not in os.environ, "set for the children, not for launch itself"


def test_several_pairs_take_lists_or_one_value_for_all(stand_ins):
    node = only(
        actions(
            pair="thermal,depth",
            rgb_topic="/cam",
            x_topic="/t,/d",
            x_transport="compressed",
            label_space="mfnet,nyu40",
        ),
        "LifecycleNode",
    )
    file, parameters = node.parameters
    assert Path(file).name == "multi.yaml"
    config = read_node_yaml(file, parameters)
    assert config.pairs == ("thermal", "depth")
    assert [config.label_space(pair) for pair in config.pairs] == ["mfnet", "nyu40"]
    assert [section.x_transport.value for _, section in config.sections()] == ["compressed"] * 2
    assert node.remappings == [
        ("thermal/rgb/image", "/cam"),
        ("depth/rgb/image", "/cam"),
        ("thermal/x/image", "/t"),
        ("depth/x/image", "/d"),
    ]
    with pytest.raises(RuntimeError, match="x_topic: 3 values for 2 pairs"):
        actions(pair="thermal,depth", x_topic="/a,/b,/c")


def test_several_modalities_have_a_wrapper_too(stand_ins):
    pair, _ = described("multi.launch.py")
    assert (
        tuple(pair.default_value.split(","))
        == read_node_yaml(ROOT / "config" / "multi.yaml").pairs
    )


def test_a_replay_plays_the_shipped_recording_unless_another_is_named(stand_ins):
    bag, rviz, include = described("bag_replay.launch.py")
    assert (bag.args, bag.default_value) == (("bag",), "demo")
    found = actions(bag=bag.default_value)
    assert played(found)[0][3] == str(ROOT / "resource" / "demo" / "thermal")
    node = only(found, "LifecycleNode")
    assert Path(node.parameters[1]["model.checkpoint"]).is_file()
    assert node.remappings == [
        ("thermal/rgb/image", "/thermal/rgb/image"),
        ("thermal/x/image", "/thermal/x/image"),
    ]
    with pytest.raises(RuntimeError, match="holds the pair 'thermal', not 'depth'"):
        actions(bag="demo", pair="depth")
    assert (rviz.args, rviz.default_value) == (("rviz",), "true")
    assert Path(include.args[0].args[0]) == LAUNCH / "segrgbx.launch.py"


@pytest.mark.parametrize("name", [*map(str, MODALITIES), "lidar"])
def test_each_modality_has_a_thin_wrapper(stand_ins, name):
    pair, include = described(f"{name}.launch.py")
    assert include.kind == "IncludeLaunchDescription"
    assert (pair.args, pair.default_value, pair.choices) == (("pair",), name, [name])
    assert Path(include.args[0].args[0]) == LAUNCH / "segrgbx.launch.py"
    assert len((LAUNCH / f"{name}.launch.py").read_text().splitlines()) < 20


def test_a_parameter_file_that_is_missing_is_named(stand_ins):
    with pytest.raises(RuntimeError, match=r"params_file: '/nowhere\.yaml' does not exist"):
        actions(params_file="/nowhere.yaml")


@pytest.mark.parametrize(
    ("before", "given", "complaint"),
    [
        (
            ["segrgbx_ros", "thermal.launch.py"],
            "x_topics:=/a",
            "'x_topics', did you mean 'x_topic'",
        ),
        ([str(LAUNCH / "segrgbx.launch.py")], "zzz:=1", "'zzz'; --show-args lists all"),
        (["their_pkg", "thermal.launch.py"], "x_topics:=/a", None),
        (["their_pkg", "all.launch.py"], "zzz:=1", None),
        (["segrgbx_ros", "depth.launch.py"], "x_topic:=a:=b", None),
    ],
)
def test_misspelt_arguments_are_refused(stand_ins, monkeypatch, before, given, complaint):
    monkeypatch.setattr("sys.argv", ["/opt/ros/bin/ros2", "launch", *before, given])
    if complaint is None:
        assert actions()
        return
    with pytest.raises(RuntimeError, match=f"unknown argument {complaint}"):
        actions()


def test_rviz_shows_rgb_by_the_transport_that_is_set(stand_ins):
    def shown(**given):
        found = only(actions(rviz="true", **given), "Node", "rviz2")
        view = yaml.safe_load(Path(found.arguments[1]).read_text())["Visualization Manager"]
        return found, [item["Topic"]["Value"] for item in view["Displays"] if "Topic" in item]

    demo, topics = shown(bag="demo")
    assert "/thermal/rgb/image/compressed" in topics
    assert demo.arguments[2:] == ["-f", "thermal_rgb_optical_frame"]
    _, topics = shown(rgb_topic="/cam", rgb_transport="compressed", pair="event")
    assert "/cam/compressed" in topics
    _, topics = shown(rgb_topic="/cam")
    assert "/segrgbx/thermal/rgb/image" in topics, "remapped"


def test_every_argument_is_described(stand_ins):
    declared = [e for e in described("segrgbx.launch.py") if e.kind == "DeclareLaunchArgument"]
    assert all(argument.description for argument in declared)
