"""segrgbx.launch.py for RGB with a LiDAR's range picture; takes the same arguments."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

MAIN = str(Path(__file__).resolve().with_name("segrgbx.launch.py"))


def generate_launch_description():
    """The main file with this pair."""
    pair = DeclareLaunchArgument(
        "pair", default_value="lidar", choices=["lidar"], description="fixed here"
    )
    main = IncludeLaunchDescription(PythonLaunchDescriptionSource(MAIN))
    return LaunchDescription([pair, main])
