"""segrgbx.launch.py with a recording and RViz; takes the same arguments, `bag` is required."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

MAIN = str(Path(__file__).resolve().with_name("segrgbx.launch.py"))


def generate_launch_description():
    """The main file, once it has a recording to play."""
    bag = DeclareLaunchArgument("bag", description="recording to play with its clock")
    rviz = DeclareLaunchArgument("rviz", default_value="true", description="false without RViz")
    main = IncludeLaunchDescription(PythonLaunchDescriptionSource(MAIN))
    return LaunchDescription([bag, rviz, main])
