"""What the ids mean, printed and drawn."""

import pytest

from segrgbx_core.base.images import read_image
from segrgbx_ros.tools.label_legend import main


def test_every_class_is_listed_and_drawn(tmp_path, capsys):
    out = tmp_path / "legend.png"
    assert main(["--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 72
    assert lines[6].split() == ["6", "road", "128", "64", "128"]
    assert lines[-1].startswith("255")
    assert read_image(out).std() > 10


def test_spaces_and_files_are_those_of_the_node(tmp_path, capsys, checkpoint):
    mine = tmp_path / "mine.yaml"
    mine.write_text("classes:\n  - {name: ground, rgb: [1, 2, 3], members: [road]}\n")
    colours = tmp_path / "colours.yaml"
    colours.write_text("ground: [4, 5, 6]\n")
    files = ["--file", str(mine), "--palette-file", str(colours)]
    assert main(["--checkpoint", checkpoint, *files]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["0", "ground", "4", "5", "6"]
    assert main(["--checkpoint", checkpoint, "--space", "mfnet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--space", "mfnett"], "did you mean 'mfnet'"),
        (["--file", "/nowhere.yaml"], "/nowhere.yaml: cannot be read"),
        (["--checkpoint", "/nowhere.safetensors"], "/nowhere.safetensors"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, arguments, complaint):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1
