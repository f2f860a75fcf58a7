"""Former place of `training.world`, so that `python -m training.synthetic.render` still works."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "world")]
