import json

import pytest
import torch
from safetensors.torch import save_file

from segrgbx_core.base.config import to_plain
from segrgbx_core.base.errors import CheckpointError, ConfigError
from segrgbx_core.base.modality import MODALITIES, Modality
from segrgbx_core.labels.label_space import unified_label_space
from segrgbx_core.model.tensor_files import file_hash, read_tensors, write_tensors
from segrgbx_core.runtime.batch import InputConfig
from segrgbx_core.runtime.checkpoint import (
    FORMAT,
    KEY,
    Contract,
    default_contract,
    load_checkpoint,
    random_checkpoint,
    random_weights,
    read_contract,
    save_checkpoint,
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    random_checkpoint(path, seed=3)
    return path


def rewritten(original, path, change=None, drop=None, add=None):
    """A copy of the checkpoint with a changed contract or changed tensors."""
    tensors, metadata = read_tensors(original)
    contract = json.loads(metadata[KEY])
    if change:
        change(contract)
    if drop:
        del tensors[drop]
    write_tensors(path, {**tensors, **(add or {})}, {KEY: json.dumps(contract)})
    return path


def test_what_was_saved_comes_back(original):
    fresh, loaded = random_weights(default_contract("tiny"), seed=3), load_checkpoint(original)
    assert loaded.contract == fresh.contract
    assert loaded.label_space == unified_label_space()
    assert loaded.name == "tiny.safetensors"
    for part in ("model", "ma_clip"):
        before, after = getattr(fresh, part), getattr(loaded, part)
        state = after.state_dict()
        assert all(torch.equal(v, state[k]) for k, v in before.state_dict().items())
        assert not any(module.training for module in after.modules())
    assert not any(p.requires_grad for p in loaded.ma_clip.parameters())
    assert not any(p.is_meta for p in (*loaded.model.parameters(), *loaded.ma_clip.parameters()))


def test_loaded_and_fresh_answer_alike(original):
    fresh, loaded = random_weights(default_contract("tiny"), seed=3), load_checkpoint(original)
    rgb, x = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    chosen = torch.tensor([1, 3])
    with torch.no_grad():
        answers = [
            item.model(rgb, x, *item.ma_clip(rgb, x, chosen), chosen) for item in (fresh, loaded)
        ]
    assert torch.equal(*answers)


def test_the_same_seed_gives_the_same_file(original, tmp_path):
    random_checkpoint(tmp_path / "again.safetensors", seed=3)
    assert file_hash(original) == file_hash(tmp_path / "again.safetensors")
    assert load_checkpoint(original).hash == file_hash(original)
    random_checkpoint(tmp_path / "other.safetensors", seed=4)
    assert file_hash(original) != file_hash(tmp_path / "other.safetensors")


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    random_weights(default_contract("tiny"), seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_half_storage_halves_the_file_and_loads_as_float32(original, tmp_path):
    loaded = load_checkpoint(original)
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, loaded.model, loaded.ma_clip, loaded.contract, torch.float16)
    assert path.stat().st_size < 0.55 * original.stat().st_size
    half = load_checkpoint(path)
    assert half.ma_clip.base_hash() == loaded.ma_clip.base_hash()
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    for (name, a), b in zip(loaded.model.named_parameters(), half.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3, msg=name)


def test_contract_is_readable_without_models(original):
    contract = read_contract(original)
    assert contract.is_random
    assert contract.modalities == MODALITIES
    assert contract.format == 1  # earlier versions read what adds no modality


def test_contract_goes_through_json_unchanged():
    contract = default_contract(
        "b2",
        tower="vit_b32",
        input=InputConfig(height=480, width=640),
        native_spaces=("mfnet",),
        provenance={"run": "x", "scores": {"miou": 0.5}},
    )
    assert Contract.model_validate_json(json.dumps(to_plain(contract)), strict=True) == contract
    assert not contract.is_random


def test_unknown_presets_are_refused():
    with pytest.raises(ConfigError, match="preset 'b9' is not known"):
        default_contract("b9")
    with pytest.raises(ConfigError, match="did you mean 'vit_b16'"):
        default_contract("b2", tower="vit_b61")


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)
    text = tmp_path / "text.safetensors"
    text.write_text("hello, this is no checkpoint at all")
    with pytest.raises(CheckpointError, match=r"not a complete \.safetensors file"):
        load_checkpoint(text)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(2)}, foreign)
    with pytest.raises(CheckpointError, match="no segrgbx contract"):
        load_checkpoint(foreign)


def test_cut_off_files_are_refused(original, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(original.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="not a complete"):
        load_checkpoint(cut)


def test_newer_formats_are_refused(original, tmp_path):
    def newer(contract):
        contract["format"] = FORMAT + 1
        contract["invented_later"] = True

    path = rewritten(original, tmp_path / "new.safetensors", newer)
    with pytest.raises(CheckpointError, match=rf"format {FORMAT + 1} is newer .* \({FORMAT}\)"):
        load_checkpoint(path)


def test_changed_label_spaces_are_refused(original, tmp_path):
    def swap(contract):
        names = contract["label_space"]["names"]
        names[0], names[1] = names[1], names[0]

    path = rewritten(original, tmp_path / "swap.safetensors", swap)
    with pytest.raises(CheckpointError, match="hash"):
        load_checkpoint(path)


def test_damaged_contracts_are_refused(original, tmp_path):
    path = rewritten(original, tmp_path / "odd.safetensors", lambda c: c.update(surprise=1))
    with pytest.raises(CheckpointError, match="unknown option 'surprise'"):
        load_checkpoint(path)
    write_tensors(path, {"model.x": torch.zeros(1)}, {KEY: "{"})
    with pytest.raises(CheckpointError, match="contract is damaged"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(original, tmp_path):
    path = tmp_path / "odd.safetensors"
    rewritten(original, path, drop="ma_clip.tower.cls_token")
    with pytest.raises(CheckpointError, match=r"1 missing, first 'ma_clip\.tower\.cls_token'"):
        load_checkpoint(path)
    rewritten(original, path, add={"model.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected, first 'model\.extra'"):
        load_checkpoint(path)
    rewritten(original, path, add={"optimizer.step": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"1 unexpected, first 'optimizer\.step'"):
        load_checkpoint(path)
    rewritten(original, path, add={"ma_clip.tower.cls_token": torch.zeros(1, 1, 7)})
    with pytest.raises(CheckpointError, match=r"has shape \(1, 1, 7\)"):
        load_checkpoint(path)


def test_untrained_modalities_are_named(tmp_path):
    path = tmp_path / "two.safetensors"
    random_checkpoint(path, modalities=(Modality.THERMAL, Modality.DEPTH))
    loaded = load_checkpoint(path)
    loaded.require(Modality.DEPTH)
    with pytest.raises(CheckpointError, match="trained for thermal, depth; asked for event"):
        loaded.require(Modality.EVENT)


def test_a_merged_adapter_is_not_saved(original, tmp_path):
    loaded = load_checkpoint(original)
    loaded.ma_clip.merge(Modality.THERMAL)
    with pytest.raises(CheckpointError, match="thermal adapter is merged"):
        save_checkpoint(tmp_path / "x.safetensors", loaded.model, loaded.ma_clip, loaded.contract)


def test_other_users_may_read_a_checkpoint(tmp_path):
    path = tmp_path / "tiny.safetensors"
    random_checkpoint(path)
    assert path.stat().st_mode & 0o777 == 0o644
