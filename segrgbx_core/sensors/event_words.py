"""Event streams as 16-bit words, decoded and encoded: EVT3 (Prophesee), libcaer_cmp (iniVation).

The upper four bits of a word say what the lower twelve are. Most words only set a register: the
line of pixels, the time, where a vector begins. Some emit events from the registers, a vector word
up to twelve along the line. Here the words of a message are decoded together: which value a
register has at a word follows from how often it was set until then, and one running sum counts
that for all registers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.samples import Events

MAX_SIDE = 1 << 11
"""Both encodings have 11 bits for a coordinate."""
NO_PLACE = 1 << 15
"""A row or column that no sensor has: events that get it are dropped."""
NO_CODE = 16
"""A code that no word has."""
BLOCK_WORDS = (1 << 15) - 1
"""Words decoded at once; the running sum has 16 bits for each of its counts."""
_HIGH_NOISE = 10  # the upper time bits may step back this far without a roll-over
_COUNT_BITS = 16
_FAR = 1 << 30
_COORDINATE, _SIGN_BIT = 0x7FF, 11


class Columns(NamedTuple):
    """Decoded events, one array per property, in the order in which they were emitted.

    `line` is the coordinate that a register holds, `along` the other one.
    """

    line: NDArray[np.int64]
    along: NDArray[np.int64]
    t_us: NDArray[np.int64]
    p: NDArray[np.int64]


@dataclass(frozen=True)
class WordFormat:
    """Which code has which meaning, and what is left of a register by the next message.

    Attributes:
        line: sets the line; 11 bits.
        single: emits one event: 11 bits along the line and the polarity.
        base: where vectors begin: 11 bits along the line and the polarity.
        vector_8: emits an event per set bit of eight, then moves the base by as many.
        vector_12: the same for twelve; `NO_CODE` where the format has none.
        low: lower 12 bits of the time in us.
        high: upper 12 bits.
        rolls_over: True where the time goes on after its 24 bits are full.
    """

    line: int
    single: int
    base: int
    vector_8: int
    vector_12: int
    low: int
    high: int
    rolls_over: bool

    def step(self) -> NDArray[np.int64]:
        """By code, what a word adds to the running sum."""
        table = np.zeros(NO_CODE + 1, np.int64)
        for place, code in enumerate((self.line, self.low, self.high, self.base)):
            table[code] = 1 << _COUNT_BITS * place
        return table

    def advance(self) -> NDArray[np.int64]:
        """By code, how far a word moves the base."""
        table = np.zeros(NO_CODE + 1, np.int64)
        table[self.vector_8] = 8
        table[self.vector_12] = 12
        return table


EVT3 = WordFormat(
    line=0x0, single=0x2, base=0x3, vector_8=0x5, vector_12=0x4, low=0x6, high=0x8, rolls_over=True
)
"""Lines are rows. Time counts on through all messages. Triggers and all else are passed over."""
LIBCAER_CMP = WordFormat(
    line=2, single=3, base=4, vector_8=5, vector_12=NO_CODE, low=1, high=0, rolls_over=False
)
"""Lines are columns. Time counts from the message's `time_base`, no register outlives it."""


@dataclass
class WordDecoder:
    """Decodes the words of one stream, in order; the registers stay between calls.

    Attributes:
        format: meaning of the codes.
        line: register; `NO_PLACE` until it is set.
        base: register, moved on by vectors.
        sign: polarity of vectors.
        high: upper time bits, with the roll-overs above them.
        low: lower time bits.
        has_high: whether `high` was stated.
        has_time: whether both were, `low` after `high`; nothing is emitted before.
        first_us: the first time that the words decoded last state in full; None for none.
    """

    format: WordFormat
    line: int = NO_PLACE
    base: int = NO_PLACE
    sign: int = 0
    high: int = 0
    low: int = 0
    has_high: bool = False
    has_time: bool = False
    first_us: int | None = field(init=False, default=None)
    _step: NDArray[np.int64] = field(init=False, repr=False)
    _advance: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._step, self._advance = self.format.step(), self.format.advance()

    @property
    def now_us(self) -> int:
        """Time of the last word."""
        return (self.high << 12) | self.low

    def forget_place(self) -> None:
        """After lost words: nothing is emitted until line, base and time are stated anew."""
        self.line = self.base = NO_PLACE
        self.has_high = self.has_time = False

    def decode(self, words: NDArray[np.uint16]) -> Columns:
        """The events of these words; those without a known line or base have `NO_PLACE`."""
        self.first_us = None
        blocks = [
            self._block(words[first : first + BLOCK_WORDS])
            for first in range(0, max(len(words), 1), BLOCK_WORDS)
        ]
        if len(blocks) == 1:
            return blocks[0]
        return Columns(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))

    def _block(self, words: NDArray[np.uint16]) -> Columns:
        form, code = self.format, words >> 12
        is_low, is_base = code == form.low, code == form.base
        first = self._first_valid(code, is_low)
        emits = np.flatnonzero(
            (code == form.single) | (code == form.vector_8) | (code == form.vector_12)
        )
        if first:
            emits = emits[emits >= first]
        turn = self._step.take(code).cumsum()
        bases = _Bases(is_base, words[is_base] & 0xFFF, turn)
        along, sign, source = self._along(words, code, emits, bases)
        lines = _register(self.line, words[code == form.line] & _COORDINATE)
        lows = _register(self.low, words[is_low] & 0xFFF)
        highs = self._highs(words[code == form.high])
        stated = first + _first(is_low[first:])
        if self.first_us is None and stated < len(words):
            self.first_us = int(_time_us(highs, lows, turn[stated : stated + 1])[0])
        turn = turn[emits if source is None else emits[source]]
        t_us, line = _time_us(highs, lows, turn), lines[_count(turn, 0)]
        self.line, self.low, self.high = int(lines[-1]), int(lows[-1]), int(highs[-1])
        self.has_high = self.has_high or len(highs) > 1
        self.has_time = self.has_time or first < len(words)
        return Columns(line, along, t_us, sign)

    def _first_valid(self, code: NDArray[np.integer[Any]], is_low: NDArray[np.bool_]) -> int:
        """Index of the first word with a known time."""
        if self.has_time:
            return 0
        start = 0
        if not self.has_high:
            start = _first(code == self.format.high)
        return start + _first(is_low[start:])

    def _highs(self, words: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Upper time bits, that of before first, each with the roll-overs above it."""
        highs = _register(self.high, words & 0xFFF)
        if self.format.rolls_over and len(highs) > 1:
            steps = np.diff(highs[1:], prepend=self.high & 0xFFF)
            turns = np.cumsum(steps < -_HIGH_NOISE) + (self.high >> 12)
            highs[1:] |= turns << 12
        return highs

    def _along(
        self,
        words: NDArray[np.uint16],
        code: NDArray[np.integer[Any]],
        emits: NDArray[np.intp],
        bases: _Bases,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp] | None]:
        """Places along the line and polarities; which of `emits` each is from, None: one each."""
        emitted = words[emits].astype(np.int64) & 0xFFF
        signs = _register(self.sign, bases.values >> _SIGN_BIT)
        origins = _register(self.base, bases.values & _COORDINATE)
        self.sign, self.base = int(signs[-1]), int(origins[-1])
        is_vector = (code == self.format.vector_8) | (code == self.format.vector_12)
        if not is_vector.any():
            return emitted & _COORDINATE, emitted >> _SIGN_BIT, None
        # All vectors move the base, those too that come before the time is known and emit nothing.
        moved = self._advance.take(code).cumsum()
        # A base less what it had been moved by until then: adding `moved` anywhere moves it.
        origins[1:] -= moved[bases.is_set]
        self.base = min(int(origins[-1] + moved[-1]), _FAR)
        which = _count(bases.turn[emits], 3)
        advance = self._advance[code[emits]]
        start = origins[which] + moved[emits] - advance
        masks = emitted & ((1 << advance) - 1)
        is_single = advance == 0
        start[is_single] = emitted[is_single] & _COORDINATE
        masks[is_single] = 1
        sign = np.where(is_single, emitted >> _SIGN_BIT, signs[which])
        source, bit = _unfold(masks)
        return start[source] + bit, sign[source], source


def encode_evt3(events: Events) -> bytes:
    """The words of EVT3 as a Prophesee sensor sends them, single events only.

    Every payload states time and row anew, so any of them can be the first. Times lose what is
    below a microsecond and what is above 24 bits of them: a decoder counts the roll-overs, which
    it can as long as events are less than 16 s apart.

    Raises:
        DataError: when the sensor is too big for the encoding.
    """
    _check_size(events)
    t_us = events.t_ns // 1000
    high, low = (t_us >> 12) & 0xFFF, t_us & 0xFFF
    return _pack(
        (0x8, high, _changes(t_us >> 12)),
        (0x6, low, _changes(t_us)),
        (0x0, events.y, _changes(events.y)),
        (0x2, events.x | (events.p.astype(np.uint16) << 11), np.ones(len(events), np.bool_)),
    )


def encode_libcaer_cmp(events: Events) -> tuple[int, bytes]:
    """The `time_base` in ns and the words of libcaer_cmp as DVXplorers and DAVIS send them.

    Raises:
        DataError: when the sensor is too big for the encoding or the events last 16.7 s or more.
    """
    _check_size(events)
    if len(events) == 0:
        return 0, b""
    base_us = int(events.t_ns[0]) // 1000
    offset = events.t_ns // 1000 - base_us
    if offset[-1] >= 1 << 24:
        raise DataError(f"events of {offset[-1] / 1e6:.1f} s in one packet; 16.7 s fit")
    data = _pack(
        (0x0, offset >> 12, _changes(offset >> 12)),
        (0x1, offset & 0xFFF, _changes(offset)),
        (0x2, events.x, _changes(events.x)),
        (0x3, events.y | (events.p.astype(np.uint16) << 11), np.ones(len(events), np.bool_)),
    )
    return base_us * 1000, data


class _Bases(NamedTuple):
    """Words that set the base of vectors: which they are, what they set, and the running sum."""

    is_set: NDArray[np.bool_]
    values: NDArray[np.integer[Any]]
    turn: NDArray[np.int64]


def _first(mask: NDArray[np.bool_]) -> int:
    """Index of the first True, the length where there is none."""
    index = int(mask.argmax()) if len(mask) else 0
    return index if len(mask) and mask[index] else len(mask)


def _register(before: int, values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The values that a register takes, the one of before first."""
    taken = np.empty(len(values) + 1, np.int64)
    taken[0] = before
    taken[1:] = values
    return taken


def _time_us(
    highs: NDArray[np.int64], lows: NDArray[np.int64], turn: NDArray[np.int64]
) -> NDArray[np.int64]:
    time_us = highs[_count(turn, 2)] << 12
    time_us |= lows[_count(turn, 1)]
    return time_us


def _count(turn: NDArray[np.int64], place: int) -> NDArray[np.int64]:
    """One of the counts of the running sum."""
    return (turn >> _COUNT_BITS * place) & 0xFFFF


def _bit_tables() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """For each 12-bit mask: how many bits are set, where its list begins, and all lists joined."""
    masks = np.arange(1 << 12)[:, None] >> np.arange(12) & 1
    counts = masks.sum(axis=1)
    return counts, np.cumsum(counts) - counts, np.nonzero(masks)[1].astype(np.uint8)


_NUM_BITS, _FIRST_BIT, _BITS = _bit_tables()


def _unfold(masks: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Which mask each set bit belongs to, and its place in the mask; lower bits first."""
    counts = _NUM_BITS[masks]
    shift = np.repeat(_FIRST_BIT[masks] - (np.cumsum(counts) - counts), counts)
    shift += np.arange(len(shift))
    return np.repeat(np.arange(len(masks)), counts), _BITS[shift]


def _check_size(events: Events) -> None:
    if max(events.width, events.height) > MAX_SIDE:
        size = f"{events.width}x{events.height}"
        raise DataError(f"event sensor of {size} px; {MAX_SIDE} px fit into a packet")


def _changes(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """True for the first value and wherever it differs from the one before."""
    changes = np.ones(len(values), np.bool_)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _pack(*columns: tuple[int, NDArray[np.integer], NDArray[np.bool_]]) -> bytes:
    """Words of code and payload, for each event those of its columns that are marked."""
    words = np.stack([payload.astype(np.uint16) | (code << 12) for code, payload, _ in columns], 1)
    marked = np.stack([is_marked for _, _, is_marked in columns], 1)
    return words[marked].astype("<u2").tobytes()
