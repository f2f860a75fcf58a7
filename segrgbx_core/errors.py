"""Errors for users: `place: what is wrong, with the value; what is allowed; what to do`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SegrgbxError(Exception):
    """Base of every error that a user of segrgbx can cause and cure."""


class ConfigError(SegrgbxError, ValueError):
    """An option is unknown, of the wrong type or out of range."""


class CheckpointError(SegrgbxError, ValueError):
    """A checkpoint is missing, foreign, or does not fit what is asked of it."""


class DataError(SegrgbxError, ValueError):
    """A file or recording is missing, unreadable or holds values outside its table."""


class EncodingError(SegrgbxError, ValueError):
    """A sensor sample cannot be turned into arrays or into an X image."""


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
