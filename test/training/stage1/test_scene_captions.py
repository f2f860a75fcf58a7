"""Captions of what a driver would tell, from hand-made label maps."""

import numpy as np
import pytest

from training.stage1.captions import count_tokens
from training.stage1.scene_captions import (
    _SURROUNDINGS,
    _THINGS,
    LONGEST,
    describe,
    mirrored,
    token_count,
)

NAMES = ("road", "building", "vegetation", "person", "car", "bike", "floor", "bed", "rider")
ROAD, BUILDING, TREES, PERSON, CAR, BIKE, FLOOR, BED, RIDER = range(9)


def street():
    labels = np.full((100, 120), ROAD, np.uint8)
    labels[:50, :40] = BUILDING
    labels[:40, 80:] = TREES
    return labels


def test_place_time_weather_and_sides():
    facts = {"time_of_day": "night", "fog": 0.02, "wetness": 0.8}
    assert describe(street(), NAMES, facts) == (
        "a foggy wet town street at night, houses left, trees right"
    )
    assert describe(street(), NAMES, {"fog": 0.002, "wetness": 0.2}).startswith("a town street,")
    assert describe(street(), NAMES, {}, ("rain", "sun")).startswith("a rainy town street in sun,")
    assert describe(np.zeros((9, 9), np.uint8), NAMES, {}) == "an open street"
    assert describe(np.full((9, 9), 255, np.uint8), NAMES, {}) == "an open street"


def test_things_are_counted_and_the_largest_is_placed():
    labels = street()
    labels[40:90, 20:30] = PERSON  # 0.5 of the height: near, on the left
    labels[60:68, 100:105] = RIDER  # rides, and is a person nevertheless
    labels[60:80, 50:70] = CAR  # neither near nor far
    labels[60:70, 90:100] = BIKE
    labels[99, 119] = CAR  # a single pixel is noise
    told = describe(labels, NAMES, {}).split(", ")
    assert told[3:] == ["two people near left", "one car ahead", "one bicycle far right"]
    labels[50:, :] = ROAD
    for column in range(0, 100, 10):
        labels[90:95, column : column + 5] = CAR
    assert describe(labels, NAMES, {}).endswith("many cars far left")


def test_rooms_have_furniture_and_no_street():
    labels = np.full((60, 80), FLOOR, np.uint8)
    labels[20:50, 50:80] = BED
    facts = {"time_of_day": "night", "room": "bedroom"}
    assert describe(labels, NAMES, facts) == "a bedroom at night, one bed near right"
    assert describe(labels, NAMES, {}).startswith("a room, ")


def test_the_mirrored_image_has_the_mirrored_caption():
    labels = street()
    labels[40:90, 22:30] = PERSON
    text = describe(labels, NAMES, {"time_of_day": "day"})
    assert describe(labels[:, ::-1], NAMES, {"time_of_day": "day"}) == mirrored(text) != text
    assert mirrored(mirrored(text)) == text
    assert mirrored("A car, on the Left.") == "A car, on the Left."
    assert mirrored("a dog, left of a car") == "a dog, right of a car"
    assert mirrored("bright  light") == "bright  light"


def test_every_word_is_one_token_and_no_caption_is_too_long():
    words = {word for pair in _THINGS.values() for word in pair} | set(_SURROUNDINGS.values())
    assert {word: count_tokens(word) for word in words} == dict.fromkeys(words, 3)
    rng = np.random.default_rng(0)
    names = tuple(dict.fromkeys([*_THINGS, *_SURROUNDINGS]))
    facts = {"time_of_day": "overcast", "fog": 1.0, "wetness": 1.0}
    blocks = rng.integers(0, len(names), (12, 12), dtype=np.uint8)
    text = describe(np.kron(blocks, np.ones((8, 8), np.uint8)), names, facts, ("rain",))
    assert token_count(text) == count_tokens(text) <= LONGEST
    assert token_count(text) > LONGEST - 6


@pytest.mark.parametrize("text", ["a wet street, one car near left", "a room"])
def test_tokens_are_counted_as_the_tokenizer_does(text):
    assert token_count(text) == count_tokens(text)
