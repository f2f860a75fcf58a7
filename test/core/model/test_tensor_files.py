"""Weights on disk: written whole, read whole into memory, refused in one sentence."""

import json
import os
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from segrgbx_core.base.errors import CheckpointError
from segrgbx_core.model import tensor_files
from segrgbx_core.model.tensor_files import (
    StableFile,
    TensorFile,
    check_numbers,
    check_weights,
    file_hash,
    parse_json_object,
    read_file,
    read_tensors,
    read_weights,
    write_tensors,
)


@pytest.mark.parametrize(("module", "failing"), [(tensor_files, "save_file"), (os, "fsync")])
def test_a_failing_write_leaves_the_earlier_file(tmp_path, monkeypatch, module, failing):
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"a": torch.zeros(3)}, {"note": "first"})

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, failing, fail)
        with pytest.raises(CheckpointError, match="No space left"):
            write_tensors(path, {"a": torch.ones(3)}, {"note": "second"})
    assert read_tensors(path)[1] == {"note": "first"}
    assert [item.name for item in tmp_path.iterdir()] == ["state.safetensors"]


def test_shared_tensors_are_stored_under_every_name(tmp_path):
    tensor = torch.rand(4, 4)
    path = tmp_path / "deep" / "shared.safetensors"
    write_tensors(path, {"a": tensor, "b": tensor.T, "c": tensor[1:]}, {})
    back = read_tensors(path)[0]
    assert torch.equal(back["a"], tensor)
    assert torch.equal(back["b"], tensor.T)
    assert torch.equal(back["c"], tensor[1:])


def test_tensors_in_memory_do_not_follow_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1000)}, {})
    tensors, _ = read_tensors(path)
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        file.write(b"\xff" * 1000)
    assert torch.equal(tensors["a"], torch.zeros(1000))


def test_every_number_format_comes_back(tmp_path):
    path = tmp_path / "all.safetensors"
    formats = [
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32),
        *(torch.int16, torch.int8, torch.uint8, torch.bool),
    ]
    tensors = {str(kind): (torch.arange(6).view(2, 3) % 2).to(kind) for kind in formats}
    tensors |= {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "odd": torch.ones(7).byte(),
    }
    save_file(tensors, path, metadata={"note": "n"})
    back, metadata = read_tensors(path)
    assert metadata == {"note": "n"}
    expected = load_file(path)
    assert back.keys() == expected.keys()
    for name, tensor in expected.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)
    with TensorFile(path) as file:
        assert file.shapes["scalar"] == ()
        assert file.read()[1] == file_hash(path)


# --- files that are no ordinary ones ------------------------------------------------------------


def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")  # opening it would wait for a writer
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    for path, message in (
        (tmp_path, "is a folder|no regular file"),
        (tmp_path / "pipe.safetensors", "no regular file"),
        (tmp_path / "loop.safetensors", "cannot be read"),
        (tmp_path / "none.safetensors", "does not exist"),
        ("nul\0.safetensors", "cannot be read"),
        ("/dev/zero", "no regular file"),
    ):
        for read in (StableFile, read_tensors, file_hash, read_weights):
            with pytest.raises(CheckpointError, match=message):
                read(path)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(5000), "b": torch.ones(3)}, {"note": "first"})
    os.utime(path, ns=(1, 1))  # a clock tick may be longer than the test
    return path


def change_size(path):
    path.write_bytes(path.read_bytes()[:-100])


def change_content(path):
    path.write_bytes(bytes(path.stat().st_size))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("change", [change_size, change_content, empty])
def test_a_file_that_changes_while_it_is_read_is_an_error(path, change):
    """Mapped, it would end the process with SIGBUS, or mix two files."""
    with TensorFile(path) as file:
        change(path)
        with pytest.raises(CheckpointError, match="was changed while it was read; load it again"):
            file.read()


def test_a_file_that_is_replaced_while_it_is_read_is_the_old_one(path):
    with TensorFile(path) as file:
        write_tensors(path, {"a": torch.ones(2)}, {})
        tensors, digest = file.read()
    assert torch.equal(tensors["a"], torch.zeros(5000))
    assert digest != file_hash(path)


def test_a_whole_file_is_limited(path):
    assert read_file(path, 1 << 20) == (path.read_bytes(), file_hash(path))
    with pytest.raises(CheckpointError, match="larger than 0 MiB"):
        read_file(path, 1000)


# --- headers ------------------------------------------------------------------------------------


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


BAD_HEADERS = {
    "no_object": [1],
    "metadata_is_no_text": {"__metadata__": {"a": 1}, "a": entry()},
    "metadata_is_a_list": {"__metadata__": [], "a": entry()},
    "unknown_format": {"a": entry("F8_E4M3", (8,))},
    "format_is_no_text": {"a": entry([])},
    "shape_is_no_list": {"a": {**entry(), "shape": 2}},
    "negative": {"a": entry(shape=(-2,))},
    "true": {"a": entry(shape=(True, 2))},
    "huge": {"a": entry(shape=(10**18, 10**18))},
    "huge_offsets": {"a": entry(shape=(10**12,), offsets=(0, 4 * 10**12))},
    "gap": {"a": entry(shape=(1,), offsets=(4, 8))},
    "overlap": {"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))},
    "too_little": {"a": entry(shape=(1,), offsets=(0, 4))},
    "backwards": {"a": entry(offsets=(8, 0))},
    "offsets_are_text": {"a": {**entry(), "data_offsets": "08"}},
    "entry_is_no_object": {"a": 7},
    "nothing": {},
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_headers_that_do_not_describe_the_data_are_refused(tmp_path, name):
    text = json.dumps(BAD_HEADERS[name]).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match=r"is not a complete \.safetensors file"):
        read_tensors(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"1234567", struct.pack("<Q", 2**63), struct.pack("<Q", 2**32) + b"{}", bytes(5000)],
)
def test_files_without_a_header_are_refused(tmp_path, content):
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is not a complete \.safetensors file"):
        read_tensors(tmp_path / "bad.safetensors")


def test_deep_json_is_refused_in_short_time():
    for text in ("[" * 200_000, '{"a":' * 200_000, "[" * 200_000 + "]" * 200_000):
        with pytest.raises(CheckpointError, match="here is damaged"):
            parse_json_object(text, "here")
    with pytest.raises(CheckpointError, match="larger than 16 MiB"):
        parse_json_object(" " * (17 << 20), "here")
    assert parse_json_object(b'{"a": 1}', "here") == {"a": 1}


# --- numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(value):
    weights = {"a": torch.zeros(3), "b": torch.tensor([1.0, value, 2.0])}
    with pytest.raises(CheckpointError, match="here: 'b' has 1 of 3 weights that are not finite"):
        check_numbers(weights, weights, "here")


def test_weights_of_another_kind_are_refused():
    with pytest.raises(CheckpointError, match="'a' holds int32; the model needs float32"):
        check_weights({"a": torch.zeros(3)}, {"a": torch.zeros(3, dtype=torch.int32)}, "here")
    with pytest.raises(CheckpointError, match="'a' holds float32; the model needs int64"):
        check_weights({"a": torch.zeros(3, dtype=torch.int64)}, {"a": torch.zeros(3)}, "here")
    check_weights({"a": torch.zeros(3)}, {"a": torch.zeros(3, dtype=torch.float16)}, "here")


# --- state dicts of other programs --------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"state_dict": x}, lambda x: {"model": x}]
)
def test_state_dicts_are_read_wrapped_or_not(tmp_path, zipped, wrap):
    state = {"a": torch.rand(3), "b": torch.arange(4)}
    torch.save(wrap(state), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    back = read_weights(tmp_path / "a.pth")
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "content", [torch.zeros(2), {}, {"a": 1}, {1: torch.zeros(2)}, [torch.zeros(2)], None]
)
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        read_weights(tmp_path / "a.pth")


def test_archives_with_wrong_checksums_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    data = bytearray(path.read_bytes())
    at = data.index(np.float32(500).tobytes())
    data[at] ^= 1
    path.write_bytes(data)
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match=r"is not a file of plain weights \(checksum of"):
        read_weights(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"a": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="is not a file of plain weights"):
        read_weights(tmp_path / "a.pth")
    assert not (tmp_path / "harm").exists()
