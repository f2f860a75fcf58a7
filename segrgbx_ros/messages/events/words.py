"""Event streams that travel as 16-bit words: EVT3 of Prophesee sensors, libcaer_cmp of iniVation.

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
