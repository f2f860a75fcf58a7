"""What the node adds to the model: `python -m segrgbx_ros.tools.overhead --size 1280x720`.

Sends frames over DDS to a node in a process of its own and takes, for every answer, the time from
the middleware's reception of RGB to the end of publication, less the model's own stages; and the
processor time of the whole process per frame. With `--model none` the model costs nothing and
answers one and the same labels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from std_msgs.msg import Float64

from segrgbx_core.base.errors import command
from segrgbx_core.base.files import path_text
from segrgbx_core.base.images import image_size
from segrgbx_core.base.samples import Prediction, RgbxSample
from segrgbx_core.base.tables import Summary
from segrgbx_core.labels.label_space import PublishedLabels
from segrgbx_core.sensors import EncodingConfig
from segrgbx_ros.node import node, process
from segrgbx_ros.tools.load_generator import LoadGenerator
from segrgbx_ros.tools.node_process import Listener, NodeProcess, own_domain

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0
MODEL_STAGES = ("preprocess", "inference", "postprocess")
SERVE = "--serve-nothing"


class NoModel:
    """Stands in for a segmenter: answers at once, always the same."""

    def __init__(self) -> None:
        self.contract = SimpleNamespace(
            encoding=EncodingConfig(), is_random=True, warning="", modalities=()
        )
        self.checkpoint = SimpleNamespace(name="none", hash="none")
        self.classes = PublishedLabels(("thing",), ((255, 0, 0),), space="none", hash="none")
        self.device = SimpleNamespace(type="cpu")
        self.device_name, self.precision, self.memory = "cpu", "none", 0
        self._answers: dict[tuple[int, ...], Any] = {}

    def classes_of(self, label_space: str) -> PublishedLabels:  # noqa: ARG002
        """One class, whatever is asked for."""
        return self.classes

    def forget_scenes(self) -> None:
        """Nothing: it keeps none."""

    def predict(
        self,
        samples: Sequence[RgbxSample],
        streams: Sequence[str],  # noqa: ARG002
        label_spaces: Sequence[str],  # noqa: ARG002
        min_confidence: float,  # noqa: ARG002
    ) -> list[Prediction]:
        """One and the same answer per size."""
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: RgbxSample) -> Prediction:
        size = sample.rgb.shape[:2]
        if size not in self._answers:
            zeros = np.zeros(size, np.uint8)
            self._answers[size] = zeros, zeros.copy(), np.zeros((8, 8, 3), np.float32)
        labels, confidence, x_image = self._answers[size]
        return Prediction(
            labels, confidence, x_image, sample.modality, sample.stamp_ns, sample.frame_id
        )


def serve_nothing(arguments: Sequence[str]) -> int:
    """The node with `NoModel` for a model."""
    vars(node)["loaded_segmenter"] = lambda *_: NoModel()
    return process.main(["segrgbx-node", *arguments])


def measure(
    size: tuple[int, int], frames: int, rate_hz: float, checkpoint: str, folder: Path
) -> dict[str, Any]:
    """Durations in ms of `frames` answers.

    Args:
        size: width and height of RGB.
        frames: how many to send.
        rate_hz: how fast; slower than the model, else waiting is measured.
        checkpoint: path, empty for no model at all.
        folder: for the node's log.
    """
    domain = own_domain()
    profile = {"FASTDDS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_large_images.xml")}
    os.environ.update(profile)
    program = (
        ("-m", "segrgbx_ros.node") if checkpoint else ("-m", "segrgbx_ros.tools.overhead", SERVE)
    )
    parameters = {"model.checkpoint": checkpoint or "none", "output.publish_debug": True}
    process = NodeProcess(
        ROOT / "config/thermal.yaml", folder / "node.log", parameters, domain, profile, program
    )
    durations: dict[str, list[float]] = {stage: [] for stage in ("total", *MODEL_STAGES)}
    with process, Listener(domain) as listener:
        load = LoadGenerator(listener, *size)
        for stage, values in durations.items():
            topic = f"/segrgbx/debug/{stage}_ms"
            listener.subscribe(Float64, topic, partial(_keep, values))
        listener.wait_active(process, START_S)
        while not load.is_heard:
            time.sleep(0.1)
        time.sleep(2.0)
        before_s = process.cpu_s()
        load.send(frames / rate_hz, rate_hz)
        time.sleep(1.0)
        cpu_s = process.cpu_s() - before_s
    # Unlike the durations, the processor's time hardly depends on what else runs.
    per_frame = round(1e3 * cpu_s / max(1, load.sent), 2)
    return {**_summary(durations, load), "cpu_ms_per_frame": per_frame}


def _keep(values: list[float], message: Any) -> None:
    values.append(message.data)


def _summary(durations: dict[str, list[float]], load: LoadGenerator) -> dict[str, Any]:
    total = np.array(durations["total"])
    stages = [np.array(durations[stage]) for stage in MODEL_STAGES]
    number = min(len(total), *(len(values) or len(total) for values in stages))
    model = sum((values[:number] for values in stages if len(values)), np.zeros(number))
    kept = slice(number // 10, number)  # the first ones fill caches
    results: dict[str, Any] = {"frames": load.sent, "answers": len(total)}
    for name, values in (
        ("node_ms", (total[:number] - model)[kept]),
        ("model_ms", np.asarray(model)[kept]),
        ("stamp_to_heard_ms", np.array([mask.age_ms for mask in load.received.masks])),
    ):
        if len(values):
            results[name] = Summary.of(list(values)).to_dict(2, ("p50", "p95"))
    return results


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == [SERVE]:
        return serve_nothing(words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m segrgbx_ros.tools.overhead", description=__doc__
    )
    add = parser.add_argument
    add(
        "--size",
        type=image_size,
        default="1280x720",
        metavar="WxH",
        help="of RGB (default: %(default)s)",
    )
    add("--frames", type=int, default=100, help="how many (default: %(default)s)")
    add("--rate", type=float, default=5.0, help="frames per second (default: %(default)g)")
    add(
        "--model",
        type=path_text,
        default="none",
        help="checkpoint, or none (default: %(default)s)",
    )
    options = parser.parse_args(words)
    height, width = options.size
    checkpoint = "" if options.model == "none" else options.model
    with tempfile.TemporaryDirectory() as folder:
        results = measure((width, height), options.frames, options.rate, checkpoint, Path(folder))
    sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
