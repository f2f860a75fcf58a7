"""Whatever bytes a file of a model holds: a model or one CheckpointError, in bounded time.

The suite runs a few cases; `make fuzz CASES=100000 SEED=1` runs more and other ones.
"""

import json
import os
import random
import struct

import pytest
import torch
from small_models import small_contract

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.base.modality import Modality
from segrgbx_core.model.adapter_files import load_adapter, save_adapter
from segrgbx_core.model.ma_clip import ModalityAwareClip
from segrgbx_core.model.tensor_files import read_weights
from segrgbx_core.runtime.checkpoint import (
    load_checkpoint,
    random_weights,
    read_contract,
    save_checkpoint,
)
from segrgbx_core.runtime.exported import CONTRACT, LOGITS, SCENE, read_exported, write_manifest

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "2600"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "0"))
EXAMPLES = max(60, CASES // 20)
NUMBERS = [0, -1, 1, 7, 10**9, 10**18, -(2**63), 0.0, 1e300, 1e-300, 1e400, True, None]
VALUES = [*NUMBERS, "", "thermal", "\ud800", "x" * 1000, [], {}, [1] * 1000, [[[]]], {"a": {}}]
EDGES = [bytes([n] * 4) for n in (0, 1, 0x7F, 0x80, 0xFF)]


def mutate_bytes(data, chance):
    """Flips, overwrites, cuts, repeats or inserts some bytes, mostly near the beginning."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        size = len(data)
        near = size if chance.random() < 0.5 else min(size, 4096)
        place = chance.randrange(max(1, near))
        kind = chance.randrange(6)
        if kind == 0 and size:
            data[place % size] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[place : place + 4] = chance.choice(EDGES)
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + chance.randrange(1, 64)]
        elif kind == 4:
            data[place:place] = data[place : place + chance.randrange(1, 64)]
        else:
            data[place:place] = chance.randbytes(chance.randrange(1, 64))
    return bytes(data)


def mutate_tree(tree, chance):
    """Replaces, removes or adds one value somewhere in a tree of plain values."""
    tree = json.loads(json.dumps(tree))
    place = tree
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return tree
        key = chance.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and chance.random() < 0.85:
            place = inner
            continue
        kind = chance.randrange(8)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place["surprise"] = inner
        elif kind == 2 and isinstance(place, list):
            place.append(inner)
        else:
            place[key] = chance.choice(VALUES)
        return tree


def only_checkpoint_errors(read, path):
    """True where the file was read; anything but a short CheckpointError fails the test."""
    try:
        read(path)
    except CheckpointError as error:
        text = str(error)
    else:
        return True
    assert 0 < len(text) < 2000
    assert str(path.parent) in text
    return False


@pytest.fixture(scope="module")
def weights():
    return random_weights(small_contract())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, weights):
    path = tmp_path_factory.mktemp("fuzz") / "small.safetensors"
    save_checkpoint(path, weights.model, weights.ma_clip, weights.contract, torch.float16)
    return path.read_bytes()


def test_mutated_checkpoints(tmp_path, checkpoint):
    chance, path = random.Random(SEED), tmp_path / "a.safetensors"
    read = 0
    for _ in range(EXAMPLES):
        path.write_bytes(mutate_bytes(checkpoint, chance))
        read += only_checkpoint_errors(load_checkpoint, path)
    assert read < EXAMPLES, "no mutation was noticed"


def with_contract(checkpoint, contract):
    (length,) = struct.unpack("<Q", checkpoint[:8])
    header = json.loads(checkpoint[8 : 8 + length])
    header["__metadata__"]["segrgbx"] = contract
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + checkpoint[8 + length :]


def test_mutated_contracts_in_checkpoints(tmp_path, checkpoint):
    chance, path = random.Random(SEED), tmp_path / "a.safetensors"
    path.write_bytes(checkpoint)
    contract = json.loads(json.dumps(read_contract(path).model_dump(mode="json")))
    read = 0
    for _ in range(EXAMPLES):
        changed = mutate_tree(contract, chance)
        path.write_bytes(with_contract(checkpoint, json.dumps(changed)))
        read += only_checkpoint_errors(load_checkpoint, path)
    assert read < EXAMPLES


DEEP = "[" * 200_000 + "]" * 200_000


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "[]", "1", "{", DEEP, '{"format": NaN}', '{"format": 1e400}'),
        *('{"format": true}', '{"format": -1}', '{"format": 1}', '{"a":' * 100_000),
        *('{"format": ' + "9" * 5000 + "}", '{"format": 1, "model": ' + DEEP + "}"),
    ],
)
def test_contracts_that_are_none(tmp_path, checkpoint, text):
    path = tmp_path / "a.safetensors"
    path.write_bytes(with_contract(checkpoint, text))
    for read in (load_checkpoint, read_contract):
        with pytest.raises(CheckpointError, match=r"a\.safetensors: ") as caught:
            read(path)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model", "backbone", "depths"), [10**9] * 4),
        (("model", "backbone", "depths"), [128] * 4),
        (("model", "backbone", "embed_dims"), [8192] * 4),
        (("model", "backbone", "embed_dims"), [0] * 4),
        (("model", "backbone", "sr_ratios"), [-3] * 4),
        (("model", "backbone", "mlp_ratios"), [1e300] * 4),
        (("model", "head", "embed_dim"), 10**9),
        (("model", "refinement", "query_grid"), [10**9] * 2),
        (("model", "refinement", "universal_grid"), [0, 0]),
        (("ma_clip", "tower"), "hf-hub:owner/name"),
        (("ma_clip", "tower"), "no_such_tower"),
        (("ma_clip", "depth"), 10**9),
        (("ma_clip", "std"), [0.0, 0.0, 0.0]),
        (("label_space", "names"), [f"class {index}" for index in range(100_000)]),
        (("modalities",), []),
        (("modalities",), ["thermal"] * 1000),
    ],
)
def test_sizes_are_bounded_before_memory_is_taken(tmp_path, checkpoint, place, value):
    path = tmp_path / "a.safetensors"
    path.write_bytes(checkpoint)
    contract = json.loads(json.dumps(read_contract(path).model_dump(mode="json")))
    inner = contract
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_bytes(with_contract(checkpoint, json.dumps(contract)))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: "):
        load_checkpoint(path)


def test_weights_that_are_not_finite_are_refused(tmp_path, checkpoint):
    data = bytearray(checkpoint)
    data[-2:] = torch.tensor(float("nan"), dtype=torch.float16).numpy().tobytes()
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"1 of .* weights that are not finite"):
        load_checkpoint(path)


def test_mutated_adapters(tmp_path, weights):
    path = tmp_path / "thermal.safetensors"
    save_adapter(path, weights.ma_clip, Modality.THERMAL)
    data, chance = path.read_bytes(), random.Random(SEED)
    ma_clip = ModalityAwareClip(weights.contract.ma_clip)
    ma_clip.load_state_dict(weights.ma_clip.state_dict())
    for _ in range(EXAMPLES):
        path.write_bytes(mutate_bytes(data, chance))
        only_checkpoint_errors(lambda name: load_adapter(name, ma_clip), path)
    path.write_bytes(data)
    assert load_adapter(path, ma_clip) is Modality.THERMAL


@pytest.mark.parametrize("zipped", [True, False])
def test_mutated_state_dicts(tmp_path, zipped):
    path = tmp_path / "a.pth"
    state = {f"layer.{index}.weight": torch.rand(5, 7) for index in range(6)}
    torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    data, chance = path.read_bytes(), random.Random(SEED)
    for _ in range(EXAMPLES):
        path.write_bytes(mutate_bytes(data, chance))
        only_checkpoint_errors(read_weights, path)
    path.write_bytes(data)
    assert read_weights(path).keys() == state.keys()


def test_mutated_contracts_of_exported_folders(tmp_path, weights):
    for name in (LOGITS, SCENE):
        (tmp_path / name).write_bytes(b"graph")
    write_manifest(tmp_path, weights.contract, None)
    path, chance = tmp_path / CONTRACT, random.Random(SEED)
    text = path.read_bytes()
    read = 0
    for index in range(EXAMPLES):
        changed = mutate_tree(json.loads(text), chance)
        path.write_bytes(mutate_bytes(text, chance) if index % 2 else json.dumps(changed).encode())
        read += only_checkpoint_errors(lambda name: read_exported(name.parent), path)
    assert read < EXAMPLES
