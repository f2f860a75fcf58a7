"""Files: expansion of `~`, bounded reads, JSON, atomic writes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from segrgbx_core.base.errors import ConfigError, DataError, SegrgbxError, shortened

_PARTIAL = ".part"
_MOST_JSON = 1 << 30
"""Bytes; labels of a large data set in one file take hundreds of megabytes."""


def expand_home(text: str) -> str:
    """A path with a leading `~` or `~user` replaced by that home folder.

    Raises:
        ConfigError: when the home folder is not known.
    """
    if not text.startswith("~"):
        return text
    expanded = os.path.expanduser(text)  # noqa: PTH111 - text stays text: "" is no path
    if expanded.startswith("~"):
        raise ConfigError(
            f"{shortened(text, 200)}: the home folder of "
            f"'{shortened(text.split('/', 1)[0])}' is not known; write the whole "
            "path, or ./~ for a folder of that name"
        )
    return expanded


def path_text(text: str) -> str:
    """`type=` of a command line's argument that is a path, as text; see `expand_home`."""
    try:
        return expand_home(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def user_path(text: str) -> Path:
    """`type=` of a command line's argument that is a path; see `expand_home`."""
    return Path(path_text(text))


def read_bytes(path: Path | str, limit: int, error: type[SegrgbxError] = DataError) -> bytes:
    """The bytes of a file.

    Args:
        path: the file, a regular one: a pipe without a writer would be waited for without end.
        limit: most bytes.
        error: what is raised when it cannot be read or is longer.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error(f"{path}: is no regular file; expected one")
            data = file.read(limit + 1)
    except (OSError, ValueError) as cause:  # a path may hold a NUL
        reason = getattr(cause, "strerror", None) or cause
        raise error(f"{path}: cannot be read ({reason}); check the path") from None
    if len(data) > limit:
        size = f"{limit >> 30} GiB" if limit >> 30 else f"{limit >> 20} MiB"
        raise error(f"{path}: is larger than {size}; is it the right file?")
    return data


def parse_json(
    text: str | bytes | bytearray,
    where: str,
    error: type[SegrgbxError] = DataError,
    advice: str = "is it the right file?",
) -> Any:
    """The value of a JSON text, UTF-8 where it is bytes.

    Args:
        text: the text.
        where: its file, for errors.
        error: what is raised when it is no JSON, or nested too deep.
        advice: what to do then.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as cause:
        is_deep = isinstance(cause, RecursionError)
        reason = "nested too deep" if is_deep else f"not JSON: {shortened(str(cause))}"
        raise error(f"{where} is damaged ({reason}); {advice}") from None


def read_json(
    path: Path | str,
    error: type[SegrgbxError] = DataError,
    advice: str = "is it the right file?",
) -> Any:
    """The value of a JSON file; errors as in `read_bytes` and `parse_json`."""
    return parse_json(read_bytes(path, _MOST_JSON, error), f"{path}:", error, advice)


@contextmanager
def replacing(
    path: Path | str,
    error: type[SegrgbxError] = DataError,
    failures: tuple[type[Exception], ...] = (OSError,),
) -> Iterator[Path]:
    """Writes a file whole or not at all.

    The body writes to a temporary name in the same folder. When it ends, the file is flushed to
    disk and renamed; when it raises, an earlier file of that name is unchanged.

    Args:
        path: the file; its folder is created when missing.
        error: what is raised when the disk is full or cannot be written to.
        failures: exceptions of the body that are reported as `error`.

    Yields:
        the temporary name.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        _flush(part)
        part.replace(path)
        _flush(path.parent)
    except failures as cause:
        first = cause.__context__ if isinstance(cause.__context__, OSError) else cause
        raise error(
            f"{path}: cannot be written ({first}), {free_space(path)} free there; check space and "
            "rights. An earlier file of that name is as it was"
        ) from cause
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes, error: type[SegrgbxError] = DataError) -> None:
    """Writes a file whole or not at all; see `replacing`."""
    with replacing(path, error) as part:
        part.write_bytes(data)


def write_text(path: Path | str, text: str, error: type[SegrgbxError] = DataError) -> None:
    """Writes a UTF-8 text file whole or not at all; see `replacing`."""
    write_bytes(path, text.encode(), error)


def remove_partials(folder: Path, depth: int = 1) -> None:
    """Removes files that `replacing` began in processes that were killed.

    Args:
        folder: where to look.
        depth: 1 for the folder alone, 2 for its folders, too.
    """
    for level in range(depth):
        for part in folder.glob(f"{'*/' * level}.*{_PARTIAL}"):
            part.unlink(missing_ok=True)


def free_space(path: Path) -> str:
    """What is left on the disk of a file, such as "3.1 GB"."""
    try:
        left = shutil.disk_usage(path.parent).free
    except OSError:
        return "an unknown amount"
    return f"{left / 1e9:.1f} GB" if left >= 1e8 else f"{left / 1e6:.1f} MB"


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
