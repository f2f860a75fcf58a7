"""What the demo plays: shipped recordings, and those that the machine renders for itself.

Recordings of events, depth, polarization and light fields are large, so only the thermal one is
shipped; the others are rendered once from the same kind of scene and kept.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from segrgbx_core.base.errors import DataError
from segrgbx_core.base.modality import Modality

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "resource" / "demo"
CHECKPOINT = SHIPPED / "segrgbx_tiny.safetensors"
RGB_ONLY = SHIPPED / "segrgbx_tiny_rgb_only.safetensors"
"""As large as `CHECKPOINT` and trained alike, but it never saw X."""
NOTE = (
    "Synthetic scenes rendered by this project; checkpoint trained on other such scenes. "
    "No statement about real roads."
)


@dataclass(frozen=True)
class DemoFiles:
    """What the demo plays, and the folder it writes to.

    Attributes:
        recording: rosbag2 folder.
        checkpoint: answers it.
        config: node options.
        out: gets the results.
        rgb_only: checkpoint for comparison, fed with RGB alone; None for none.
        note: below pictures and figures; empty where the user brings a recording or checkpoint.
    """

    recording: Path
    checkpoint: Path
    config: Path
    out: Path
    rgb_only: Path | None = None
    note: str = NOTE

    def check(self) -> None:
        """Raises `DataError` for the first file that is missing."""
        for path in (self.recording, self.checkpoint, self.config, self.rgb_only):
            if path is not None and not path.exists():
                raise DataError(f"{path}: is missing; run the demo from a complete checkout")


def demo_recording(modality: Modality, out: Path) -> Path:
    """The recording of a modality: the shipped one, else one below `out`, rendered if need be.

    A rendered one is kept until the code that renders changes.

    Raises:
        DataError: when it has to be rendered and cannot be.
    """
    shipped = SHIPPED / modality.value
    if shipped.exists():
        return shipped
    folder = out / "recordings"
    rendered = folder / f"{modality.value}_{_renderer()}"
    if not rendered.exists():
        for old in folder.glob(f"{modality.value}_*"):
            shutil.rmtree(old)
        draft = folder / f"{modality.value}_draft"
        _render(modality, draft)
        draft.replace(rendered)
    return rendered


def _renderer() -> str:
    """Eight digits that change with the code that renders."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "training" / "world").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def knows_packets() -> bool:
    """Whether the message package of event cameras is installed; it is no wheel, ROS brings it."""
    return importlib.util.find_spec("event_camera_msgs") is not None


def _render(modality: Modality, folder: Path) -> None:
    print(f"rendering the {modality} recording into {folder}; this is done once", flush=True)
    command = [sys.executable, "-m", "training.world.recording"]
    command += ["--demo", modality.value, "--out", str(folder)]
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise DataError(
            f"{folder}: the {modality} recording could not be rendered: {reason[0]}; "
            "MODALITY=thermal plays the shipped one"
        )
