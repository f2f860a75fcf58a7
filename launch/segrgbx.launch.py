"""Starts the node for one pair or several; RViz and a recording on request.

Several pairs are named with commas, `pair:=thermal,depth`; topics and transports then stand in the
same order, `x_topic:=/thermal/image,/depth/image`, or once for all, `rgb_topic:=/camera/image`.
"""

import os
import shutil
import sys
import tempfile
from difflib import get_close_matches
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition

HOME = Path(__file__).resolve().parents[1]
CONFIG = HOME / "config"
DEMO = HOME / "resource" / "demo"
PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"

# name: (default, description, parameter it sets unless empty; {pair} stands for the pair's name)
ARGUMENTS = {
    "pair": ("thermal", "pair that topics and transports belong to; several with commas", ""),
    "namespace": ("segrgbx", "namespace of node and topics", ""),
    "params_file": ("", "parameter file; empty: config/<pair>.yaml, or multi.yaml", ""),
    "rgb_topic": ("", "topic of the RGB image, without transport suffix", ""),
    "x_topic": ("", "topic of the X image, without transport suffix", ""),
    "events_topic": ("", "topic of the event stream", ""),
    "rgb_camera_info_topic": ("", "CameraInfo of RGB, for registration and points", ""),
    "x_camera_info_topic": ("", "CameraInfo of X, for registration", ""),
    "rgb_transport": ("", "auto (what arrives), raw or compressed", "{pair}.rgb_transport"),
    "x_transport": (
        "",
        "auto (what arrives), raw, compressed or compressedDepth",
        "{pair}.x_transport",
    ),
    "checkpoint": ("", "path of the checkpoint", "model.checkpoint"),
    "device": ("", "auto, cpu, cuda or cuda:N", "model.device"),
    "precision": ("", "auto, fp32, fp16 or bf16", "model.precision"),
    "label_space": ("", "unified or a data set's own", "{pair}.label_space"),
    "on_missing_x": ("", "drop, rgb_only or hold_last", "sync.on_missing_x"),
    "input_reliability": ("", "best_effort, reliable or auto", "qos.input_reliability"),
    "use_sim_time": ("", "true to follow /clock; a bag sets it", "use_sim_time"),
    "autostart": ("", "false where a lifecycle manager configures and activates", "autostart"),
    "log_level": ("info", "debug, info, warn, error or fatal", ""),
    "rviz": ("false", "true to open RViz", ""),
    "rviz_config": ("", "what RViz shows; empty: images, for pair:=depth its cloud too", ""),
    "fixed_frame": (
        "",
        "RViz's fixed frame: that of RGB's header where TF has no other; empty: the demo's, else "
        "that of rviz_config",
        "",
    ),
    "bag": ("", "recording to play with its clock; demo: the shipped one and its weights", ""),
    "fastdds_profile": (
        str(CONFIG / "fastdds_large_images.xml"),
        "Fast DDS profile, taken unless the environment names one; empty: none",
        "",
    ),
}
INPUTS = {
    "rgb/image": "rgb_topic",
    "x/image": "x_topic",
    "x/events": "events_topic",
    "rgb/camera_info": "rgb_camera_info_topic",
    "x/camera_info": "x_camera_info_topic",
}
VIEWS = {"thermal": "segrgbx.rviz", "depth": "depth_cloud.rviz"}
NO_RVIZ = "rviz:=true, but the package 'rviz2' is not installed"
FLAGS = {"true": True, "false": False}


def generate_launch_description():
    """All arguments, then what follows from their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text, _) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_actions)])


def _actions(context):
    _check_names(sys.argv)
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    pairs = value["pair"].split(",")
    if value["bag"] == "demo":
        _take_demo(value)
    if value["params_file"] and not Path(value["params_file"]).is_file():
        raise RuntimeError(f"params_file: '{value['params_file']}' does not exist")
    if value["bag"] and not value["use_sim_time"]:
        value["use_sim_time"] = "true"
    parameters = {"pairs": pairs} if len(pairs) > 1 and not value["params_file"] else {}
    for name, (_, _, parameter) in ARGUMENTS.items():
        for pair, text in zip(pairs, _for_each(name, value[name], pairs)):
            if parameter and text:
                parameters[parameter.format(pair=pair)] = FLAGS.get(text.lower(), text)
    remappings = [
        (f"{pair}/{name}", topic)
        for name, argument in INPUTS.items()
        for pair, topic in zip(pairs, _for_each(argument, value[argument], pairs))
        if topic
    ]
    file = pairs[0] if len(pairs) == 1 else "multi"
    node = LifecycleNode(
        package="segrgbx_ros",
        executable="segrgbx_node",
        name="segrgbx",
        namespace=value["namespace"],
        parameters=[value["params_file"] or str(CONFIG / f"{file}.yaml"), parameters],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", value["log_level"]],
        output="screen",
    )
    actions = [node]
    # A program that is missing ends launch at once, while the node that was started goes on.
    if value["rviz"].lower() == "true":
        if _has_rviz():
            actions.append(_rviz(value, pairs[0], dict(remappings)))
        else:
            actions.insert(0, LogInfo(msg=f"{NO_RVIZ}; going on without it"))
    if value["bag"]:
        if shutil.which("ros2") is None:
            raise RuntimeError("bag: 'ros2' is not found, which plays it; source the workspace")
        actions.insert(0, _play_once_active(node, value["bag"]))
    if value["fastdds_profile"] and _uses_fastdds() and not os.environ.get(PROFILE_VARIABLE):
        actions.insert(0, SetEnvironmentVariable(PROFILE_VARIABLE, value["fastdds_profile"]))
    return actions


def _take_demo(value):
    """The shipped recording, whose topics have no namespace, and the weights that fit it."""
    if value["pair"] != "thermal":
        raise RuntimeError(f"bag:=demo holds the pair 'thermal', not '{value['pair']}'")
    shipped = {
        "bag": str(DEMO / "thermal"),
        "checkpoint": value["checkpoint"] or str(DEMO / "segrgbx_tiny.safetensors"),
        "rgb_topic": value["rgb_topic"] or "/thermal/rgb/image",
        "x_topic": value["x_topic"] or "/thermal/x/image",
        "fixed_frame": value["fixed_frame"] or "thermal_rgb_optical_frame",
    }
    value.update(shipped)


def _play_once_active(node, bag):
    """Plays a recording as soon as the node listens, however long it takes to load its model."""
    play = ExecuteProcess(cmd=["ros2", "bag", "play", bag, "--clock"], output="screen")
    active = OnStateTransition(
        target_lifecycle_node=node, goal_state="active", entities=[play], handle_once=True
    )
    return RegisterEventHandler(active)


def _check_names(words):
    """Refuses arguments that there are not: launch itself takes any name and does nothing with it.

    Only where the command line starts a file of this package; whoever includes one may have
    arguments of their own.
    """
    files = [place for place, word in enumerate(words) if word.endswith(".launch.py")]
    if not files:
        return
    package, file = words[files[0] - 1], Path(words[files[0]])
    if package != "segrgbx_ros" and file.resolve().parent != Path(__file__).resolve().parent:
        return
    for name in (word.split(":=", 1)[0] for word in words[files[0] + 1 :] if ":=" in word):
        if name not in ARGUMENTS:
            near = "".join(
                f", did you mean '{one}'?" for one in get_close_matches(name, ARGUMENTS, 1)
            )
            raise RuntimeError(f"unknown argument '{name}'{near or '; --show-args lists all'}")


def _for_each(argument, text, pairs):
    """One value per pair: a single one holds for all."""
    values = text.split(",")
    if len(values) not in (1, len(pairs)):
        raise RuntimeError(
            f"{argument}: {len(values)} values for {len(pairs)} pairs ({', '.join(pairs)}); "
            "give one for all, or one for each"
        )
    return values * len(pairs) if len(values) == 1 else values


def _rviz(value, pair, remapped):
    """RViz's files name the topics of one pair; remapping shows the first one asked for."""
    home = f"/{value['namespace']}/{pair}".replace("//", "/")
    shown = "depth" if pair == "depth" and not value["rviz_config"] else "thermal"
    view = value["rviz_config"] or _view(shown, pair, value, remapped)
    names = ("overlay", "mask_color", "confidence", "x/preview", "rgb/image", "points")
    remappings = {f"/segrgbx/{shown}/{name}": f"{home}/{name}" for name in names}
    if f"{pair}/rgb/image" in remapped:
        remappings[f"/segrgbx/{shown}/rgb/image"] = remapped[f"{pair}/rgb/image"]
    frame = ["-f", value["fixed_frame"]] if value["fixed_frame"] else []
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", view, *frame],
        remappings=list(remappings.items()),
        output="screen",
    )


def _view(shown, pair, value, remapped):
    """The shipped file; where RGB travels compressed, a copy that shows it so."""
    file = CONFIG / VIEWS[shown]
    is_compressed = value["bag"] == str(DEMO / "thermal") or "compressed" in value["rgb_transport"]
    if not is_compressed:
        return str(file)
    home = f"/{value['namespace']}/{pair}".replace("//", "/")
    topic = remapped.get(f"{pair}/rgb/image", f"{home}/rgb/image")
    topic = topic if topic.endswith("/compressed") else f"{topic}/compressed"
    text = file.read_text(encoding="utf-8")
    copy = Path(tempfile.mkdtemp(prefix="segrgbx_")) / file.name
    copy.write_text(text.replace(f"/segrgbx/{shown}/rgb/image", topic), encoding="utf-8")
    return str(copy)


def _has_rviz():
    try:
        from ament_index_python.packages import get_package_prefix

        get_package_prefix("rviz2")
    except (ImportError, LookupError):  # PackageNotFoundError is a LookupError
        return False
    return True


def _uses_fastdds():
    return os.environ.get("RMW_IMPLEMENTATION", "") in ("", "rmw_fastrtps_cpp")
