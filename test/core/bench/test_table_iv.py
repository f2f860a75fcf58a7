"""What Table IV says about the DSRM, by arithmetic; docs/paper.md shows these numbers."""

import re
from pathlib import Path

import pytest

from segrgbx_core.bench.cost import PAPER_TABLE_IV, count_cost, count_structures, total_cost
from segrgbx_core.model import PRESETS
from segrgbx_core.model.ma_clip import CLIP_PRESETS
from segrgbx_core.model.refinement import Axis, Structure

PAGE = Path(__file__).resolve().parents[3] / "docs" / "paper.md"
PLAIN_CLIP = CLIP_PRESETS["vit_b16"].model_copy(update={"lora_rank": 0})

# Layers over channels see 256 positions, layers over positions see 512 channels, of two images.
WIDTH = {Axis.SPATIAL: 512, Axis.CHANNEL: 256}
ROWS = {Axis.SPATIAL: 2 * 256, Axis.CHANNEL: 2 * 512}
MODULES = 4
OTHERS_M = 3.99  # what (a) to (d), (h) and (i) leave for prompts, chi and MLP(S)
GENERATOR = (3.08, 1.30)  # (h) minus (i)
SURPLUS_G = 3.07  # what (e) to (h) cost beyond their layers


def layer(axis, hidden=0):
    """M parameters and G multiply-adds of a square layer, or of a feed-forward layer."""
    width = WIDTH[axis]
    weights = 2 * width * hidden if hidden else width * width
    biases = width + hidden
    return (weights + biases) / 1e6, weights * ROWS[axis] / 1e9


def base():
    """The model without prompts and DSRM, the paper's way of counting."""
    plain = PRESETS["b2"].model_copy(update={"use_dsrm": False, "use_ma_clip": True})
    parts = count_cost(plain, PLAIN_CLIP, 71)
    del parts["modality-aligned embedding"]
    cost = total_cost(parts)
    return cost.parameters_m, cost.gmacs_paper_convention


def reading(structure):
    """M and G of a row as read: the first reading, but (e) to (g) by their own."""
    plan = structure.plan
    own = structure in (Structure.E, Structure.F, Structure.G)
    millions, giga = base()
    for axis, square in ((plan.first, 22), (plan.second, 20)):
        parts = [layer(axis)] * square
        if own:  # 12 square layers in a module's attention, and a hidden width of 2048 throughout
            parts = [layer(axis)] * 12 + [layer(axis, hidden=2048)]
        millions += MODULES * sum(m for m, _ in parts)
        giga += MODULES * sum(g for _, g in parts)
    millions += OTHERS_M
    if structure in (Structure.E, Structure.F, Structure.G, Structure.H, Structure.I):
        giga += SURPLUS_G
    if structure is Structure.I:
        millions, giga = millions - GENERATOR[0], giga - GENERATOR[1]
    return millions, giga


def test_the_attentions_add_up_in_one_half_of_the_table_only():
    a, b, c, d, e, f, g, h = (PAPER_TABLE_IV[letter] for letter in list(Structure)[:8])
    assert a[0] + b[0] - c[0] - d[0] == pytest.approx(-0.01, abs=0.006)
    assert a[1] + b[1] - c[1] - d[1] == pytest.approx(0.0, abs=0.006)
    assert e[0] + f[0] - g[0] - h[0] == pytest.approx(61.98, abs=0.02)
    assert e[1] + f[1] - g[1] - h[1] == pytest.approx(1.51, abs=0.006)


@pytest.mark.parametrize("structure", Structure)
def test_readings_and_their_residuals(structure):
    millions, giga = reading(structure)
    paper = PAPER_TABLE_IV[structure]
    stored = {"e": 56.02, "f": 56.01, "g": 51.58}.get(structure.value, 0.0)  # weights, no work
    assert paper[0] - millions == pytest.approx(stored, abs=0.04)
    assert paper[1] - giga == pytest.approx(0.0, abs=0.13)


def test_the_generator_of_u():
    """Five maps 512 x 16 x 16, an MLP 512-128-5 and a 3x3 convolution, as in `paper`."""
    maps = 5 * 512 * 16 * 16
    mlp = 512 * 128 + 128 + 128 * 5 + 5
    conv = 512 * 512 * 9
    assert (maps + mlp + conv) / 1e6 == pytest.approx(GENERATOR[0], abs=0.005)
    assert conv * 2 * 256 / 1e9 == pytest.approx(1.21, abs=0.005)
    costs = count_structures(PRESETS["paper"], PLAIN_CLIP, 71)
    h, i = costs[Structure.H], costs[Structure.I]
    assert h.parameters_m - i.parameters_m == pytest.approx(3.08, abs=0.005)
    assert h.gmacs - i.gmacs == pytest.approx(1.21, abs=0.005)


def test_the_page_shows_these_numbers():
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("### All nine rows") :]
    rows = dict(re.findall(r"^\| \**\((\w)\)\** \| (.+) \|$", table, re.MULTILINE)[:9])
    assert list(rows) == [structure.value for structure in Structure]
    paper_preset = count_structures(PRESETS["paper"], PLAIN_CLIP, 71)
    for structure in Structure:
        paper, read, ours = PAPER_TABLE_IV[structure], reading(structure), paper_preset[structure]
        values = [paper[0], read[0], paper[0] - read[0], paper[1], read[1], paper[1] - read[1]]
        values += [ours.parameters_m, ours.gmacs_paper_convention]
        cells = [float(cell) for cell in rows[structure.value].split(" | ")]
        assert cells == pytest.approx(values, abs=0.0051), structure
