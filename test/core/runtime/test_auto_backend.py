"""`backend: auto`: which export runs in place of a checkpoint, and what the log says."""

import json
import logging
import shutil
import sys

import pytest
import torch
from small_models import SIZE, sample, small_contract

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("openvino", reason="openvino is not installed")

from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import Modality
from segrgbx_core.export.export import main as export
from segrgbx_core.runtime.checkpoint import load_checkpoint, random_checkpoint, save_checkpoint
from segrgbx_core.runtime.exported import folder_beside, read_exported
from segrgbx_core.runtime.options import Backend, InferenceConfig
from segrgbx_core.runtime.segmenter import Segmenter, load_weights

AUTO = InferenceConfig(device="cpu", backend=Backend.AUTO)
TORCH = InferenceConfig(device="cpu")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A checkpoint with an export beside it, made by the command."""
    path = tmp_path_factory.mktemp("auto") / "model.safetensors"
    contract = small_contract("cmx_tiny")
    random_checkpoint(path, "cmx_tiny", model=contract.model, input=contract.input)
    assert export([str(path), "--fixed-size"]) == 0
    return path


@pytest.fixture
def checkpoint(original, tmp_path, caplog):
    """A copy of both, to be changed; the log is kept."""
    caplog.set_level(logging.INFO)
    folder = shutil.copytree(original.parent, tmp_path / "model")
    return folder / original.name


def device_of(checkpoint, config=AUTO, merge_for=None):
    return Segmenter.from_checkpoint(checkpoint, config, merge_for=merge_for).device_name


def change(checkpoint):
    """Gives a checkpoint other weights."""
    loaded = load_checkpoint(checkpoint)
    with torch.no_grad():
        next(loaded.model.parameters()).add_(1)
    save_checkpoint(checkpoint, loaded.model, loaded.ma_clip, loaded.contract)


def test_an_export_of_this_checkpoint_runs_in_openvino(checkpoint, caplog):
    auto = Segmenter.from_checkpoint(checkpoint, AUTO)
    assert (auto.device_name, auto.precision) == ("openvino cpu", "fp32")
    assert f"auto runs {folder_beside(checkpoint, None)} in OpenVINO" in caplog.text
    ours = Segmenter.from_checkpoint(checkpoint, TORCH)
    assert ours.device_name == "cpu"
    image = sample()
    same = auto.predict([image])[0].labels == ours.predict([image])[0].labels
    assert same.mean() > 0.999


def test_torch_stays_the_default(checkpoint):
    assert InferenceConfig().backend is Backend.TORCH
    assert device_of(checkpoint, InferenceConfig(device="cpu")) == "cpu"


def test_an_export_of_other_weights_is_named_and_not_used(checkpoint, caplog):
    change(checkpoint)
    assert device_of(checkpoint) == "cpu"
    [warning] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"does not use {folder_beside(checkpoint, None)}, which was exported from" in warning
    assert f"segrgbx-export {checkpoint}" in warning


def test_a_damaged_export_is_named_and_not_used(checkpoint, caplog):
    (folder_beside(checkpoint, None) / "contract.json").write_text("{")
    assert device_of(checkpoint) == "cpu"
    assert "does not use a damaged export" in caplog.text


def test_graphs_of_another_export_are_refused(checkpoint):
    (folder_beside(checkpoint, None) / "logits.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"logits\.onnx: is not the file"):
        device_of(checkpoint)


def test_without_an_export_the_log_says_how_to_make_one(checkpoint, caplog):
    shutil.rmtree(folder_beside(checkpoint, None))
    assert device_of(checkpoint) == "cpu"
    assert f"no export of it is beside it, segrgbx-export {checkpoint} makes one" in caplog.text


def test_what_only_pytorch_has_rules_exports_out(checkpoint, caplog, monkeypatch):
    compiled = AUTO.model_copy(update={"compile": True})
    assert not hasattr(load_weights(checkpoint, compiled), "folder")
    assert "compile is an option of PyTorch" in caplog.text
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert device_of(checkpoint) == "cpu"
    assert "OpenVINO is not installed, pip install" in caplog.text


def test_options_are_checked_as_for_pytorch(checkpoint):
    with pytest.raises(ConfigError, match="fp16 is not supported on a CPU"):
        device_of(checkpoint, AUTO.model_copy(update={"precision": "fp16"}))
    assert device_of(checkpoint, AUTO.model_copy(update={"precision": "bf16"})) == "openvino cpu"


def test_the_export_of_the_served_modality_comes_first(checkpoint):
    own = folder_beside(checkpoint, Modality.DEPTH)
    assert own.name == "model.depth.exported"
    shutil.copytree(folder_beside(checkpoint, None), own)
    assert load_weights(checkpoint, AUTO, Modality.DEPTH).folder == own
    assert load_weights(checkpoint, AUTO).folder == folder_beside(checkpoint, None)
    path = own / "contract.json"
    data = json.loads(path.read_text())
    data["source"]["checkpoint"] = "0" * 64
    path.write_text(json.dumps(data))
    # Stale, so that the one for all modalities runs.
    found = load_weights(checkpoint, AUTO, Modality.DEPTH)
    assert found.folder == folder_beside(checkpoint, None)


def test_the_command_keeps_what_is_current_and_replaces_what_is_not(checkpoint, capsys):
    folder = folder_beside(checkpoint, None)
    before = (folder / "logits.onnx").stat().st_mtime_ns
    assert export([str(checkpoint), "--fixed-size"]) == 0
    assert f"{folder}: is the export of {checkpoint}; nothing to do" in capsys.readouterr().out
    assert (folder / "logits.onnx").stat().st_mtime_ns == before
    old = read_exported(folder).source
    assert old["fixed_size"] is True
    (folder / "frame.onnx").write_bytes(b"damaged")
    change(checkpoint)
    assert export([str(checkpoint), "--fixed-size"]) == 0
    new = read_exported(folder)
    assert new.source["checkpoint"] == load_checkpoint(checkpoint).hash != old["checkpoint"]
    assert device_of(checkpoint) == "openvino cpu"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, checkpoint.name]


def test_the_command_replaces_nothing_but_exports(checkpoint, capsys):
    folder = folder_beside(checkpoint, None)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert export([str(checkpoint), "--fixed-size"]) == 2
    assert "exists; name a new folder" in capsys.readouterr().err
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_graphs_carry_their_source(checkpoint):
    """So that no other contract.json makes them the export of another checkpoint."""
    folder = folder_beside(checkpoint, None)
    path = folder / "contract.json"
    data = json.loads(path.read_text())
    change(checkpoint)
    data["source"]["checkpoint"] = load_checkpoint(checkpoint).hash
    path.write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="was exported with another contract"):
        device_of(checkpoint)


def test_sizes_of_a_fixed_export_are_named(checkpoint):
    other = AUTO.model_copy(update={"input_height": SIZE[0] * 2})
    with pytest.raises(ConfigError, match="export without --fixed-size"):
        device_of(checkpoint, other)
