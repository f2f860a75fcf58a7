"""A rendered world with five complementary sensors and exact labels, from one scene description.

A scene is a pure function of its seed and a `WorldConfig`. Embree answers rays, numpy does the
rest; every sensor model works from the same surfaces, so that what a modality shows is there for a
physical reason. Everything made here is synthetic and must be called so wherever it is shown.

Example::

    from training.world import WorldConfig, render_sequence
    for record in render_sequence(seed=3, times_s=[0.0, 0.1], sensors=["thermal"]):
        record.rgb, record.thermal, record.labels
"""

from training.world.config import (
    TEST_SEEDS,
    TRAIN_SEEDS,
    VALIDATION_SEEDS,
    Corruption,
    Family,
    Light,
    WorldConfig,
)
from training.world.records import Record
from training.world.world import World, render_record, render_sequence

__all__ = [
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "VALIDATION_SEEDS",
    "Corruption",
    "Family",
    "Light",
    "Record",
    "World",
    "WorldConfig",
    "render_record",
    "render_sequence",
]
