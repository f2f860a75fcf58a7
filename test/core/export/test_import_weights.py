"""Released weights become checkpoints: every family, every wrapper, and what is refused."""

import numpy as np
import pytest
import torch
from baseline_shapes import DEPTHS, DIMS, HEADS, HIDDEN, random_weights

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.export.import_weights import RELEASES, classes_of, import_weights, main
from segrgbx_core.model.tensor_files import read_weights
from segrgbx_core.runtime.segmenter import Segmenter

SMALL = {
    "tiny": {
        "embed_dims": DIMS, "depths": DEPTHS, "num_heads": HEADS,
        "mlp_ratios": (float(HIDDEN),) * 4,
    }
}  # fmt: skip
FILES = {
    "cmx": ("cmx", ""),
    "cmnext": ("cmnext", ""),
    "geminifusion": ("geminifusion", ""),
    "geminifusion deliver": ("geminifusion", "deliver"),
    "stitchfusion": ("stitchfusion", ""),
    "stitchfusion shared": ("stitchfusion", "shared"),
    "stitchfusion two": ("stitchfusion", "two"),
}
WRAPPERS = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state},
    "model_state_dict": lambda state: {"model_state_dict": state, "best": np.float64(0.57)},
    "module": lambda state: {"model": {f"module.{name}": v for name, v in state.items()}},
    "nested": lambda state: {"state_dict": {"segmenter": state}, "score": np.float32(1.5)},
}


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "yard.txt"
    path.write_text("# ours\nroad\ngate\nsky\n")
    return path


def floats(name, branch=""):
    """As released files hold them: 32 bits, counters as whole numbers."""
    return {
        key: value.long() if key.endswith("num_batches_tracked") else value.float()
        for key, value in random_weights(name, branch).items()
    }


@pytest.mark.parametrize("case", FILES)
def test_every_family_becomes_a_checkpoint(tmp_path, names, case, capsys):
    name, branch = FILES[case]
    torch.save(floats(name, branch), tmp_path / "w.pth")
    out = tmp_path / "out.safetensors"
    arguments = [str(tmp_path / "w.pth"), "--as", f"{name}_tiny", "--classes", str(names)]
    arguments += ["--modality", "thermal", "--size", "64x64", "--out", str(out)]
    assert main(arguments, SMALL) == 0
    assert "3 classes, thermal" in capsys.readouterr().out
    segmenter = Segmenter.from_checkpoint(out, label_space="yard")
    contract = segmenter.contract
    assert contract.native_spaces == ("yard",)
    assert contract.provenance["as"] == f"{name}_tiny"
    assert contract.provenance["licence"].startswith(RELEASES[name].licence)
    assert contract.model.architecture == name
    assert getattr(contract.model, "bgr", None) is (True if name == "cmx" else None)
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
    x = rng.integers(0, 255, (48, 64), dtype=np.uint8)
    [answer] = segmenter.predict([RgbxSample(rgb, x, Modality.THERMAL)])
    assert set(np.unique(answer.labels)) <= {0, 1, 2}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_is_understood(tmp_path, wrapper):
    state = floats("cmx")
    torch.save(WRAPPERS[wrapper](state), tmp_path / "w.pth")
    read = read_weights(tmp_path / "w.pth")
    assert {name.removeprefix("module."): 0 for name in read}.keys() == state.keys()
    assert all(torch.equal(v, state[n.removeprefix("module.")]) for n, v in read.items())


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return print, ("run",)


def test_nothing_in_a_file_is_run(tmp_path, capsys):
    torch.save({"model": floats("cmx"), "hook": Evil()}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="is not a file of plain weights"):
        read_weights(tmp_path / "w.pth")
    assert capsys.readouterr().out == ""


def test_public_classes_keep_their_unified_names():
    space = classes_of("mfnet", Modality.THERMAL)
    assert space.num_classes == 9
    assert space.natives[0].names[1] == "car"
    assert "unlabeled background" in space.names


def test_what_does_not_fit_is_named(names):
    space, state = classes_of(str(names), Modality.THERMAL), floats("cmx")
    with pytest.raises(ConfigError, match=r"'cmx_b9' is not known \(did you mean 'cmx_b"):
        import_weights(state, "cmx_b9", space)
    with pytest.raises(CheckpointError, match="tells 3 classes apart and --classes names 9"):
        import_weights(state, "cmx_tiny", classes_of("mfnet", Modality.THERMAL), "a.pth", SMALL)
    with pytest.raises(CheckpointError, match=r"a.pth: 'backbone.* gives shape"):
        import_weights(state, "cmx_b0", space, "a.pth")
    with pytest.raises(CheckpointError, match=r"a.pth: 'backbone.* is missing; our"):
        import_weights(state, "cmnext_tiny", space, "a.pth", SMALL)
    encoder = {name: value for name, value in state.items() if name.startswith("backbone")}
    with pytest.raises(CheckpointError, match="it is no whole cmx, such as an encoder alone"):
        import_weights(encoder, "cmx_tiny", space, "a.pth", SMALL)
    with pytest.raises(ConfigError, match=r"'mfnat' is no file and no data set \(did you mean"):
        classes_of("mfnat", Modality.THERMAL)
