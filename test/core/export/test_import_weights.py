"""Released weights become checkpoints: every family, every wrapper, and what is refused."""

import json

import numpy as np
import pytest
import torch
from baseline_shapes import DEPTHS, DIMS, HEADS, HIDDEN, random_weights
from segformer_files import mmseg_state, nvidia_state, transformers_model

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
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
    with pytest.raises(CheckpointError, match="has 3 classes and --classes names 9"):
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


SEGFORMERS = {"NVIDIA": nvidia_state, "mmsegmentation": mmseg_state}


@pytest.mark.parametrize("code", SEGFORMERS)
def test_segformers_of_files(tmp_path, names, code):
    state = {k: v.long() if "num_b" in k else v.float() for k, v in SEGFORMERS[code]().items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "optimizer": {}}, tmp_path / "w.pth")
    out = tmp_path / "out.safetensors"
    arguments = [str(tmp_path / "w.pth"), "--as", "segformer_tiny", "--size", "64x64"]
    assert main([*arguments, "--classes", str(names), "--out", str(out)], SMALL) == 0
    segmenter = Segmenter.from_checkpoint(out, label_space="yard")
    assert segmenter.contract.modalities == tuple(MODALITIES)
    assert segmenter.contract.provenance["code"] == f"SegFormer ({code})"
    rgb = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    answers = [
        segmenter.predict([RgbxSample(rgb, np.full((48, 64), value, np.uint8), Modality.THERMAL)])
        for value in (0, 200)
    ]
    assert np.array_equal(answers[0][0].labels, answers[1][0].labels)


def test_missing_classes_and_modality_are_named(tmp_path, capsys):
    torch.save(floats("cmx"), tmp_path / "w.pth")
    arguments = [str(tmp_path / "w.pth"), "--out", str(tmp_path / "o.safetensors")]
    assert main([*arguments, "--as", "cmx_tiny"], SMALL) == 2
    assert "--modality: is missing; cmx_tiny needs" in capsys.readouterr().err
    assert main([*arguments, "--as", "segformer_tiny"], SMALL) == 2
    assert "--classes: is missing;" in capsys.readouterr().err
    assert main([str(tmp_path), *arguments[1:], "--as", "segformer_tiny"], SMALL) == 2
    assert "names no classes" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path):
    """What transformers writes."""
    public = transformers_model().float()
    public.config.id2label = {0: "road", 1: "gate", 2: "sky"}
    public.save_pretrained(tmp_path / "yard")
    return tmp_path / "yard"


@pytest.mark.clip
def test_a_folder_of_transformers_names_its_classes(folder, tmp_path):
    out = tmp_path / "out.safetensors"
    assert main([str(folder), "--as", "segformer_tiny", "--out", str(out)], SMALL) == 0
    contract = Segmenter.from_checkpoint(out, label_space="yard").contract
    assert contract.label_space["names"] == ["road", "gate", "sky"]
    assert contract.model.backbone.block_norm_eps == 1e-5


@pytest.mark.clip
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"num_attention_heads": [1, 1, 1, 1]}, "num_attention_heads is"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act is relu; this size needs gelu"),
        ("config.json", {"id2label": {"0": "road", "2": "sky"}}, "does not name every class"),
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "image_mean is"),
    ],
)
def test_folders_of_other_networks_are_refused(folder, tmp_path, capsys, file, change, message):
    path = folder / file
    text = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**text, **change}))
    out = tmp_path / "out.safetensors"
    assert main([str(folder), "--as", "segformer_tiny", "--out", str(out)], SMALL) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_delivers_cmx_has_its_epsilons():
    config = RELEASES["cmx_deliver"].config
    assert (config.backbone.block_norm_eps, config.head.norm_eps) == (1e-5, 1e-5)
