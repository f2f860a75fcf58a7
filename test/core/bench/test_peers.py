"""`segrgbx-bench --peers`: checkouts of others, made up here, beside our own models."""

import json
import sys
from pathlib import Path

import pytest
import torch

from segrgbx_core.base.errors import ConfigError
from segrgbx_core.bench.bench import main
from segrgbx_core.bench.compare import _pairs as pairs
from segrgbx_core.bench.peers import PEERS, found, load_peer

PAIR_MODEL = """
import torch
from torch import nn
from semseg.models.parts import Mean


class {name}(nn.Module):
    def __init__(self, backbone, num_classes, modals):
        super().__init__()
        assert modals == ["img", "depth"]
        self.name = backbone
        self.conv = nn.Conv2d(6, num_classes, 1)
        self.mean = Mean()

    def forward(self, images):
        return self.mean(self.conv(torch.cat(images, dim=1)))
"""
CMX_MODEL = """
from torch import nn
from utils.tools import scale


class EncoderDecoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        assert cfg.backbone == "mit_b2" and cfg.decoder == "MLPDecoder"
        print("building", cfg.backbone)
        self.conv = nn.Conv2d(3, cfg.num_classes, 1)

    def forward(self, rgb, x):
        return self.conv(rgb + scale * x)
"""


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def semseg(name, **changes):
    parts = "class Mean:\n    def __call__(self, maps):\n        return maps\n"
    return {
        "semseg/__init__.py": "",
        "semseg/models/__init__.py": PAIR_MODEL.format(name=name),
        "semseg/models/parts.py": parts,
        **{key.replace("__", "/") + ".py": text for key, text in changes.items()},
    }


@pytest.fixture
def checkouts(tmp_path):
    """Three that share names of packages, as the real ones do."""
    write(tmp_path / "DELIVER", semseg("CMNeXt"))
    write(tmp_path / "StitchFusion", semseg("stitchfusion"))
    cmx = {"models/builder.py": CMX_MODEL, "utils/__init__.py": "", "utils/tools.py": "scale = 2"}
    write(tmp_path / "RGBX_Semantic_Segmentation", cmx)
    return tmp_path


def test_checkouts_are_found_by_name(checkouts):
    assert found(checkouts) == ["cmx_authors", "cmnext_authors", "stitchfusion_authors"]


def test_models_of_equal_package_names_live_beside_each_other(checkouts, capsys):
    before, path = set(sys.modules), list(sys.path)
    kept = sys.modules.setdefault("utils", sys)  # a module of the host with the same name
    models = {key: load_peer(key, checkouts, "b2", 5) for key in found(checkouts)}
    assert sys.modules.pop("utils") is kept
    assert set(sys.modules) - before == set()
    assert sys.path == path
    assert models["cmnext_authors"].inner.name == "CMNeXt-B2"
    assert models["stitchfusion_authors"].inner.name == "stitchfusion-B2"
    rgb, x = torch.rand(2, 1, 3, 8, 12)
    answers = [model(rgb, x) for model in models.values()]
    assert [tuple(answer.shape) for answer in answers] == [(1, 5, 8, 12)] * 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "building mit_b2" in printed.err


def test_images_are_normalised_as_the_authors_do(checkouts):
    rgb, x = torch.rand(2, 1, 3, 8, 12)
    mean, std = (
        torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    cmx, cmnext = (load_peer(key, checkouts, "b2", 5) for key in ("cmx_authors", "cmnext_authors"))
    expected = cmx.inner((rgb - mean) / std, (x - mean) / std)
    torch.testing.assert_close(cmx(rgb, x), expected)
    torch.testing.assert_close(cmnext(rgb, x), cmnext.inner([(rgb - mean) / std, x]))


def test_the_last_of_several_answers_counts(checkouts):
    ensemble = PAIR_MODEL.format(name="GeminiFusion").replace(
        "return self.mean(", "return [0, 0, *[self.mean("
    ).replace("dim=1)))", "dim=1)))]]")  # fmt: skip
    files = {**semseg("GeminiFusion"), "semseg/models/__init__.py": ensemble}
    write(checkouts / "GeminiFusion", files)
    model = load_peer("geminifusion_authors", checkouts, "b2", 5)
    assert model(*torch.rand(2, 1, 3, 8, 12)).shape == (1, 5, 8, 12)


def test_what_only_training_imports_may_be_missing(checkouts):
    source = (
        "from mmcv.runner import load_checkpoint\n"
        "from fvcore.nn import flop_count_table, FlopCountAnalysis\n"
        "class Head(load_checkpoint): pass\n"
    ) + PAIR_MODEL.format(name="CMNeXt")
    write(checkouts / "DELIVER", {"semseg/models/__init__.py": source})
    assert load_peer("cmnext_authors", checkouts, "b2", 5)
    assert not {"mmcv", "mmcv.runner", "fvcore"} & set(sys.modules)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import nowhere_to_be_found", "needs nowhere_to_be_found; install it, or put a folder"),
        ("from semseg.models.absent import A", "needs semseg.models.absent; the checkout lacks"),
        (
            "from mmcv.cnn import norm; Made = norm()",
            r"needs mmcv\.cnn\.norm; install it, or put a folder",
        ),
        ("raise ValueError('old torch')", "cannot be built: ValueError: old torch"),
    ],
)
def test_what_cannot_be_imported_is_named(checkouts, line, message):
    source = f"{line}\n" + PAIR_MODEL.format(name="CMNeXt")
    write(checkouts / "DELIVER", {"semseg/models/__init__.py": source})
    modules = set(sys.modules)
    with pytest.raises(ConfigError, match=message):
        load_peer("cmnext_authors", checkouts, "b2", 5)
    assert not [name for name in set(sys.modules) - modules if name.startswith("semseg")]


def test_a_missing_checkout_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no checkout; clone into it any of RGBX_Sem"):
        found(tmp_path)
    with pytest.raises(ConfigError, match=r"has no DELIVER; clone jamycheung/DELIVER into it"):
        load_peer("cmnext_authors", tmp_path, "b2", 5)


def test_the_fastest_peer_is_what_ours_is_divided_by():
    cpu = {"segrgbx_fast": 2.0, "cmx_authors": 5.0, "stitchfusion_authors": 4.0}
    assert pairs(cpu) == {"ours_vs_fastest_peer": ("segrgbx_fast", "stitchfusion_authors")}


def arguments(checkouts, *more):
    return ["--peers", str(checkouts), "--preset", "b2", "--tower", "tiny", "--device", "cpu",
            "--input-size", "32x32", "--repeats", "2", "--warm-up", "0", *more]  # fmt: skip


def test_program_times_peers_in_turns_with_ours(checkouts, tmp_path, capsys):
    only = ["--only", "segrgbx_fast", "--only", "cmx_authors", "--only", "cmnext_authors"]
    report = tmp_path / "report.json"
    assert main(arguments(checkouts, *only, "--json", str(report))) == 0
    printed = capsys.readouterr()
    assert "| CMX, authors' code " in printed.out
    assert "ours_vs_fastest_peer:" in printed.out
    assert "making cmx_authors" in printed.err
    made = json.loads(report.read_text())
    assert list(made["models"]) == ["segrgbx_fast", "cmx_authors", "cmnext_authors"]
    assert made["models"]["cmx_authors"]["parameters_m"] == pytest.approx(4 * 71 / 1e6)
    low, high = made["cpu_spread"]["ours_vs_fastest_peer"]
    assert 0 < low <= high
    assert made["setting"]["instructions"]
    assert made["setting"]["blas"]
    assert made["setting"]["sgemm_gmacs"] > 0


@pytest.mark.parametrize(
    ("only", "model", "message"),
    [
        ("geminifusion_authors", None, "has no GeminiFusion; clone JiaDingCN/GeminiFusion"),
        ("cmx_authors", "return self.conv(rgb)[:, :4]", "answers with (1, 4, 32, 32); expected"),
        ("cmx_authors", "return {}", "answers with dict; expected logits (1, 71, 32, 32)"),
        ("cmx_authors", "raise KeyError('x')", "cmx_authors cannot be run: KeyError: 'x'"),
    ],
)
def test_a_peer_that_does_other_work_is_not_timed(checkouts, capsys, only, model, message):
    if model:
        path = checkouts / "RGBX_Semantic_Segmentation" / "models" / "builder.py"
        path.write_text(CMX_MODEL.replace("return self.conv(rgb + scale * x)", model))
    assert main(arguments(checkouts, "--only", only)) == 2
    assert message in capsys.readouterr().err


def test_peers_need_their_folder(capsys):
    assert main(["--compare", "--only", "cmx_authors"]) == 2
    assert "model cmx_authors: needs --peers" in capsys.readouterr().err


def test_peers_have_no_tiny_size(checkouts, capsys):
    assert main(["--peers", str(checkouts), "--preset", "tiny"]) == 2
    assert "preset 'tiny': cmx_authors comes as b0, b1 and b2" in capsys.readouterr().err


def test_nothing_of_the_authors_is_in_the_repository():
    root = Path(__file__).parents[3]
    assert not [peer.folder for peer in PEERS.values() if (root / peer.folder).exists()]
