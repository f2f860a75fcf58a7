"""A recording of one camera with thermal and depth beside it, and options that fuse both."""

import cv2
import numpy as np

from segrgbx_core.bags.bag_writer import BagWriter
from segrgbx_core.labels.label_space import VOID

MS = 1_000_000
START = 1_700_000_000_000 * MS
STEP = 200 * MS
FRAMES = 6
DEAD, LATE = 2, 4
"""The frames without depth: an image of zeros, and none at all."""
PAIRS = ("thermal", "depth")
NAMES = (*PAIRS, "front")
SIZE = 48, 64

# A queue instead of "newest wins", so that a busy machine answers every frame; one pair per pass,
# because batches of other sizes round differently.
CONFIG = """
/**:
  ros__parameters:
    pairs: [thermal, depth]
    fuse: {front: [thermal, depth]}
    model: {checkpoint: CHECKPOINT, device: cpu, input_height: 64, input_width: 64}
    batch: {max_size: 1}
    drop: {policy: queue, queue_size: 100}
    sync: {on_missing_x: rgb_only, wait_ms: 100.0}
"""


def smooth(rng):
    return cv2.resize(rng.random((6, 8)), SIZE[::-1])


def write_config(path, checkpoint):
    path.write_text(CONFIG.replace("CHECKPOINT", str(checkpoint)))
    return path


def write_recording(path, has_truth=True):
    """One RGB topic, `/camera`; the truth lies beside thermal."""
    rng = np.random.default_rng(3)
    with BagWriter(path) as bag:
        for index in range(FRAMES):
            stamp = START + index * STEP
            rgb = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
            thermal = (28000 + 3000 * smooth(rng)).astype(np.uint16)
            depth = (3 + 37 * smooth(rng)).astype(np.float32) * (index != DEAD)
            truth = np.full(SIZE, index, np.uint8)
            truth[:, :8] = VOID
            bag.write("/thermal/x/image", bag.image(thermal, "16UC1", stamp + MS), stamp + MS)
            if index != LATE:
                bag.write("/depth/x/image", bag.image(depth, "32FC1", stamp), stamp + 2 * MS)
            bag.write("/camera", bag.image(rgb, "rgb8", stamp, "cam"), stamp + 3 * MS)
            if has_truth:
                bag.write("/thermal/label", bag.image(truth, "mono8", stamp), stamp + 4 * MS)
    return path
