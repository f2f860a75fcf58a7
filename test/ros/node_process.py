"""The node as a child process, its output read as it comes; shared by tests of the process."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "config" / "fastdds_large_images.xml"
READY = "pair 'thermal': "
_DOMAINS = itertools.count(31 * os.getpid())  # far from those of tests beside


def environment_of(folder):
    """Of all processes of one test: a domain of its own, the shipped profile."""
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(1 + next(_DOMAINS) % 100),
        "ROS_LOG_DIR": str(folder),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(PROFILE),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


class Process:
    """A child process."""

    def __init__(self, arguments, environment, log):
        self._log = log
        with log.open("w") as sink:
            self.child = subprocess.Popen(
                [sys.executable, *arguments], env=environment, stdout=sink, stderr=sink, cwd=ROOT
            )

    @property
    def output(self):
        return self._log.read_text()

    def wait_for(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.output:
            assert self.child.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(0.02)

    def end(self, number=None, seconds=60):
        if number is not None:
            self.child.send_signal(number)
        return self.child.wait(seconds)


def node(*arguments):
    return ("-m", "segrgbx_ros.node", "--ros-args", *arguments)
