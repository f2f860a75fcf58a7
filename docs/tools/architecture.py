"""The architecture in words: modules grouped by their job, and which group imports which.

The groups are a choice, made here; rings, libraries and arrows are read from the source.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cache

import import_graph

HEAVY = "torch"
"""What parts the two import rings: modules that reach it take seconds to import."""
SHOWN_LIBRARIES = (
    "torch", "rclpy", "rosbags", "onnxruntime", "accelerate", "open_clip", "peft", "embreex",
    "cv2", "numpy", "pydantic",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Modules of one package that do one job.

    Attributes:
        package: which package.
        title: the job.
        members: names below the package.
        heavy: which of them reach torch when they are imported.
        libraries: what the members import from outside, the telling ones.
    """

    package: str
    title: str
    members: tuple[str, ...]
    heavy: tuple[str, ...]
    libraries: tuple[str, ...]


@dataclass(frozen=True)
class Arrow:
    """One group imports another.

    Attributes:
        source: index of the group that imports.
        target: index of the group that is imported.
        is_late: True where that happens only when a function runs.
    """

    source: int
    target: int
    is_late: bool


COMMANDS = "__main__"
REST = "*"
# package: (job, patterns of names below the package), from what is started down to what everything
# stands on. The first that fits takes a module; then `__main__` takes what `python -m` runs, and
# `*` the rest.
JOBS: dict[str, tuple[tuple[str, str], ...]] = {
    "segrgbx_ros": (
        ("demo, soak test, timing", "demo* soak overhead roundtrip feeder live player"),
        (
            "the live node",
            "node session worker inputs outputs params reporter diagnostics debug qos watches "
            "event_frames*",
        ),
        (
            "replay: recordings, scored",
            "replay evaluation sinks report truth bags bag_writer topics",
        ),
        ("checkpoint and options to a model", "loading"),
        (
            "messages to pairs",
            "pipeline angles event_* registration geometry messages points compressed_depth",
        ),
        ("options and labels of the node", "config *options *label* parameter_table"),
    ),
    "segrgbx_core": (
        ("bench: time, size, comparison", "bench compare* cost latency startup"),
        ("export to ONNX and AOT", "export export_graphs parity"),
        (
            "Segmenter: samples to predictions",
            "inference engine* *_engine exported aot_package scene_cache decode side_stream "
            "stage_clock cuda_graph heap devices probabilities",
        ),
        ("checkpoints and tensors", "checkpoint batch staging"),
        ("the paper's network; baselines", "model model.* tensor_files"),
        ("encoders: sensor data to X images", "encoders* images overlay"),
        ("pairing by stamp", "align* x_buffers"),
        ("label spaces and scores", "label* metrics"),
        ("records, options, errors", "config errors modality samples *options"),
    ),
    "training": (
        ("commands", f"{COMMANDS} arms"),
        (
            "scores, tables, pictures",
            "scores* ablation* benchmark* drawing* pictures* speed_cost_report synthetic.gallery "
            "evaluate",
        ),
        (
            "stage 1: MA-CLIP",
            "ma_clip_run pairs contrastive text_tower lora retrieval captioners captions",
        ),
        ("stage 2: segmentation", REST),
        ("readers of the data sets", "datasets* audit"),
        ("rendered world with five sensors", "synthetic synthetic.*"),
    ),
}


@cache
def groups() -> tuple[Group, ...]:
    """Every group that has members, by package, in the order of `JOBS`.

    Raises:
        LookupError: when a module fits no job.
    """
    taken: dict[tuple[str, str], list[str]] = {}
    for module in import_graph.modules():
        package, _, name = module.partition(".")
        if name:
            taken.setdefault((package, _job(package, name)), []).append(name)
    return tuple(
        _group(package, job, taken[package, job])
        for package, jobs in JOBS.items()
        for job, _ in jobs
        if (package, job) in taken
    )


def _job(package: str, name: str) -> str:
    path = import_graph.modules()[f"{package}.{name}"]
    is_command = '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    jobs = {pattern: job for job, patterns in JOBS[package] for pattern in patterns.split()}
    special = {COMMANDS: is_command, REST: True}
    for pattern, job in jobs.items():
        if pattern not in special and fnmatch(name, pattern):
            return job
    for pattern, fits in special.items():
        if fits and pattern in jobs:
            return jobs[pattern]
    raise LookupError(f"{path}: fits no job in docs/tools/architecture.py; name it in JOBS")


def _group(package: str, title: str, names: list[str]) -> Group:
    modules = {name: f"{package}.{name}" for name in names}
    heavy = [name for name in names if _reaches_torch(modules[name])]
    used = frozenset[str]().union(*(import_graph.libraries(one) for one in modules.values()))
    return Group(
        package=package,
        title=title,
        members=tuple(names),
        heavy=tuple(heavy),
        libraries=tuple(one for one in SHOWN_LIBRARIES if one in used),
    )


def _reaches_torch(module: str) -> bool:
    reached = import_graph.reached_modules([module])
    return any(HEAVY in import_graph.libraries(one) for one in reached)


def arrows() -> list[Arrow]:
    """Which group imports which, without those that follow from others."""
    early = _edges(late=False)
    late = _edges(late=True) - early
    known = early | late
    return [
        Arrow(source, target, (source, target) in late)
        for source, target in sorted(known)
        if not _follows(source, target, early if (source, target) in early else known)
    ]


def _edges(late: bool) -> set[tuple[int, int]]:
    imports = import_graph.late_imports if late else import_graph.own_imports
    home = {
        f"{group.package}.{name}": index
        for index, group in enumerate(groups())
        for name in group.members
    }
    return {
        (index, home[other])
        for module, index in home.items()
        for other in imports(module)
        if other in home and home[other] != index
    }


def _follows(source: int, target: int, edges: set[tuple[int, int]]) -> bool:
    """True when a longer way leads there, one that does not come back by the target."""
    seen, waiting = {source}, [b for a, b in edges if a == source and b != target]
    while waiting:
        here = waiting.pop()
        if here == target:
            return True
        if here not in seen:
            seen.add(here)
            waiting.extend(b for a, b in edges if a == here and b != source)
    return False


def digest() -> str:
    """Changes with anything that the picture shows."""
    shown = [[asdict(group) for group in groups()], [asdict(arrow) for arrow in arrows()]]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()
