"""segrgbx.launch.py for RGB with thermal, depth and polarization; takes the same arguments."""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

MAIN = str(Path(__file__).resolve().with_name("segrgbx.launch.py"))


def generate_launch_description():
    """The main file with these pairs."""
    arguments = {"pair": "thermal,depth,polarization"}.items()
    source = PythonLaunchDescriptionSource(MAIN)
    main = IncludeLaunchDescription(source, launch_arguments=arguments)
    return LaunchDescription([main])
