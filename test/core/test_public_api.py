"""What `import segrgbx_core` offers."""

import subprocess
import sys

import pytest

import segrgbx_core


def test_the_names_of_the_package_are_loaded_when_they_are_used():
    code = (
        "import sys, segrgbx_core\n"
        "assert 'numpy' not in sys.modules, 'numpy'\n"
        "from segrgbx_core import Prediction, RgbxSample\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "print(RgbxSample.__module__, Prediction.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["segrgbx_core.base.samples"] * 2


@pytest.mark.parametrize("name", segrgbx_core.__all__)
def test_every_name_exists(name):
    assert getattr(segrgbx_core, name).__name__ == name


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="has no attribute 'Segmentor'"):
        _ = segrgbx_core.Segmentor
