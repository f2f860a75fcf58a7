"""Writes the versions that are installed here into constraints.txt, for this Python alone.

Run it by `make constraints` in an environment that has passed `make check test`.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

PATH = Path(__file__).resolve().parents[1] / "constraints.txt"
HEADER = """\
# Versions that passed `make check test` together, by Python; `make constraints` writes those that
# are installed. `make setup` and CI take them; a Python without lines takes what setup.py allows.
"""
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = re.compile(r"pip|setuptools|wheel|triton|nvidia-.*|cuda-.*")
"""Installers, and the parts of a CUDA build: torch pins them, and every build has others."""


def installed() -> dict[str, str]:
    """Versions by normalised name, of what pip installed and this checkout is not."""
    versions = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        by_pip = (distribution.read_text("INSTALLER") or "").strip() == "pip"
        if by_pip and name != "segrgbx-ros" and not LEFT_OUT.fullmatch(name):
            # Without the local label, as in 2.9.0+cpu, the pin holds for every build of torch.
            versions[name] = distribution.version.partition("+")[0]
    return versions


def main(path: Path = PATH) -> None:
    """Replaces the lines of this Python."""
    mark = f'; python_version == "{PYTHON}"'
    old = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in old if line and not line.startswith("#") and not line.endswith(mark)]
    new = [f"{name}=={version}{mark}" for name, version in installed().items()]
    path.write_text(HEADER + "\n".join(sorted(kept + new)) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path.name}: {len(new)} versions for Python {PYTHON}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
