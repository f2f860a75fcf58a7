"""The versions that have passed together: every requirement has one, and any torch build fits."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line[0] != "#"
]
PINS = [Requirement(line) for line in LINES]
PYTHONS = sorted({str(pin.marker) for pin in PINS})


def _requirements():
    """Everything that setup.py and requirements.txt name."""
    texts = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    tree = ast.parse((ROOT / "setup.py").read_text("utf-8"))
    strings = (n.value for n in ast.walk(tree) if isinstance(n, ast.Constant))
    texts += [text for text in strings if re.fullmatch(r"[\w\[\]-]+[~>]=[\d.]+[^ ]*", str(text))]
    return [Requirement(text) for text in texts if text and text[0] != "#"]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_version_that_it_allows(python):
    pins = {pin.name: pin.specifier for pin in PINS if str(pin.marker) == python}
    for wanted in _requirements():
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        [pin] = pins[name]
        assert wanted.specifier.contains(pin.version), wanted


def test_every_line_is_one_version_of_one_python():
    for line in LINES:
        assert re.fullmatch(r'[a-z\d-]+==[\w.]+; python_version == "3\.\d+"', line)
    assert len({(pin.name, str(pin.marker)) for pin in PINS}) == len(PINS)
    assert sorted(LINES) == LINES


def test_pins_hold_for_any_build_of_torch():
    [torch] = {pin.specifier for pin in PINS if pin.name == "torch"}
    version = next(iter(torch)).version
    assert SpecifierSet(f"=={version}").contains(f"{version}+cpu")
    assert not [pin.name for pin in PINS if pin.name.startswith(("nvidia-", "cuda-", "triton"))]


def test_writing_replaces_the_lines_of_this_python_alone(tmp_path):
    path = tmp_path / "constraints.txt"
    own = f'python_version == "3.{sys.version_info.minor}"'
    other = 'numpy==1.24.0; python_version == "3.9"'
    path.write_text(f"# old\ngone==1.0; {own}\n{other}\n")
    subprocess.run([sys.executable, ROOT / ".ci/write_constraints.py", path], check=True)
    lines = path.read_text("utf-8").splitlines()
    assert other in lines
    assert not [line for line in lines if line.startswith(("gone", "# old", "segrgbx"))]
    assert [line for line in lines if line.startswith("numpy==") and line.endswith(own)]
