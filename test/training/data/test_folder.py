"""A data set of one's own: what is read as what, which samples a split has, and every refusal."""

import cv2
import numpy as np
import pytest
from own_data import SIZE, colour, dataset, line_of, write_dataset, write_labels, write_yaml

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import write_image
from segrgbx_core.base.modality import Modality
from segrgbx_core.base.samples import Events, XForm
from segrgbx_core.labels.label_space import synthetic_label_space
from segrgbx_core.sensors import EncodingConfig, encode
from training.audit import main as audit
from training.data.datasets import joined_space, open_reader, usual_modality


def opened(root, split="train", modality=Modality.THERMAL, **options):
    return open_reader("folder", root, split, modality, options)


@pytest.mark.parametrize("form", ["ids", "indexed", "colors"])
def test_labels_in_every_form(tmp_path, form):
    ignore = [[0, 0, 0]] if form == "colors" else [255]
    truth = write_dataset(tmp_path, dataset(ignore=ignore), form=form)
    reader = opened(tmp_path)
    assert reader.ids == ("0000", "0001", "0002", "0003")
    for index, stem in enumerate(reader.ids):
        assert np.array_equal(reader[index].labels, truth[stem])


def test_scattered_values_and_values_of_16_bits(tmp_path):
    rows = [{"name": "a", "value": 700}, {"name": "b", "value": 3}, {"name": "c", "value": 0}]
    truth = write_dataset(tmp_path, dataset(classes=rows, ignore=[9]))
    assert np.array_equal(opened(tmp_path)[0].labels, truth["0000"])


def test_labels_in_arrays(tmp_path):
    content = dataset(labels="labels/*.npy")
    truth = write_dataset(tmp_path, content)
    for stem, ids in truth.items():
        np.save(tmp_path / f"labels/{stem}.npy", ids.astype(np.int64))
    assert np.array_equal(opened(tmp_path)[1].labels, truth["0001"])


def test_255_classes(tmp_path):
    content = dataset(classes=[f"class {number}" for number in range(255)])
    truth = write_dataset(tmp_path, content, frames=3, size=(16, 510))
    reader = opened(tmp_path)
    assert reader.space.num_classes == 255
    assert np.array_equal(reader[0].labels, truth["0000"])
    assert len(joined_space([reader], None).names) == 255
    with pytest.raises(ConfigError, match=r"326 classes in all, 71 of them from before.*own"):
        joined_space([reader], synthetic_label_space())


def test_x_keeps_its_depth(tmp_path):
    write_dataset(tmp_path)
    sample = opened(tmp_path)[0].sample
    assert (sample.x.dtype, sample.x.shape, sample.x_form) == (np.uint16, SIZE, XForm.RAW)


def test_grey_that_was_stored_as_colour_is_one_plane(tmp_path):
    write_dataset(tmp_path)
    plane = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    write_image(tmp_path / "thermal/0000.png", cv2.merge([plane, plane, plane]))
    assert np.array_equal(opened(tmp_path)[0].sample.x, plane)


@pytest.mark.parametrize("suffix", ["tiff", "npy"])
def test_degrees_in_fractions(tmp_path, suffix):
    write_dataset(tmp_path, dataset(x=f"degrees/*.{suffix}"))
    (tmp_path / "degrees").mkdir()
    degrees = np.linspace(-10, 40, 48 * 64, dtype=np.float32).reshape(48, 64)
    for stem in opened_stems(tmp_path):
        path = tmp_path / f"degrees/{stem}.{suffix}"
        np.save(path, degrees) if suffix == "npy" else write_image(path, degrees)
    assert np.array_equal(opened(tmp_path)[0].sample.x, degrees)


def opened_stems(root):
    return [path.stem for path in sorted((root / "rgb").glob("*"))]


def events(root, content=None, **arrays):
    made = {"x": [3, 63, 5], "y": [1, 47, 9], "t": [10, 20, 30], "p": [1, 0, 1], **arrays}
    made = {name: np.asarray(value) for name, value in made.items() if value is not None}
    (root / "events").mkdir(exist_ok=True)
    for stem in opened_stems(root):
        np.savez(root / f"events/{stem}.npz", **made)


@pytest.fixture
def event_set(tmp_path):
    write_dataset(tmp_path, dataset(modality="event", x="events/*.npz"))
    return tmp_path


@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ({"t": [10, 20, 30]}, [10_000, 20_000, 30_000]),
        ({"t": [0.5, 0.5, 0.75]}, [500_000_000, 500_000_000, 750_000_000]),
        ({"t": None, "t_ns": [7, 8, 9]}, [7, 8, 9]),
    ],
)
def test_event_windows(event_set, stamps, expected):
    events(event_set, **stamps)
    sample = opened(event_set, modality=Modality.EVENT)[0].sample
    assert isinstance(sample.x, Events)
    assert (sample.x.width, sample.x.height) == (64, 48)
    assert sample.x.t_ns.tolist() == expected
    assert sample.x.p.tolist() == [1, 0, 1]
    image = encode(sample, EncodingConfig())
    assert (image != 1).any(axis=2).sum() == (3 if expected[-1] < 50_000_000 else 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"p": None}, "0000.npz: holds x, y, t; events need x, y, p and t"),
        ({"t": None}, "events need x, y, p and t"),
        ({"x": [1, 2]}, "0000.npz: t has 3 events, the others {'x': 2"),
        ({"t": [3, 2, 1]}, "0000.npz: events are not sorted by time"),
        ({"x": [64, 0, 0]}, "0000.npz: an event at .* is outside the sensor of 64x48; add arrays"),
    ],
)
def test_broken_event_windows(event_set, arrays, message):
    events(event_set, **arrays)
    with pytest.raises(DataError, match=message):
        opened(event_set, modality=Modality.EVENT)[0]


def test_x_may_be_a_picture(tmp_path):
    write_dataset(tmp_path, dataset(x_form="image"))
    sample = opened(tmp_path)[0].sample
    assert sample.x_form is XForm.IMAGE
    assert float(encode(sample, EncodingConfig()).max()) == sample.x.max() / np.float32(65535)


def test_x_may_be_left_out(tmp_path):
    write_dataset(tmp_path, dataset(modality=None, x=None))
    assert usual_modality("folder", tmp_path) is Modality.THERMAL
    for modality in (Modality.THERMAL, Modality.DEPTH):
        reader = opened(tmp_path, modality=modality)
        assert not reader.has_x
        assert not encode(reader[0].sample, EncodingConfig()).any()
        assert reader[0].sample.modality is modality


def test_x_may_be_replaced(tmp_path):
    write_dataset(tmp_path)
    own = opened(tmp_path)
    assert not opened(tmp_path, x="none")[0].sample.x.any()
    assert np.array_equal(opened(tmp_path, x="other")[0].sample.x, own[2].sample.x)
    assert np.array_equal(opened(tmp_path, x="rgb")[0].sample.x, own[0].sample.rgb)


def test_stems_are_what_the_asterisks_stand_for(tmp_path):
    write_dataset(tmp_path)
    for kind, ending in (("rgb", "_left"), ("thermal", "_ir"), ("labels", "_labels")):
        (tmp_path / "walk" / kind).mkdir(parents=True)
        for path in (tmp_path / kind).glob("*.png"):
            path.rename(tmp_path / "walk" / kind / f"{path.stem}{ending}.png")
    content = dataset(
        rgb="*/rgb/*_left.png",
        x="*/thermal/*_ir.png",
        labels="*/labels/*_labels.png",
        splits={"val": 0.3},
    )
    write_yaml(tmp_path, content)
    ids = {*opened(tmp_path).ids, *opened(tmp_path, "val").ids}
    assert ids == {f"walk/000{number}" for number in range(6)}


def test_list_files_may_name_files_and_hold_comments(tmp_path):
    write_dataset(tmp_path)
    (tmp_path / "train.txt").write_text("# chosen by hand\n\n0003\nrgb/0001.png\n")
    assert opened(tmp_path).ids == ("0003", "0001")


def shares(root, **changes):
    content = dataset(**changes)
    write_dataset(root, content, frames=40, size=(8, 8))
    return {split: opened(root, split).ids for split in {"train", *content["splits"]}}


def test_shares_are_drawn_once_and_leave_the_rest(tmp_path):
    splits = shares(tmp_path, splits={"val": 0.25, "test": 0.1})
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 26, "val": 10, "test": 4}
    assert len({stem for ids in splits.values() for stem in ids}) == 40
    assert shares(tmp_path, splits={"val": 0.25, "test": 0.1}) == splits
    assert shares(tmp_path, splits={"val": 0.5, "test": 0.1})["test"] == splits["test"]
    assert shares(tmp_path, splits={"val": 0.25, "test": 0.1}, seed=1) != splits


def test_a_share_is_drawn_from_the_train_list(tmp_path):
    write_dataset(tmp_path, dataset(splits={"train": "train.txt", "val": 0.5, "test": "val.txt"}))
    train, val, test = (set(opened(tmp_path, split).ids) for split in ("train", "val", "test"))
    assert train | val == {"0000", "0001", "0002", "0003"}
    assert len(val) == 2
    assert test == {"0004", "0005"}


def test_neighbours_stay_together(tmp_path):
    val = shares(tmp_path, splits={"val": 0.25}, block=5)["val"]
    starts = [int(stem) for stem in val[::5]]
    assert [int(stem) for stem in val] == [start + i for start in starts for i in range(5)]
    assert all(start % 5 == 0 for start in starts)


def test_new_classes_come_last_and_unified_ones_are_shared(tmp_path):
    content = dataset()
    content["classes"][0]["unified"] = "road"
    write_dataset(tmp_path, content)
    reader, base = opened(tmp_path), synthetic_label_space()
    space = joined_space([reader], base)
    assert space.names[:71] == base.names
    assert space.names[71:] == (f"person ({tmp_path.name})", "pallet")
    assert [space.names[i] for i in space.native(reader.native).to_unified] == [
        "road", f"person ({tmp_path.name})", "pallet"
    ]  # fmt: skip
    assert len(set(space.palette)) == space.num_classes
    assert "class 'person' is new, beside the unified class" in "".join(reader.describe().notes)
    assert joined_space([reader], space) == space
    own = joined_space([reader], None)
    assert own.names == ("road", f"person ({tmp_path.name})", "pallet")


def test_own_and_public_data_sets_share_a_space(tmp_path, write_world):
    write_dataset(tmp_path / "mine")
    public = tmp_path / "mfnet"
    public.mkdir()
    modality, _ = write_world("mfnet", public)
    readers = [opened(tmp_path / "mine"), open_reader("mfnet", public, "train", modality)]
    space = joined_space(readers, None)
    assert space.native("mfnet").names[1:3] == ("car", "person")
    assert space.names[space.native("mfnet").to_unified[2]] == "person"
    assert [native.name for native in space.natives] == ["mine", "mfnet"]


def test_two_sets_of_one_name_must_agree(tmp_path):
    write_dataset(tmp_path / "a", dataset(name="yard"))
    write_dataset(tmp_path / "b", dataset(classes=("road", "gate"), name="yard"))
    one, other = opened(tmp_path / "a"), opened(tmp_path / "b")
    assert joined_space([one, one], None).num_classes == 3
    with pytest.raises(ConfigError, match="two data sets of different classes are called 'yard'"):
        joined_space([one, other], None)
    both = joined_space([other], joined_space([one], None))
    assert both.native("yard").names == ("road", "gate")


def test_colours_are_given_where_none_are_stated(tmp_path):
    rows = [{"name": name, "value": value} for value, name in enumerate("abc")]
    rows[1]["color"] = [128, 0, 0]
    write_dataset(tmp_path, dataset(classes=rows))
    palette = opened(tmp_path).space.palette
    assert palette[1] == (128, 0, 0)
    assert len(set(palette)) == 3


def row(number, **changes):
    rows = dataset()["classes"]
    rows[number] = {k: v for k, v in {**rows[number], **changes}.items() if v is not None}
    return rows


@pytest.mark.parametrize(
    ("changes", "text", "message"),
    [
        ({"modalty": "thermal"}, "modalty", "unknown option 'modalty' (did you mean 'modality'?)"),
        ({"rgb": None}, "", "option 'rgb' is required"),
        (
            {"classes": row(2, name="road")},
            "value: 2",
            "name 'road' is that of class 'road' at line",
        ),
        ({"classes": row(2, value=1)}, "pallet", "value '1' is that of class 'person' at line"),
        (
            {"classes": row(2, unified="rood")},
            "pallet",
            "'rood' is no unified class (did you mean 'road'?)",
        ),
        (
            {"classes": row(2, value="2")},
            "pallet",
            "classes.2.value: Input should be a valid integer",
        ),
        (
            {"classes": row(2, value=70000)},
            "pallet",
            "classes.2.value: Input should be less than or equal to 65535; got 70000",
        ),
        ({"classes": row(2, color=[1, 2])}, "pallet", "classes.2.color"),
        ({"classes": row(2, color=[1, 2, 300])}, "pallet", "is not three values in [0, 255]"),
        (
            {"classes": row(1, value=None, color=None)},
            "person",
            "class 'person' has neither value nor color",
        ),
        ({"classes": row(1, name=" ")}, "value: 1", "is empty; give the class a name"),
        ({"modality": None}, "x:", "x needs a modality; add one of event, thermal"),
        (
            {"modality": "termal"},
            "termal",
            "modality: 'termal' is none of the five (did you mean 'thermal'?)",
        ),
        (
            {"rgb": "rgb/0001.png"},
            "rgb:",
            "is no pattern relative to the folder, such as rgb/*.png",
        ),
        ({"splits": {"validation": 0.1}}, "splits", "'validation' is not one of train, val, test"),
        ({"splits": {"val": 1.5}}, "splits", "share 1.5 of 'val' is outside (0, 1)"),
        ({"splits": {"val": [1]}}, "splits", "'val' is neither a list file nor a share"),
        (
            {"ignore": [2]},
            "ignore",
            "2 is the class 'pallet'; a value is either ignored or a class",
        ),
        (
            {"ignore": ["void"]},
            "ignore",
            "void is neither a value, such as 255, nor [red, green, blue]",
        ),
        (
            {"name": "mfnet"},
            "name: mfnet",
            "is the name of a label space that every checkpoint knows",
        ),
        (
            {"label_form": "colors", "classes": row(1, color=None)},
            "person",
            "class 'person' has no color",
        ),
        (
            {"sensor": {"thermal": {"raw_scal": 1.0}}},
            "raw_scal",
            "unknown option 'sensor.thermal.raw_scal'",
        ),
    ],
)
def test_a_wrong_dataset_file_is_refused_with_its_line(tmp_path, changes, text, message):
    write_dataset(tmp_path)
    write_yaml(tmp_path, dataset(**changes))
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path)
    place = f"{tmp_path / 'dataset.yaml'}, line {line_of(tmp_path, text)}: "
    assert str(caught.value).startswith(place), str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_and_too_many_classes(tmp_path):
    for classes in ([], [f"{number}" for number in range(256)]):
        write_dataset(tmp_path, dataset(classes=["a"]))
        content = dataset(classes=classes, ignore=[300])
        write_yaml(tmp_path, content)
        if not classes:
            path = tmp_path / "dataset.yaml"
            path.write_text(path.read_text().replace("classes:", "classes: []"))
        with pytest.raises(ConfigError, match=f"{len(classes)} classes; allowed are 1 to 255"):
            opened(tmp_path)


def remove(name):
    return lambda root: (root / name).unlink()


def put(name, image):
    return lambda root: write_image(root / name, image)


def listed(name, text):
    return lambda root: (root / name).write_text(text)


def renamed(root):
    for path in (root / "labels").glob("*.png"):
        path.rename(path.with_name(f"mask_{path.name}"))


def twice(root):
    (root / "rgb/a").mkdir()
    (root / "rgb/0000.png").rename(root / "rgb/a/0000.png")
    write_yaml(root, dataset(rgb="**/*.png"))


PLANE = np.zeros(SIZE, np.uint8)
WRONG = {
    "no file": (remove("dataset.yaml"), "dataset.yaml: cannot be read"),
    "no label": (
        remove("labels/0001.png"),
        "labels/0001.png: is missing; expected the label of .*1 of 4 samples",
    ),
    "no X": (
        remove("thermal/0002.png"),
        "thermal/0002.png: is missing; expected the thermal file",
    ),
    "no list": (remove("train.txt"), "train.txt: cannot be read .*dataset.yaml names it"),
    "unknown stem": (
        listed("train.txt", "0000\n00o1\n"),
        "train.txt, line 2: '00o1' has no RGB image rgb/",
    ),
    "stem twice": (
        listed("train.txt", "0000\n0001\n0000\n"),
        "train.txt, line 3: '0000' stands at line 1 already",
    ),
    "unequal stems": (
        renamed,
        r"no stem of labels/\*.png \('mask_0000', ...\) is one of rgb/\*.png \('0000', ...\)",
    ),
    "two of one stem": (twice, "has the stem|no stem of"),
    "other label size": (
        put("labels/0000.png", np.zeros((24, 64), np.uint8)),
        "labels/0000.png: labels are 64x24 but 0000.png is 64x48",
    ),
    "other view": (
        put("thermal/0000.png", np.zeros((48, 90), np.uint8)),
        "thermal/0000.png: is 90x48 but .*; X must show RGB's view",
    ),
    "value in no table": (
        put("labels/0000.png", PLANE + 77),
        "labels/0000.png: label value 77 .3072 pixels. is not in the table",
    ),
    "16-bit RGB": (
        put("rgb/0000.png", np.zeros((*SIZE, 3), np.uint16)),
        "rgb/0000.png: holds uint16; expected 8 bits",
    ),
    "broken X": (
        listed("thermal/0000.png", "no picture"),
        "thermal/0000.png: 10 bytes are no image",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_refused_by_name(tmp_path, name):
    spoil, message = WRONG[name]
    write_dataset(tmp_path)
    spoil(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        opened(tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_a_colour_of_no_class_is_refused(tmp_path):
    content = dataset(ignore=[[0, 0, 0]])
    truth = write_dataset(tmp_path, content, form="colors")
    content["classes"][2]["color"] = [1, 2, 3]
    write_labels(tmp_path / "labels/0001.png", truth["0001"], content, "colors")
    with pytest.raises(
        DataError, match=r"0001.png: colour \[1, 2, 3\] \(\d+ pixels\) is that of no"
    ):
        opened(tmp_path)[1]


def test_colours_need_a_color_and_ids_a_value(tmp_path):
    content = dataset(ignore=[[0, 0, 0]])
    write_dataset(tmp_path, content, form="colors")
    del content["classes"][1]["color"]
    write_yaml(tmp_path, content)
    with pytest.raises(
        ConfigError, match=r"class 'person' has no color, and .*0000.png holds col"
    ):
        opened(tmp_path)


def test_depth_of_8_bits_is_a_problem_of_the_audit(tmp_path, capsys):
    write_dataset(tmp_path, dataset(modality="depth"))
    write_image(tmp_path / "thermal/0001.png", PLANE)
    assert audit(["folder", str(tmp_path), "--split", "train"]) == 1
    out = capsys.readouterr().out
    assert f"problem: {tmp_path}/thermal/0001.png: depth x: shape (48, 64) of uint8" in out
    assert "set x_form to image" in out


def test_another_modality_than_the_files_is_refused(tmp_path):
    write_dataset(tmp_path)
    with pytest.raises(ConfigError, match="has no depth; its X is thermal"):
        opened(tmp_path, modality=Modality.DEPTH)


def test_the_audit_prints_counts_first_and_draws(tmp_path, capsys):
    write_dataset(tmp_path / "yard")
    assert audit(["folder", str(tmp_path / "yard"), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "data set   yard, split train: 4 samples"
    assert lines[2].startswith("  0 road")
    assert lines[5].startswith("255 void")
    assert (tmp_path / "out/yard_val.png").is_file()


def test_the_identity_changes_with_samples_and_meaning(tmp_path):
    write_dataset(tmp_path)
    before = opened(tmp_path).identity
    assert opened(tmp_path).identity == before
    (tmp_path / "train.txt").write_text("0000\n")
    fewer = opened(tmp_path).identity
    content = dataset()
    content["classes"][2]["name"] = "crate"
    write_yaml(tmp_path, content)
    assert len({before, fewer, opened(tmp_path).identity}) == 3


def test_colours_of_the_helper_are_unique():
    assert len({tuple(colour(value)) for value in range(250)}) == 250


def test_frames_without_a_label_are_left_out_of_drawn_splits(tmp_path):
    write_dataset(tmp_path, dataset(splits={"val": 0.25}), frames=8)
    for stem in ("0001", "0004", "0005", "0006"):
        (tmp_path / f"labels/{stem}.png").unlink()
    train, val = opened(tmp_path), opened(tmp_path, "val")
    assert {*train.ids, *val.ids} == {"0000", "0002", "0003", "0007"}
    assert len(val) == 1
    text = "4 of 8 RGB images have no label and are left out, such as '0001'"
    assert text in train.describe().warnings


def test_the_end_of_an_event_window_is_kept(event_set):
    events(event_set, stamp_ns=50_020_000)
    sample = opened(event_set, modality=Modality.EVENT)[0].sample
    assert sample.stamp_ns == 50_020_000
    # Events at 10 and 20 us lie just outside of the 50 ms before that.
    assert (encode(sample, EncodingConfig()) != 1).any(axis=2).sum() == 1
