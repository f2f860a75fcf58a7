"""Event streams as 16-bit words, decoded and encoded: EVT3 (Prophesee), libcaer_cmp (iniVation).

The upper four bits of a word say what the lower twelve are. Most words only set a register: the
line of pixels, the time, where a vector begins. Some emit events from the registers, a vector word
up to twelve along the line. Here the words of a message are decoded together: which value a
register has at a word follows from how often it was set until then, and one running sum counts
that for all registers at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import cached_property
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
_LOW_BITS = (1 << np.arange(13)) - 1
"""Masks of 0 to 12 bits."""


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


class WordDecoder:
    """Decodes the words of one stream, in order; the registers stay between calls.

    Args:
        form: meaning of the codes.
        has_high: whether the upper time bits are known from the start.
        has_time: whether the whole time is; nothing is emitted before.
        block_words: words decoded at once, at most `BLOCK_WORDS`.

    Attributes:
        has_time: whether upper and lower time bits were stated, the lower ones last.
        first_us: the first time that the words decoded last state in full; None for none.
        num_cut: events of the words decoded last beyond the bound that was given.
    """

    def __init__(
        self,
        form: WordFormat,
        *,
        has_high: bool = False,
        has_time: bool = False,
        block_words: int = BLOCK_WORDS,
    ) -> None:
        self.has_time = has_time
        self.first_us: int | None = None
        self.num_cut = 0
        self._form = form
        self._step, self._advance = form.step(), form.advance()
        self._block_words = block_words
        # The registers. `high` has the roll-overs above its 12 bits, vectors move `base` on.
        self._line = self._base = NO_PLACE
        self._sign = self._high = self._low = 0
        self._has_high = has_high

    @property
    def now_us(self) -> int:
        """Time of the last word."""
        return (self._high << 12) | self._low

    def forget_place(self) -> None:
        """After lost words: nothing is emitted until line, base and time are stated anew."""
        self._line = self._base = NO_PLACE
        self._has_high = self.has_time = False

    def decode(
        self, words: NDArray[np.uint16], extent: tuple[int, int], max_events: int
    ) -> Columns:
        """The events of these words on the sensor.

        A few words can stand for millions of events, so what lies beyond the sensor or the bound
        is cut away before vectors are unfolded.

        Args:
            words: the payload of a message.
            extent: number of lines, and of pixels along one; events beyond are dropped.
            max_events: bound; of more events the newest are kept, and `num_cut` counts the others.
        """
        self.first_us, self.num_cut = None, 0
        kept: deque[_Emitted] = deque()
        total = 0
        for first in range(0, len(words), self._block_words):
            emitted = self._block(words[first : first + self._block_words], extent)
            if emitted.num_events:
                kept.append(emitted)
                total += emitted.num_events
            while kept and total - kept[0].num_events >= max_events:
                total -= kept[0].num_events
                self.num_cut += kept.popleft().num_events
        if total > max_events:
            newest = kept[0].newest(kept[0].num_events - (total - max_events))
            self.num_cut += kept[0].num_events - newest.num_events
            kept[0] = newest
        parts = [emitted.unfolded() for emitted in kept]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return Columns(*np.empty((4, 0), np.int64))
        return Columns(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _block(self, words: NDArray[np.uint16], extent: tuple[int, int]) -> _Emitted:
        form, code = self._form, words >> 12
        is_low, is_base = code == form.low, code == form.base
        first = self._first_valid(code, is_low)
        is_vector = (code == form.vector_8) | (code == form.vector_12)
        emits = np.flatnonzero((code == form.single) | is_vector)
        if first:
            emits = emits[emits >= first]
        turn = self._step.take(code).cumsum()
        lines = _register(self._line, words[code == form.line] & _COORDINATE)
        lows = _register(self._low, words[is_low] & 0xFFF)
        highs = self._highs(words[code == form.high])
        stated = first + _first(is_low[first:])
        if self.first_us is None and stated < len(words):
            self.first_us = int(_time_us(highs, lows, turn[stated : stated + 1])[0])
        bases = _Bases(is_base, words[is_base] & 0xFFF, turn[emits])
        along, sign, masks = self._along(words, code, emits, bases, is_vector)
        turn = bases.turn
        line = lines[_count(turn, 0)]
        self._line, self._low, self._high = int(lines[-1]), int(lows[-1]), int(highs[-1])
        self._has_high = self._has_high or len(highs) > 1
        self.has_time = self.has_time or first < len(words)
        is_inside = line < extent[0]
        if masks is None:
            is_inside &= along < extent[1]
        else:
            masks &= _LOW_BITS[np.clip(extent[1] - along, 0, 12)]
            is_inside &= masks > 0
        if not is_inside.all():
            line, along, sign, turn = (part[is_inside] for part in (line, along, sign, turn))
            masks = None if masks is None else masks[is_inside]
        columns = Columns(line, along, _time_us(highs, lows, turn), sign)
        return _Emitted(columns, None if masks is None else (masks, _NUM_BITS[masks]))

    def _first_valid(self, code: NDArray[np.integer[Any]], is_low: NDArray[np.bool_]) -> int:
        """Index of the first word with a known time."""
        if self.has_time:
            return 0
        start = 0
        if not self._has_high:
            start = _first(code == self._form.high)
        return start + _first(is_low[start:])

    def _highs(self, words: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Upper time bits, that of before first, each with the roll-overs above it."""
        highs = _register(self._high, words & 0xFFF)
        if self._form.rolls_over and len(highs) > 1:
            steps = np.diff(highs[1:], prepend=self._high & 0xFFF)
            turns = np.cumsum(steps < -_HIGH_NOISE) + (self._high >> 12)
            highs[1:] |= turns << 12
        return highs

    def _along(
        self,
        words: NDArray[np.uint16],
        code: NDArray[np.integer[Any]],
        emits: NDArray[np.intp],
        bases: _Bases,
        is_vector: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
        """Of each word that emits: its first place along the line, polarity, bits from there on.

        The bits are None where every word emits one event.
        """
        emitted = words[emits].astype(np.int64) & 0xFFF
        signs = _register(self._sign, bases.values >> _SIGN_BIT)
        origins = _register(self._base, bases.values & _COORDINATE)
        self._sign, self._base = int(signs[-1]), int(origins[-1])
        if not is_vector.any():
            return emitted & _COORDINATE, emitted >> _SIGN_BIT, None
        # All vectors move the base, those too that come before the time is known and emit nothing.
        moved = self._advance.take(code).cumsum()
        # A base less what it had been moved by until then: adding `moved` anywhere moves it.
        origins[1:] -= moved[bases.is_set]
        self._base = min(int(origins[-1] + moved[-1]), _FAR)
        which = _count(bases.turn, 3)
        advance = self._advance[code[emits]]
        start = origins[which] + moved[emits] - advance
        masks = emitted & _LOW_BITS[advance]
        is_single = advance == 0
        start[is_single] = emitted[is_single] & _COORDINATE
        masks[is_single] = 1
        return start, np.where(is_single, emitted >> _SIGN_BIT, signs[which]), masks


class _Bases(NamedTuple):
    """Words that set the base of vectors: which they are, what they set; the sum where emitted."""

    is_set: NDArray[np.bool_]
    values: NDArray[np.integer[Any]]
    turn: NDArray[np.int64]


@dataclass(frozen=True)
class _Emitted:
    """Words of a block that emit events.

    Attributes:
        columns: of each word; `along` is the place of the lowest bit.
        vectors: each word's bits and their number, None where every word emits one event.
    """

    columns: Columns
    vectors: tuple[NDArray[np.int64], NDArray[np.int64]] | None

    @cached_property
    def num_events(self) -> int:
        """Events that the words stand for."""
        return len(self.columns.line) if self.vectors is None else int(self.vectors[1].sum())

    def newest(self, number: int) -> _Emitted:
        """The last words, with at most `number` events."""
        if self.vectors is None:
            return _Emitted(Columns(*(part[-number:] for part in self.columns)), None)
        masks, counts = self.vectors
        words = int(np.searchsorted(counts[::-1].cumsum(), number, side="right"))
        newest = slice(len(masks) - words, None)
        columns = Columns(*(part[newest] for part in self.columns))
        return _Emitted(columns, (masks[newest], counts[newest]))

    def unfolded(self) -> Columns:
        """One row per event."""
        if self.vectors is None:
            return self.columns
        word, bit = _unfold(*self.vectors)
        line, along, t_us, p = (part[word] for part in self.columns)
        along += bit
        return Columns(line, along, t_us, p)


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


def _unfold(
    masks: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Which mask each set bit belongs to, and its place in the mask; lower bits first."""
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
