"""segrgbx.launch.py with a recording, the shipped one by default, and RViz."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

MAIN = str(Path(__file__).resolve().with_name("segrgbx.launch.py"))


def generate_launch_description():
    """The main file with a recording to play."""
    bag = DeclareLaunchArgument("bag", default_value="demo", description="recording to play")
    rviz = DeclareLaunchArgument("rviz", default_value="true", description="false without RViz")
    main = IncludeLaunchDescription(PythonLaunchDescriptionSource(MAIN))
    return LaunchDescription([bag, rviz, main])
