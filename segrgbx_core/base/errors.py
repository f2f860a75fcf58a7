"""Errors for users: `place: what is wrong, with the value; what is allowed; what to do`."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable, Iterable
from typing import ParamSpec

_P = ParamSpec("_P")


class SegrgbxError(Exception):
    """Base of all user errors."""


class ConfigError(SegrgbxError, ValueError):
    """An option is unknown, of the wrong type or out of range."""


class CheckpointError(SegrgbxError, ValueError):
    """A checkpoint is missing, foreign, or does not fit the options."""


class DataError(SegrgbxError, ValueError):
    """A file or recording is missing, unreadable or holds values outside its table."""


class EncodingError(SegrgbxError, ValueError):
    """A sensor sample cannot be turned into arrays or into an X image."""


class ModelOutputError(SegrgbxError):
    """The network answered without one finite number."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest known name, or the known names when none is near.

    Args:
        name: what the user wrote.
        known: every allowed name.

    Returns:
        `" (did you mean 'modality'?)"` or `" (known: a, b, c)"`, ready to append to a message.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f" (did you mean '{near[0]}'?)"
    return f" (known: {', '.join(names)})" if names else ""


def shortened(text: str, limit: int = 80) -> str:
    """Text of unknown length for a message: control characters escaped, cut at `limit`."""
    part = text[: limit + 1]
    clean = part if part.isprintable() else repr(part)[1:-1]
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def command(*also: type[Exception]) -> Callable[[Callable[_P, int]], Callable[_P, int]]:
    """Makes a function the `main` of a command line: a user error ends it with one line.

    Args:
        also: further user errors, such as OSError.

    Returns:
        a decorator; instead of raising one of these errors, the function writes it to standard
        error and returns the exit status 2. Others keep their traceback.
    """
    mistakes: tuple[type[Exception], ...] = (SegrgbxError, *also)

    def decorate(main: Callable[_P, int]) -> Callable[_P, int]:
        @functools.wraps(main)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except mistakes as error:
                sys.stderr.write(f"{error}\n")
                return 2

        return run

    return decorate
