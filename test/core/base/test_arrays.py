"""NumPy files from strangers: arrays, or one sentence."""

import contextlib
import io
import os
import random
import zipfile

import numpy as np
import pytest

from segrgbx_core.base.arrays import read_array, read_arrays
from segrgbx_core.base.errors import DataError

CASES = int(os.environ.get("SEGRGBX_FUZZ_CASES", "300"))
SEED = int(os.environ.get("SEGRGBX_FUZZ_SEED", "1"))


def test_arrays_of_numbers(tmp_path):
    path = tmp_path / "a.npy"
    for array in (np.arange(6).reshape(2, 3), np.zeros((2, 2), np.float32, order="F")):
        np.save(path, array)
        np.testing.assert_array_equal(read_array(path), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no array"),
        (b"hello", "is no array"),
        (b"\x93NUMPY\x01\x00\x08\x00(((((((", "is no array"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "is no array"),
        (np.array([b"text"]), "holds \\|S4; expected numbers"),
        (np.array([{}], dtype=object), "is no array"),
        (np.zeros(3, "O"), "is no array"),
    ],
)
def test_what_is_no_array_of_numbers(tmp_path, content, message):
    path = tmp_path / "a.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=rf"a\.npy: {message}"):
        read_array(path)


def test_an_array_that_claims_more_than_it_holds(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((7, 9), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="ends before its"):
        read_array(path)
    path.write_bytes(whole.replace(b"(7, 9)" + b", }     ", b"(77777, 99)" + b", }"))
    with pytest.raises(DataError, match="ends before its"):
        read_array(path)


def test_named_arrays(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(3), b=np.array("text"), c=np.zeros(2))
    found = read_arrays(path)
    assert {name: array.tolist() for name, array in found.items()} == {
        "a": [0, 1, 2],
        "b": "text",
        "c": [0, 0],
    }
    assert set(read_arrays(path, {"a", "d"})) == {"a"}


def test_an_archive_that_unfolds_too_far(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(1 << 20))
    data = path.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    path.write_bytes(data.replace(size, (0x7FFFFFFF).to_bytes(4, "little")))
    with pytest.raises(DataError, match="unfolds to more than 1 GiB"):
        read_arrays(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(60)])
def test_what_is_no_archive(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: is no \.npz file"):
        read_arrays(path)
    with pytest.raises(DataError, match=r"b\.npz: cannot be read"):
        read_arrays(tmp_path / "b.npz")


def test_any_mutation_gives_arrays_or_one_sentence(tmp_path):
    rng, path = random.Random(SEED), tmp_path / "mutated"
    array = np.arange(30).reshape(5, 6)
    originals = []
    for save, read in ((np.save, read_array), (np.savez, read_arrays)):
        file = io.BytesIO()
        save(file, array)
        originals.append((file.getvalue(), read))
    file = io.BytesIO()
    np.savez_compressed(file, x=array, y=np.array("text"))
    originals.append((file.getvalue(), read_arrays))
    for number in range(CASES):
        content, read = originals[number % len(originals)]
        data = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[place] = rng.randrange(256)
            else:
                data[place : place + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
        path.write_bytes(data)
        with contextlib.suppress(DataError):
            found = read(path)
            arrays = found.values() if isinstance(found, dict) else [found]
            assert all(one.dtype.kind in "biufcU" for one in arrays)
