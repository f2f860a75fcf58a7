"""Starts the node for one pair (or all pairs of a parameter file); RViz and a bag on request."""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    SetEnvironmentVariable,
)
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = Path(__file__).resolve().parents[1] / "config"
PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"

# name: (default, description, parameter it sets unless empty; {pair} stands for the pair's name)
ARGUMENTS = {
    "pair": ("thermal", "pair that the topic and transport arguments belong to", ""),
    "namespace": ("segrgbx", "namespace of node and topics", ""),
    "params_file": ("", "parameter file; empty: config/<pair>.yaml", ""),
    "rgb_topic": ("", "topic of the RGB image, without transport suffix", ""),
    "x_topic": ("", "topic of the X image, without transport suffix", ""),
    "events_topic": ("", "topic of the event stream", ""),
    "rgb_transport": ("", "raw or compressed", "{pair}.rgb_transport"),
    "x_transport": ("", "raw, compressed or compressedDepth", "{pair}.x_transport"),
    "checkpoint": ("", "path of the checkpoint", "model.checkpoint"),
    "device": ("", "auto, cpu, cuda or cuda:N", "model.device"),
    "precision": ("", "auto, fp32, fp16 or bf16", "model.precision"),
    "label_space": ("", "unified or a data set's own", "label.space"),
    "on_missing_x": ("", "drop, rgb_only or hold_last", "sync.on_missing_x"),
    "input_reliability": ("", "best_effort or reliable", "qos.input_reliability"),
    "use_sim_time": ("", "true to follow /clock; a bag sets it", "use_sim_time"),
    "autostart": ("", "false where a lifecycle manager configures and activates", "autostart"),
    "log_level": ("info", "debug, info, warn, error or fatal", ""),
    "rviz": ("false", "true to open RViz", ""),
    "rviz_config": (str(CONFIG / "segrgbx.rviz"), "what RViz shows", ""),
    "bag": ("", "recording to play with its clock", ""),
    "fastdds_profile": (
        str(CONFIG / "fastdds_large_images.xml"),
        "Fast DDS profile, taken unless the environment names one; empty: none",
        "",
    ),
}
FLAGS = {"true": True, "false": False}


def generate_launch_description():
    """All arguments, then what follows from their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text, _) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=_actions)])


def _actions(context):
    value = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    pair = value["pair"]
    if value["bag"] and not value["use_sim_time"]:
        value["use_sim_time"] = "true"
    parameters = {
        parameter.format(pair=pair): FLAGS.get(value[name].lower(), value[name])
        for name, (_, _, parameter) in ARGUMENTS.items()
        if parameter and value[name]
    }
    inputs = {
        "rgb/image": value["rgb_topic"],
        "x/image": value["x_topic"],
        "x/events": value["events_topic"],
    }
    actions = [
        Node(
            package="segrgbx_ros",
            executable="segrgbx_node",
            name="segrgbx",
            namespace=value["namespace"],
            parameters=[value["params_file"] or str(CONFIG / f"{pair}.yaml"), parameters],
            remappings=[(f"{pair}/{name}", topic) for name, topic in inputs.items() if topic],
            arguments=["--ros-args", "--log-level", value["log_level"]],
            output="screen",
        )
    ]
    if value["rviz"].lower() == "true":
        actions.append(_rviz(value, inputs))
    if value["bag"]:
        play = ["ros2", "bag", "play", value["bag"], "--clock"]
        actions.append(ExecuteProcess(cmd=play, output="screen"))
    if value["fastdds_profile"] and _uses_fastdds() and not os.environ.get(PROFILE_VARIABLE):
        actions.insert(0, SetEnvironmentVariable(PROFILE_VARIABLE, value["fastdds_profile"]))
    return actions


def _rviz(value, inputs):
    """RViz's file names the topics of one pair; remapping shows any other."""
    home = f"/{value['namespace']}/{value['pair']}".replace("//", "/")
    remappings = {
        f"/segrgbx/thermal/{name}": f"{home}/{name}"
        for name in ("overlay", "mask_color", "confidence", "x/preview", "rgb/image")
    }
    if inputs["rgb/image"]:
        remappings["/segrgbx/thermal/rgb/image"] = inputs["rgb/image"]
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", value["rviz_config"]],
        remappings=list(remappings.items()),
        output="screen",
    )


def _uses_fastdds():
    return os.environ.get("RMW_IMPLEMENTATION", "") in ("", "rmw_fastrtps_cpp")
