"""What documents claim about the tree: links, names in code, and what is wrong with them.

Every finder takes text and what really exists, and returns what the text says beyond that, so a
test can hand it made-up text as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_DOTTED = re.compile(
    r"(?<![\w./~-])(?:<\w+>|[a-z][a-z0-9_]*)(?:\.(?:[a-z0-9_]+|\*))+(?![\w/]|\.\w)"
)
_FILES = re.compile(r"\.(json|jsonl|mcap|md|npy|onnx|plan|png|pt|pt2|py|txt|yaml)$")
# What an error message quotes is wrong on purpose.
_QUOTED = re.compile(r"unknown option '[^']*'")


def fences(text: str) -> Iterator[tuple[str, str]]:
    """Language and body of every fenced block."""
    return ((match[1], match[2]) for match in _FENCE.finditer(text))


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def code(text: str) -> list[str]:
    """Everything in code type: spans between backticks, and the lines of fenced blocks."""
    lines = [line for _, body in fences(text) for line in body.replace("\\\n", " ").splitlines()]
    return [*_SPAN.findall(prose(text)), *lines]


def without_sections(text: str, headings: Collection[str]) -> str:
    """The text without the second-level sections of these headings."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    return "".join(part for part in parts if part.partition("\n")[0][3:].strip() not in headings)


def anchors(text: str) -> set[str]:
    """What `#name` may follow a link to this text, as GitHub makes names from headings."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(prose(text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
    repeated = {f"{slug}-{n}" for slug, last in found.items() for n in range(1, last + 1)}
    return {*found, *repeated}


def links(text: str) -> list[str]:
    """Targets of the links and images that lead to no other host."""
    found = _LINK.findall(_SPAN.sub("", prose(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def dead_links(path: Path, text: str) -> list[str]:
    """Relative links and images whose file, or whose heading in it, does not exist.

    Args:
        path: where the text lies or would lie.
        text: Markdown.
    """
    dead = []
    for link in links(text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        is_there = target.exists() or not name
        if is_there and anchor:
            is_there = anchor in anchors(target.read_text("utf-8") if name else text)
        if not is_there:
            dead.append(link)
    return dead


def topic_rows(text: str) -> list[str]:
    """Topics in the first column of the table whose first column is headed `topic`."""
    table = re.search(r"^\| topic.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    rows = table[1].splitlines() if table else []
    return [name for row in rows for name in _SPAN.findall(row.split("|")[1])]


def unknown_topics(text: str, topics: Collection[str]) -> list[str]:
    """Names in code type that begin like a pair's topic and are none."""
    names = [one.removesuffix("/compressed") for one in code(text)]
    return [
        one for one in names if re.fullmatch(r"(rgb|x)/[a-z0-9_/]+", one) and one not in topics
    ]


def unknown_options(text: str, sections: Collection[str], options: Collection[str]) -> list[str]:
    """Dotted names in code type that begin with a section of options and are no option.

    Args:
        text: Markdown; comments of other files go between backticks.
        sections: first parts that make a dotted name one of an option.
        options: dotted names that exist; a number or `<pair>` in the text stands for any part.
    """
    known = set(options)
    prefixes = {name.rsplit(".", n)[0] for name in known for n in range(1, name.count(".") + 1)}
    found = []
    for name in (one for part in code(text) for one in _DOTTED.findall(_QUOTED.sub("", part))):
        first, _, _ = name.partition(".")
        if _FILES.search(name) or (first not in sections and first[0] != "<"):
            continue
        plain = re.sub(r"\.\d+(?=\.)", "", re.sub(r"^<\w+>", "<p>", name)).removesuffix(".*")
        if plain not in known and plain not in prefixes:
            found.append(name)
    return found


def unknown_arguments(text: str, arguments: Collection[str]) -> list[str]:
    """Words before `:=` in code type that are no launch argument; parameters and remaps aside."""
    words = [
        one for part in code(text) for one in re.findall(r"(?<![\w./-])(?<!-[rp] )(\w+):=", part)
    ]
    return [word for word in words if word not in arguments]


def unknown_make_words(
    text: str, targets: Collection[str], variables: Collection[str]
) -> list[str]:
    """Words behind `make` in code type that are neither target nor variable of the Makefile."""
    found = []
    for part in code(text):
        for words in re.findall(r"(?:^|&& |run: )make((?: [\w=<>/.-]+)+)", part.partition("#")[0]):
            for word in words.split():
                name, is_variable, _ = word.partition("=")
                if name not in (variables if is_variable else targets):
                    found.append(word)
    return found


def unknown_modules(
    text: str, ours: Collection[str], can_run: Callable[[str], object]
) -> list[str]:
    """Modules behind `-m` in code type that are ours by name and cannot be run.

    Args:
        text: Markdown.
        ours: our packages.
        can_run: whether `python -m` of a dotted name does something.
    """
    named = [one for part in code(text) for one in re.findall(r"-m ([a-z_]\w*(?:\.\w+)*)", part)]
    return [one for one in named if one.partition(".")[0] in ours and not can_run(one)]


def unknown_executables(text: str, executables: Collection[str]) -> list[str]:
    """Words in code type that are named like an executable of ours and are none."""
    words = [one for part in code(text) for one in re.findall(r"(?<![\w/.-])segrgbx-\w+", part)]
    return [word for word in words if word not in executables]


def unknown_flags(text: str, flags_of: Callable[[str], Collection[str]]) -> list[str]:
    """Options of our commands that their parsers do not have, as `command --option`.

    Args:
        text: Markdown.
        flags_of: options of a command (an executable, or a module behind `-m`), empty for
            commands that are not ours.
    """
    found = []
    for line in code(text):
        for piece in re.split(r"&&|;|\|", line.partition("  #")[0]):
            match = re.match(r"\s*(?:python3? -m )?([\w.-]+)(.*)", piece)
            if match and (known := flags_of(match[1])):
                used = re.findall(r"(?<=\s)--[a-z][\w-]*", match[2].partition("--ros-args")[0])
                found += [f"{match[1]} {one}" for one in used if one not in known]
    return found


def unknown_paths(text: str, root: Path, folders: Collection[str]) -> list[str]:
    """Paths in code type that begin with one of our folders and do not exist.

    Args:
        text: Markdown.
        root: the checkout.
        folders: top-level folders.
    """
    tops = "|".join(sorted(map(re.escape, folders)))
    named = [
        one.rstrip(".,:/")
        for part in code(text)
        for one in re.findall(rf"(?<![\w/.~-])(?:{tops})/[\w./-]*\w", part)
    ]
    return [one for one in named if not (root / one).exists()]


def mentioned_tests(text: str) -> set[str]:
    """File names of tests that are named anywhere in a text."""
    return set(re.findall(r"\btest_\w+\.py\b", text))


def flat_names(data: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all values of nested mappings and of lists of them."""
    for key, value in data.items():
        name = f"{prefix}{key}"
        members = value if isinstance(value, list) else [value]
        nested = [one for one in members if isinstance(one, Mapping)]
        if nested:
            yield from (leaf for one in nested for leaf in flat_names(one, f"{name}."))
        else:
            yield name
