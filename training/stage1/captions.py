"""The captions that stage 1 learns from: written once with their origin, checked for quality."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from open_clip.tokenizer import SimpleTokenizer
from tqdm import tqdm

from segrgbx_core.base.errors import ConfigError, DataError, shortened
from segrgbx_core.labels.label_space import synthetic_label_space
from training.data.datasets import Reader, joined_space
from training.stage1.captioners import CaptionerConfig, Picture, build_captioner
from training.stage1.config import PairRun

log = logging.getLogger(__name__)

CONTEXT = 77
"""Tokens that CLIP's text tower reads, begin and end marks included."""
_LISTED = 12
_RARE_WORDS = (
    *("backlit", "bicyclist", "bollard", "countertop", "glistening", "hydrant", "kerb", "lidar"),
    *("moped", "oncoming", "thermogram", "unlit"),
)
"""Words of streets, rooms and sensors that CLIP's tokenizer takes apart."""


@dataclass(frozen=True)
class Caption:
    """One line of a caption file.

    Attributes:
        sample: see `sample_id`.
        text: the caption.
        backend: which captioner.
        model: its model, empty for none.
        revision: commit or content hash of the model.
        prompt: what the model was asked, empty for nothing.
        decoding: how the text was drawn from the model.
        tokens: length for CLIP's tokenizer, begin and end marks included, before any cut.
        seed: random seed.
    """

    sample: str
    text: str
    backend: str
    model: str = ""
    revision: str = ""
    prompt: str = ""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    tokens: int = 0
    seed: int = 0


def sample_id(reader: Reader, name: str) -> str:
    """`<data set>/<name>`; names are unique over the splits of a data set, X does not matter."""
    return f"{reader.native}/{name}"


def sample_ids(reader: Reader) -> list[str]:
    """Ids of all samples of a reader, in order; reads the samples where it does not list names."""
    names: Sequence[str] | None = getattr(reader, "ids", None)
    if names is None:
        names = [reader[index].name for index in range(len(reader))]
    return [sample_id(reader, name) for name in names]


def normalised(text: str) -> str:
    """A caption as it is compared: lower case, single spaces, no full stop at the end."""
    return " ".join(text.lower().split()).rstrip(string.punctuation + " ")


def caption_id(text: str) -> int:
    """Identity of what a caption says: 63 bits of the hash of its normalised text."""
    digest = hashlib.sha256(normalised(text).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def read_captions(path: Path | str) -> dict[str, Caption]:
    """Captions of a file by sample.

    Raises:
        DataError: when the file is missing or broken, or a sample has two different texts.
    """
    path = Path(path)
    lines = _lines(path, "; write captions with `python -m training.captions`")
    captions: dict[str, Caption] = {}
    for number, line in enumerate(lines, start=1):
        try:
            caption = _caption(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            reason = shortened(str(error))
            raise DataError(f"{path}: line {number} is no caption ({reason})") from None
        earlier = captions.setdefault(caption.sample, caption)
        if earlier.text != caption.text:
            raise DataError(f"{path}: line {number}: '{caption.sample}' has a second caption")
    return captions


def _caption(fields: Any) -> Caption:
    caption = Caption(**fields)
    for name, default in asdict(Caption("", "", "")).items():
        value = getattr(caption, name)
        if type(value) is not type(default):
            raise TypeError(f"{name} is {shortened(repr(value))}")
    return caption


def _lines(path: Path, advice: str = "") -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}){advice}") from None


def count_tokens(text: str) -> int:
    """Length of a caption for CLIP's tokenizer, begin and end marks included, without a cut."""
    return len(_tokenizer().encode(text)) + 2


def write_captions(
    path: Path | str, readers: Iterable[Reader], config: CaptionerConfig, limit: int = 0
) -> dict[str, Caption]:
    """Captions what a file does not hold yet; every batch is on disk before the next begins.

    Args:
        path: caption file; made, or gone on with.
        readers: data sets. One RGB image under several X modalities is captioned once.
        config: the captioner.
        limit: samples per reader, 0 for all.

    Returns:
        every caption of the file.

    Raises:
        ConfigError: when the file was begun with another captioner.
        DataError: when the file is broken.
    """
    path = Path(path)
    captioner = build_captioner(config)
    origin = {"backend": config.backend, "seed": config.seed, **captioner.origin}
    _drop_torn_line(path)
    captions = read_captions(path) if path.exists() else {}
    _require_same(path, captions, origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for reader in readers:
            for pictures in _batches(reader, captions, config.batch_size, limit):
                texts = captioner.caption(pictures)
                for picture, text in zip(pictures, texts, strict=True):
                    tokens = count_tokens(text)
                    line = Caption(sample=picture.sample, text=text, tokens=tokens, **origin)
                    file.write(json.dumps(asdict(line)) + "\n")
                    captions[line.sample] = line
                file.flush()
    return captions


def _batches(
    reader: Reader, known: Mapping[str, Caption], size: int, limit: int
) -> Iterator[list[Picture]]:
    space = joined_space([reader], None)
    native = space.native(reader.native)
    unified = tuple(space.names[place] for place in native.to_unified)
    ids = sample_ids(reader)
    wanted = [index for index in range(len(ids))[: limit or None] if ids[index] not in known]
    bar = tqdm(total=len(wanted), unit="picture", desc=f"captions of {reader.native}")
    with bar:
        for start in range(0, len(wanted), size):
            indices = wanted[start : start + size]
            items = [reader[index] for index in indices]
            yield [
                Picture(
                    ids[index],
                    item.sample.rgb,
                    item.labels,
                    native.names,
                    unified,
                    item.facts,
                    item.groups,
                )
                for index, item in zip(indices, items, strict=True)
            ]
            bar.update(len(indices))


def _drop_torn_line(path: Path) -> None:
    """Cuts off what a killed run had written of a line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)


def _require_same(path: Path, captions: Mapping[str, Caption], origin: Mapping[str, Any]) -> None:
    for caption in captions.values():
        for name, value in origin.items():
            if getattr(caption, name) != value:
                raise ConfigError(
                    f"{path}: was begun with {name} {getattr(caption, name)!r}, now {value!r}; "
                    "choose another file, or remove it"
                )
        return


@dataclass(frozen=True)
class Quality:
    """What is wrong with the captions of one data set.

    Attributes:
        data: name of the data set.
        captions: how many.
        unique: how many different ones, by `normalised`.
        empty: captions without a word.
        strange: words in no list, with the number of captions that hold them.
        cut: captions that are longer than CLIP's text tower reads.
        words: mean number of words.
    """

    data: str
    captions: int
    unique: int
    empty: int
    strange: Mapping[str, int]
    cut: int
    words: float

    def lines(self) -> list[str]:
        """The report as lines of text, warnings marked."""
        lines = [
            f"{self.data}: {self.captions} captions, {self.words:.1f} words on average, "
            f"{self.unique} different ({self.unique / max(self.captions, 1):.1%})"
        ]
        if self.empty:
            lines.append(f"  warning: {self.empty} are empty")
        if self.cut:
            lines.append(
                f"  warning: {self.cut} have more than {CONTEXT} tokens; CLIP reads the first "
                f"{CONTEXT}"
            )
        if self.strange:
            ranked = sorted(self.strange.items(), key=lambda item: (-item[1], item[0]))
            shown = ", ".join(f"{word} ({count})" for word, count in ranked[:_LISTED])
            lines.append(f"  {len(ranked)} words outside the word list: {shown}")
        return lines


def examine(
    captions: Iterable[Caption], is_word: Callable[[str], bool] | None = None
) -> list[Quality]:
    """Quality per data set: non-words, repetitions, empty and cut captions."""
    is_word = is_word or WordList().__contains__
    by_set: dict[str, list[Caption]] = {}
    for caption in captions:
        by_set.setdefault(caption.sample.partition("/")[0], []).append(caption)
    reports = []
    for name, group in by_set.items():
        found = [words_of(caption.text) for caption in group]
        strange = Counter(word for words in found for word in set(words) if not is_word(word))
        reports.append(
            Quality(
                data=name,
                captions=len(group),
                unique=len({normalised(caption.text) for caption in group}),
                empty=sum(not words for words in found),
                strange=dict(strange),
                cut=sum(caption.tokens > CONTEXT for caption in group),
                words=sum(map(len, found)) / len(group),
            )
        )
    return reports


def words_of(text: str) -> list[str]:
    """Words of a caption in lower case; numbers and the parts of hyphenated words on their own."""
    return re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())


class WordList:
    """Words that exist, without a download.

    CLIP's tokenizer brings about 24 000 whole words that are common next to pictures on the web.
    A word counts as known when it is one of them, part of a class name, two of them in one
    ("crosswalk") or an inflection. Rare words are missed, so the report says "outside the list";
    "arafed", the artefact that the paper shows, is outside. A file of words sharpens the list.

    Args:
        path: one word per line, such as /usr/share/dict/words; empty for none.
    """

    _ENDINGS = ("'s", "s", "es", "ed", "d", "ing", "er", "ers", "ly", "less")
    _SHORTEST_PART = 4

    def __init__(self, path: Path | str = "") -> None:
        vocabulary = (word.removesuffix("</w>") for word in _tokenizer().encoder)
        ends = {word for word in _tokenizer().encoder if word.endswith("</w>")}
        self._words = {word for word in vocabulary if word.isalpha() and f"{word}</w>" in ends}
        self._words.update(_RARE_WORDS)
        space = synthetic_label_space()
        for names in (space.names, *(native.names for native in space.natives)):
            self._words.update(word for name in names for word in words_of(name))
        if path:
            self._words.update(word for line in _lines(Path(path)) for word in words_of(line))

    def __contains__(self, word: object) -> bool:
        text = str(word)
        stems = [text.removesuffix(ending) for ending in self._ENDINGS if text.endswith(ending)]
        stems += [f"{stem}e" for stem in stems]
        return any(map(self._is_known, [text, *stems]))

    def _is_known(self, word: str) -> bool:
        short = self._SHORTEST_PART
        if word in self._words:
            return True
        cuts = range(short, len(word) - short + 1)
        return any(word[:cut] in self._words and word[cut:] in self._words for cut in cuts)


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def caption_run(run: PairRun, config: CaptionerConfig, limit: int = 0) -> dict[str, Caption]:
    """Captions all data sets of a run, both splits."""
    readers = [
        data.open(split)
        for data in run.data
        for split in dict.fromkeys((data.train_split, data.val_split))
    ]
    return write_captions(run.captions, readers, config, limit)
