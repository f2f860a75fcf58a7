"""When scenes are encoded anew, and that kept ones give the right answers."""

import numpy as np
import pytest
import torch

from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.model import Scene
from segrgbx_core.runtime.batch import Batch, InputConfig, place
from segrgbx_core.runtime.checkpoint import default_contract, random_weights
from segrgbx_core.runtime.options import SceneConfig
from segrgbx_core.runtime.scene_cache import (
    SceneCache,
    StreamFrame,
    join_scenes,
    split_scene,
    thumbnail,
)
from segrgbx_core.runtime.segmenter import InferenceConfig, Segmenter

MS = 1_000_000
THERMAL, DEPTH = Modality.THERMAL, Modality.DEPTH


class Counter:
    """Encodes scenes that hold their running number."""

    def __init__(self):
        self.encoded = 0

    def __call__(self, batch):
        numbers = torch.arange(self.encoded, self.encoded + len(batch)).float()
        self.encoded += len(batch)
        both = torch.cat([numbers, -numbers])  # (2B,)
        return Scene(
            (both[None, :, None, None].expand(2, -1, 3, 4),), (both[:, None, None, None],)
        )


def batch(count):
    spot = place(4, 4, InputConfig(height=32, width=32))
    pixels = torch.zeros(count, 4, 4, 3)
    return Batch(pixels.byte(), pixels, torch.zeros(count, dtype=torch.int64), (spot,) * count)


def numbers(scene):
    """The running number of every sample's scene; checks that all its tensors agree."""
    kv, query = scene.prompt_kv[0][0, :, 0, 0], scene.queries[0][:, 0, 0, 0]
    assert torch.equal(kv, query)
    half = len(kv) // 2
    assert torch.equal(kv[:half], -kv[half:])
    return kv[:half].tolist()


def run(config, stream, submit=None):
    """Ages and numbers of one stream of single frames."""
    cache = SceneCache(config, Counter(), submit)
    answers = [cache.scenes_of(batch(1), [frame]) for frame in stream]
    return [ages[0] for _, ages in answers], [numbers(scene)[0] for scene, _ in answers]


def frames(*stamps_ms, stream="front", modality=THERMAL):
    return [StreamFrame(stream, modality, stamp * MS) for stamp in stamps_ms]


def test_a_refresh_every_so_many_frames():
    ages, sources = run(SceneConfig(refresh_every=3), frames(0, 10, 20, 30, 40, 50, 60))
    assert ages == [0, 1, 2, 0, 1, 2, 0]
    assert sources == [0, 0, 0, 1, 1, 1, 2]


def test_every_frame_may_have_its_own_scene():
    ages, sources = run(SceneConfig(refresh_every=1), frames(0, 10, 20))
    assert ages == [0, 0, 0]
    assert sources == [0, 1, 2]


def test_a_refresh_after_so_much_time():
    ages, _ = run(SceneConfig(refresh_every=100, max_age_ms=25), frames(0, 10, 20, 30, 40, 60))
    assert ages == [0, 1, 2, 0, 1, 0]


def test_a_refresh_when_time_goes_back():
    ages, _ = run(SceneConfig(refresh_every=100), frames(100, 110, 120, 115, 125, 5))
    assert ages == [0, 1, 2, 0, 1, 0]


def test_streams_and_modalities_have_their_own():
    stream = [
        *frames(0, 10),
        *frames(10, stream="rear"),
        *frames(20, modality=DEPTH),
        *frames(30),
    ]
    ages, sources = run(SceneConfig(refresh_every=100), stream)
    assert ages == [0, 1, 0, 0, 2]
    assert sources == [0, 0, 1, 2, 0]


def test_a_refresh_when_the_picture_changes():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 200, (48, 64, 3)).astype(np.uint8)
    x = rng.random((20, 30, 3)).astype(np.float32) * 0.5
    pictures = [
        (rgb, x),
        (rgb + 5, x),  # a little lighter
        (rgb // 4, x),  # the tunnel
        (rgb // 4, x),
        (rgb // 4, x + 0.4),  # the thermal camera after its shutter
    ]
    stream = [StreamFrame("a", THERMAL, i, thumbnail(*pair)) for i, pair in enumerate(pictures)]
    config = SceneConfig(refresh_every=100, change=0.1)
    assert run(config, stream)[0] == [0, 1, 0, 1, 0]
    assert run(config.model_copy(update={"change": 1.0}), stream)[0] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [(32, 32), (720, 1280), (17, 400), (1, 1)])
def test_thumbnails_are_means_of_images_of_any_size(size):
    rgb = np.full((*size, 3), 51, np.uint8)
    small = thumbnail(rgb, np.full((9, 7, 3), 0.75, np.float32))
    assert small.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(small[0], 0.2, atol=1e-6)
    np.testing.assert_allclose(small[1], 0.75, atol=1e-6)


def test_batches_mix_new_and_kept_scenes():
    cache = SceneCache(SceneConfig(refresh_every=4), Counter())
    a, b, c = (lambda i, name=name: StreamFrame(name, THERMAL, i) for name in "abc")
    assert numbers(cache.scenes_of(batch(1), [a(0)])[0]) == [0]
    scene, ages = cache.scenes_of(batch(2), [b(1), a(1)])
    assert (numbers(scene), ages) == ([1, 0], [0, 1])
    scene, ages = cache.scenes_of(batch(3), [a(2), c(2), b(2)])
    assert (numbers(scene), ages) == ([0, 2, 1], [2, 0, 1])
    scene, ages = cache.scenes_of(batch(2), [b(3), a(3)])
    assert (numbers(scene), ages) == ([1, 0], [2, 3])
    scene, ages = cache.scenes_of(batch(2), [b(4), a(4)])
    assert (numbers(scene), ages) == ([1, 3], [3, 0])


def test_a_stream_may_stand_twice_in_a_batch():
    cache = SceneCache(SceneConfig(refresh_every=100), Counter())
    scene, ages = cache.scenes_of(batch(2), frames(0, 10))
    assert (numbers(scene), ages) == ([0, 1], [0, 0])
    scene, ages = cache.scenes_of(batch(2), frames(20, 30))
    assert numbers(scene) == [1, 1]


def test_memory_is_bounded_and_can_be_emptied():
    cache = SceneCache(SceneConfig(refresh_every=100), Counter())
    for index in range(200):
        cache.scenes_of(batch(1), [StreamFrame(f"stream {index}", THERMAL, 0)])
    assert cache.scenes_of(batch(1), [StreamFrame("stream 199", THERMAL, 1)])[1] == [1]
    assert cache.scenes_of(batch(1), [StreamFrame("stream 100", THERMAL, 1)])[1] == [0]
    cache.clear()
    assert cache.scenes_of(batch(1), [StreamFrame("stream 199", THERMAL, 2)])[1] == [0]


def slow(polls):
    """Encodes beside the frames; a scene is finished after so many polls."""

    def submit(encode_scene, batch):
        scene, left = encode_scene(batch), [polls]

        def poll():
            left[0] -= 1
            return scene if left[0] < 0 else None

        return poll

    return submit


@pytest.mark.parametrize(
    ("polls", "ages", "sources"),
    [
        # Stale at age 2; that frame starts the refresh, a later one uses it.
        (0, [0, 1, 2, 1, 2, 1, 2], [0, 0, 0, 1, 1, 2, 2]),
        (1, [0, 1, 2, 3, 2, 3, 2], [0, 0, 0, 0, 1, 1, 2]),
    ],
)
def test_scenes_encoded_beside_the_frames_arrive_late(polls, ages, sources):
    stream = frames(*range(7))
    assert run(SceneConfig(refresh_every=2), stream, slow(polls)) == (ages, sources)


def test_first_scenes_and_jumps_are_encoded_at_once():
    stream = [*frames(0, 10), *frames(5), *frames(0, modality=DEPTH)]
    ages, sources = run(SceneConfig(refresh_every=50), stream, slow(5))
    assert ages == [0, 1, 0, 0]
    assert sources == [0, 0, 1, 2]


def test_scenes_of_every_frame_are_encoded_at_once():
    assert run(SceneConfig(refresh_every=1), frames(0, 1, 2), slow(5))[0] == [0, 0, 0]


def test_splitting_and_joining_undo_each_other():
    torch.manual_seed(0)
    scene = Scene((torch.randn(2, 6, 4, 10), torch.randn(1, 6, 4, 20)), (torch.randn(6, 5, 2, 3),))
    parts = split_scene(scene, 3)
    assert [part.prompt_kv[0].shape for part in parts] == [(2, 2, 4, 10)] * 3
    joined = join_scenes(parts)
    for one, other in zip((*scene[0], *scene[1]), (*joined[0], *joined[1]), strict=True):
        assert torch.equal(one, other)
    swapped = join_scenes(parts[::-1])
    assert torch.equal(swapped.queries[0][0], scene.queries[0][2])  # RGB of the last pair
    assert torch.equal(swapped.queries[0][3], scene.queries[0][5])  # and its X
    assert split_scene(Scene(), 2) == [Scene(), Scene()]
    assert join_scenes([Scene(), Scene()]) == Scene()


# --- with the network ---------------------------------------------------------------------------


def segmenter(**scene):
    contract = default_contract("tiny", input=InputConfig(height=64, width=64))
    config = InferenceConfig(device="cpu", scene=SceneConfig(**scene))
    return Segmenter(random_weights(contract), config)


def sample(modality, seed, stamp_ms=0):
    rng = np.random.default_rng(seed)
    raw = rng.integers(28000, 32000, (40, 40)).astype(np.uint16)
    if modality is Modality.LIGHT_FIELD:
        raw = rng.integers(0, 255, (40, 40, 3)).astype(np.uint8)
    rgb = rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    return RgbxSample(rgb, raw, modality, stamp_ms * MS)


def test_refreshing_every_frame_is_bit_equal_to_no_cache():
    plain, named = segmenter(), segmenter(refresh_every=1)
    for time_ms in range(3):
        samples = [sample(THERMAL, time_ms, time_ms), sample(DEPTH, 9 + time_ms, time_ms)]
        for one, other in zip(
            plain.predict(samples), named.predict(samples, ["front", "rear"]), strict=True
        ):
            assert np.array_equal(one.labels, other.labels)
            assert np.array_equal(one.confidence, other.confidence)
            assert one.scene_age == other.scene_age == 0


def test_without_streams_nothing_is_kept():
    every, kept = segmenter(), segmenter(refresh_every=50)
    for seed in range(2):
        one, other = every.predict([sample(DEPTH, seed)]), kept.predict([sample(DEPTH, seed)])
        assert np.array_equal(one[0].confidence, other[0].confidence)


def test_kept_scenes_in_a_mixed_batch_equal_one_by_one():
    modalities = [THERMAL, DEPTH, Modality.LIGHT_FIELD]
    names = ["a", "b", "c"]
    together, alone = (segmenter(refresh_every=10, change=1.0) for _ in range(2))
    for time_ms in range(3):
        samples = [sample(m, 7 * time_ms + i, time_ms) for i, m in enumerate(modalities)]
        answers = together.predict(samples, names)
        for given, name, answer in zip(samples, names, answers, strict=True):
            [single] = alone.predict([given], [name])
            assert answer.scene_age == single.scene_age == time_ms
            assert (answer.labels == single.labels).mean() > 0.999
            assert np.abs(answer.confidence.astype(int) - single.confidence).max() <= 1


def test_a_kept_scene_is_used_and_can_be_dropped():
    keeps, exact = segmenter(refresh_every=10, change=1.0), segmenter()
    first, second = sample(DEPTH, 0, 0), sample(DEPTH, 1, 1)
    keeps.predict([first], ["front"])
    [stale], [fresh] = keeps.predict([second], ["front"]), exact.predict([second])
    assert stale.scene_age == 1
    assert not np.array_equal(stale.confidence, fresh.confidence)
    keeps.forget_scenes()
    [renewed] = keeps.predict([second], ["front"])
    assert renewed.scene_age == 0
    assert np.array_equal(renewed.confidence, fresh.confidence)


def test_every_sample_needs_its_stream():
    with pytest.raises(ValueError, match="zip"):
        segmenter().predict([sample(DEPTH, 0), sample(DEPTH, 1)], ["front"])
