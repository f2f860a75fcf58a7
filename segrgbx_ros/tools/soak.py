"""Runs the live node for long and says whether anything leaks, ages or gets lost unaccounted.

`python -m segrgbx_ros.tools.soak --minutes 20` (`make soak MINUTES=20`) starts the node in a
process of its own, sends it synthetic frames over DDS and writes `soak.json`: memory over time
with its slope, ages of the masks, whether each answers the newest frame there was, and what became
of every frame. The counts must add up exactly. The rate is halved until the node answers half of
the frames, so that a slow machine can run it too.

With `--chaos` (`make chaos`) two pairs get frames of random sizes and every fault mixed in, and
`chaos.json` is written: the counts must add up, memory must stay, and whole frames must be
answered afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text, write_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.samples import NS_PER_MS
from segrgbx_core.base.tables import Summary
from segrgbx_ros.tools.chaos import CONFIG, PAIRS, ChaosLoad, balance
from segrgbx_ros.tools.load_generator import PAIR, LoadGenerator, ReceivedMask
from segrgbx_ros.tools.node_process import Listener, NodeProcess, own_domain

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
SETTLE_S = 3.0
TRIAL_S = 8.0
LOWEST_HZ = 1.0
TRANSPORT_MS = 100
"""What a frame may take to the node, and a mask from it, on a busy machine."""
AFTER = 20
"""Whole frames of each pair after the faults; some of them must be answered."""
PATIENCE_S = 20.0
"""How long the counts may take to add up once nothing is sent."""
WARM_UP_S = 240.0
"""With images of random sizes, memory pools grow until the largest of them have come by."""
MAX_SLOPE_MB = 1.0
"""Growth in MB per minute from which on memory leaks, once the first quarter is over."""


def soak(
    minutes: float, rate_hz: float, size: tuple[int, int], checkpoint: Path, out: Path
) -> dict[str, Any]:
    """Runs the node and returns the summary; see the module."""
    domain = own_domain()
    parameters = {"model.checkpoint": str(checkpoint), "diagnostics.period_s": 0.5}
    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_large_images.xml")}
    os.environ.update(profile)
    out.mkdir(parents=True, exist_ok=True)
    node = NodeProcess(ROOT / "config/thermal.yaml", out / "node.log", parameters, domain, profile)
    with node, Listener(domain) as listener:
        load = LoadGenerator(listener, *size)
        listener.wait_active(node, START_S)
        while not (load.is_heard and load.received.status):
            node.check()
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        rate_hz = _bearable_rate(load, rate_hz)
        trial = len(load.received.masks)
        memory = _run(node, load, minutes, rate_hz)
        time.sleep(SETTLE_S)
        node.check()
        masks = load.received.masks[trial:]
        counts = _counts(load)
        summary: dict[str, Any] = {
            "minutes": minutes,
            "rate_hz": rate_hz,
            "size": list(size),
            "memory": _memory(memory),
            "ages_ms": Summary.of([mask.age_ms for mask in masks]).to_dict(
                1, ("p50", "p95", "max")
            ),
            "newest_wins": _newest_wins(load.sent_ns, masks, counts),
            "counts": counts,
            "statuses": {name: text for name, (_, text) in load.received.messages.items()},
            "inference": load.received.status.get("inference", {}),
        }
    summary["ok"] = bool(
        counts["adds_up"] and summary["newest_wins"]["kept"] and not summary["memory"]["leaks"]
    )
    write_text(out / "soak.json", json.dumps(summary, indent=2) + "\n")
    return summary


def chaos(
    minutes: float, rate_hz: float, checkpoint: Path, out: Path, seed: int
) -> dict[str, Any]:
    """Runs the node beside faulty drivers of two pairs; see `segrgbx_ros.tools.chaos`."""
    domain = own_domain()
    parameters = {"model.checkpoint": str(checkpoint), "diagnostics.period_s": 0.5}
    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_large_images.xml")}
    os.environ.update(profile)
    write_text(out / "chaos.yaml", CONFIG)
    node = NodeProcess(out / "chaos.yaml", out / "node.log", parameters, domain, profile)
    with node, Listener(domain) as listener:
        load = ChaosLoad(listener, seed)
        listener.wait_active(node, START_S)
        while not (load.is_heard and load.received.status):
            node.check()
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        memory = _run(node, load, minutes, rate_hz)
        time.sleep(SETTLE_S)
        stamps: dict[str, list[int]] = {pair: [] for pair in PAIRS}
        for _ in range(AFTER):
            for pair, sent in stamps.items():
                sent.append(load.send_good(pair))
            time.sleep(0.2)
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and not balance(load)["adds_up"]:
            time.sleep(0.5)
        node.check()
        heard = {mask.stamp_ns for mask in load.received.masks}
        summary: dict[str, Any] = {
            "minutes": minutes,
            "rate_hz": rate_hz,
            "seed": seed,
            "faults": dict(sorted(load.faults.items())),
            "memory": _memory(memory, WARM_UP_S),
            "counts": balance(load),
            "answered_after": {
                pair: len(heard.intersection(sent)) for pair, sent in stamps.items()
            },
            "statuses": {name: text for name, (_, text) in load.received.messages.items()},
        }
    summary["ok"] = bool(
        summary["counts"]["adds_up"]
        and not summary["memory"]["leaks"]
        and all(summary["answered_after"].values())
    )
    write_text(out / "chaos.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _bearable_rate(load: LoadGenerator, rate_hz: float) -> float:
    while True:
        sent, masks = load.sent, len(load.received.masks)
        load.send(TRIAL_S, rate_hz)
        time.sleep(1.0)
        answered = (len(load.received.masks) - masks) / max(1, load.sent - sent)
        if answered >= 0.5 or rate_hz / 2 < LOWEST_HZ:
            return rate_hz
        rate_hz /= 2


def _run(
    node: NodeProcess, load: LoadGenerator | ChaosLoad, minutes: float, rate_hz: float
) -> list[tuple[float, float]]:
    """Memory over time as (s, MB)."""
    memory = []
    began, total_s = time.monotonic(), minutes * 60
    with tqdm(total=round(total_s), unit="s", desc="load") as bar:
        while (passed := time.monotonic() - began) < total_s:
            node.check()
            load.send(min(1.0, total_s - passed), rate_hz)
            memory.append((time.monotonic() - began, node.memory_mb()))
            bar.update(min(round(total_s), round(memory[-1][0])) - bar.n)
    return memory


def _newest_wins(
    sent_ns: Sequence[int], masks: Sequence[ReceivedMask], counts: dict[str, Any]
) -> dict[str, Any]:
    """Whether each mask answers the newest frame that was there when its pass began.

    A pass begins once the mask before it is out, so all that was sent `TRANSPORT_MS` before that
    mask was heard may be answered, and nothing older. A frame that was lost or got no X excuses
    one mask that answers the frame before it.
    """
    skipped = [
        bisect(sent_ns, before.heard_ns - TRANSPORT_MS * NS_PER_MS)
        - bisect(sent_ns, mask.stamp_ns)
        for before, mask in pairwise(masks)
    ]
    late = sum(count > 0 for count in skipped)
    excused = counts["lost_in_transport"] + sum(counts["dropped"].values())
    return {
        "masks": len(masks),
        "older_than_allowed": late,
        "frames_missed_at_most": max(0, *skipped) if skipped else 0,
        "excused": excused,
        "kept": late <= excused,
    }


def _memory(samples: list[tuple[float, float]], warm_up_s: float = 0.0) -> dict[str, Any]:
    """Memory over time; its slope leaves out the first quarter, and the warm-up at least."""
    seconds, megabytes = np.array(samples).T
    late = seconds >= max(seconds[-1] / 4, warm_up_s)  # pools and caches fill at first
    slope = 0.0
    if late.sum() > 2:
        slope = float(np.polyfit(seconds[late], megabytes[late], 1)[0] * 60)
    return {
        "first_mb": round(float(megabytes[0]), 1),
        "last_mb": round(float(megabytes[-1]), 1),
        "max_mb": round(float(megabytes.max()), 1),
        "each_minute_mb": [
            round(float(megabytes[seconds >= start][0]), 1)
            for start in np.arange(0, seconds[-1], 60)
        ],
        "slope_mb_per_min": round(slope, 3),
        # Over a short run the slope is all noise.
        "leaks": bool(slope > MAX_SLOPE_MB and seconds[-1] >= warm_up_s + 120),
    }


def _counts(load: LoadGenerator) -> dict[str, Any]:
    """What became of every RGB frame; `adds_up` when none is unaccounted for."""
    heard = load.received
    sync, inputs = f"{PAIR} sync", f"{PAIR} input"
    received = heard.count(inputs, "rgb_received")
    pairs = sum(heard.count(sync, key) for key in ("pairs", "held", "rgb_only"))
    dropped = heard.prefixed(sync, "dropped_")
    answered = heard.count("inference", "answered_total")
    replaced = heard.count("inference", "replaced_total")
    failed = heard.frame_failures()
    limited = heard.count(sync, "rate_limited")
    cleared = heard.count("inference", "cleared_total")
    adds_up = {
        "received = paired + dropped": received == pairs + sum(dropped.values()),
        "paired = answered + replaced + failed + limited + cleared": pairs
        == answered + replaced + sum(failed.values()) + limited + cleared,
        "published = heard": answered == len(heard.masks),
        "sent >= received": load.sent >= received,
    }
    return {
        "sent": load.sent,
        "lost_in_transport": load.sent - received,
        "received": received,
        "paired": pairs,
        "dropped": dropped,
        "replaced": replaced,
        "rate_limited": limited,
        "failed": failed,
        "published": answered,
        "masks_heard": len(heard.masks),
        "checks": adds_up,
        "adds_up": all(adds_up.values()),
    }


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 when everything adds up and memory stays, 1 when not, 2 for no run."""
    parser = argparse.ArgumentParser(prog="python -m segrgbx_ros.tools.soak", description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=20.0, help="how long (default: %(default)g)")
    add(
        "--rate",
        type=float,
        default=30.0,
        help="frames per second at first (default: %(default)g)",
    )
    add(
        "--size",
        type=image_size,
        default="640x480",
        metavar="WxH",
        help="of RGB (default: %(default)s)",
    )
    add(
        "--checkpoint",
        type=path_text,
        default=str(ROOT / "resource/demo/segrgbx_tiny.safetensors"),
    )
    add(
        "--out",
        type=path_text,
        default="soak_out",
        help="folder for soak.json or chaos.json and the log (default: %(default)s)",
    )
    add("--chaos", action="store_true", help="two pairs, random sizes, every fault mixed in")
    add("--seed", type=int, default=1, help="of the faults of --chaos (default: %(default)s)")
    options = parser.parse_args(arguments)
    checkpoint, out = Path(options.checkpoint), Path(options.out)
    if options.chaos:
        results = chaos(options.minutes, options.rate, checkpoint, out, options.seed)
    else:
        height, width = options.size
        results = soak(options.minutes, options.rate, (width, height), checkpoint, out)
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 0 if results["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
