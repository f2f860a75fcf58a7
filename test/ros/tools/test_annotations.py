"""Labels of annotation tools: every format, and what is refused."""

import base64
import json
import re
import zipfile

import numpy as np
import pytest
import yaml
from PIL import Image

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.images import encode_image, read_image, write_image
from segrgbx_ros.tools.annotations import (
    Classes,
    DraftWriter,
    Format,
    guess_format,
    read_class_list,
    read_coco,
    read_labelme,
    read_masks,
)
from segrgbx_ros.tools.labels import main

SIZE = (12, 20)
STEMS = ("100", "200")
ROAD, GATE = (128, 64, 128), (10, 200, 30)


@pytest.fixture
def root(tmp_path):
    """A data set without classes: two RGB images."""
    root = tmp_path / "data"
    (root / "rgb").mkdir(parents=True)
    for stem in STEMS:
        write_image(root / f"rgb/{stem}.png", np.zeros((*SIZE, 3), np.uint8))
    head = "# No classes yet: `segrgbx-labels import` adds them with the labels.\n"
    (root / "dataset.yaml").write_text(f"{head}rgb: rgb/*.png\nlabels: labels/*.png\n")
    return root


def expected():
    """A road with a gate on its right, the sky unlabelled."""
    labels = np.full(SIZE, 255, np.uint8)
    labels[5:] = 0
    labels[7:10, 12:18] = 1
    return labels


def ids(root, stem="100"):
    return np.asarray(Image.open(root / f"labels/{stem}.png"))


def imported(root, export, *more):
    return main(["import", str(export), "--into", str(root), *map(str, more)])


def write_masks(folder, values, palette=None):
    folder.mkdir(parents=True, exist_ok=True)
    for stem in STEMS:
        image = Image.fromarray(values, mode="P") if values.ndim == 2 else None
        if image is None:
            write_image(folder / f"{stem}.png", values)
        else:
            image.putpalette(palette or [0] * 768)
            image.save(folder / f"{stem}.png")


def coloured(labels):
    table = np.zeros((256, 3), np.uint8)
    table[0], table[1] = ROAD, GATE
    return table[labels]


CVAT = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\ngate:10,200,30::\n"


def test_masks_of_cvat(root, tmp_path, capsys):
    export = tmp_path / "export"
    write_masks(export / "SegmentationClass", coloured(expected()))
    (export / "labelmap.txt").write_text(CVAT)
    assert imported(root, export) == 0
    for stem in STEMS:
        assert np.array_equal(ids(root, stem), expected())
    text = (root / "dataset.yaml").read_text()
    assert "No classes yet" not in text
    assert yaml.safe_load(text)["classes"] == [
        {"name": "road", "value": 0, "color": list(ROAD), "unified": "road"},
        {"name": "gate", "value": 1, "color": list(GATE)},
    ]
    out = capsys.readouterr().out
    assert "2 label images (masks)" in out
    assert "| gate  |    7.500 |" in out


def test_a_zip_and_palette_files(root, tmp_path):
    folder = tmp_path / "export"
    palette = [0, 0, 0, *ROAD, *GATE] + [0] * 759
    values = np.where(expected() == 255, 0, expected() + 1).astype(np.uint8)
    write_masks(folder / "SegmentationClass", values, palette)
    (folder / "labelmap.txt").write_text(CVAT)
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.rglob("*"):
            packed.write(path, path.relative_to(folder))
    assert imported(root, archive) == 0
    assert np.array_equal(ids(root), expected())


def test_values_with_a_list_of_names(root, tmp_path):
    write_masks(tmp_path / "export", expected())
    names = tmp_path / "names.txt"
    names.write_text("# ours\nroad\ngate\n")
    assert imported(root, tmp_path / "export", "--classes", names) == 0
    assert np.array_equal(ids(root), expected())


def coco(shapes):
    return {
        "images": [
            {"id": i, "file_name": f"sub/{stem}.png", "height": SIZE[0], "width": SIZE[1]}
            for i, stem in enumerate(STEMS)
        ],
        "categories": [{"id": 7, "name": "road"}, {"id": 9, "name": "gate"}],
        "annotations": [
            {"id": 10 * i + j, "image_id": i, "category_id": category, "segmentation": shape}
            for i in range(len(STEMS))
            for j, (category, shape) in enumerate(shapes)
        ],
    }


ROAD_POLYGON = [0, 5, 20, 5, 20, 12, 0, 12]
GATE_POLYGON = [12, 7, 18, 7, 18, 10, 12, 10]


def runs(mask):
    """Uncompressed run lengths, down the columns."""
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1] ^ 1]])))
    lengths = np.diff(np.concatenate([[0], edges]))
    return {"size": list(mask.shape), "counts": lengths.tolist()}


@pytest.mark.parametrize("form", ["polygons", "runs"])
def test_coco(root, tmp_path, form):
    gate = [GATE_POLYGON] if form == "polygons" else runs(expected() == 1)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(coco([(7, [ROAD_POLYGON]), (9, gate)])))
    assert imported(root, path) == 0
    assert np.array_equal(ids(root), expected())


def labelme(name, shapes, path="..\\images\\100.jpg"):
    return {
        "imagePath": path, "imageHeight": SIZE[0], "imageWidth": SIZE[1],
        "shapes": [{"label": label, "shape_type": kind, "points": points, **more}
                   for label, kind, points, more in shapes],
    }  # fmt: skip


@pytest.mark.parametrize("form", ["polygon", "rectangle", "mask"])
def test_labelme(root, tmp_path, form):
    export = tmp_path / "export"
    export.mkdir()
    gate = {
        "polygon": ("polygon", [[12, 7], [18, 7], [18, 10], [12, 10]], {}),
        "rectangle": ("rectangle", [[18, 10], [12, 7]], {}),
        "mask": (
            "mask",
            [[12, 7], [17, 9]],
            {"mask": base64.b64encode(encode_image(np.full((3, 6), 255, np.uint8))).decode()},
        ),
    }[form]
    shapes = [
        ("road", "polygon", np.reshape(ROAD_POLYGON, (-1, 2)).tolist(), {}),
        ("gate", *gate),
    ]
    (export / "a.json").write_text(json.dumps(labelme("a", shapes)))
    assert imported(root, export) == 0
    assert np.array_equal(ids(root), expected())
    assert not (root / "labels/200.png").exists()


def test_circles(tmp_path):
    shapes = [("road", "circle", [[10, 6], [13, 6]], {})]
    (tmp_path / "a.json").write_text(json.dumps(labelme("a", shapes)))
    [(_, labels)] = read_labelme(tmp_path / "a.json", Classes())
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = np.hypot(x - 10, y - 6)
    assert (labels[distance <= 2.5] == 0).all()
    assert (labels[distance > 4] == 255).all()


def test_brush_masks_of_label_studio(root, tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    for tag, place in (("road", 0), ("gate", 1)):
        mask = ((expected() == place) * 255).astype(np.uint8)
        name = f"task-31-annotation-4-by-1-tag-{tag}-{place}.png"
        write_image(export / name, mask)
    tasks = [{"id": 31, "data": {"image": "/data/upload/1/1a2b3c4d-100.png"}}]
    (export / "tasks.json").write_text(json.dumps(tasks))
    assert imported(root, export) == 0
    assert np.array_equal(ids(root), expected())
    (export / "tasks.json").unlink()
    assert imported(root, export) == 2


def test_background_may_be_a_class(root, tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(coco([(7, [ROAD_POLYGON]), (9, [GATE_POLYGON])])))
    assert imported(root, path, "--background", "elsewhere") == 0
    rows = yaml.safe_load((root / "dataset.yaml").read_text())["classes"]
    assert rows[0]["name"] == "elsewhere"
    assert set(np.unique(ids(root))) == {0, 1, 2}


def test_a_second_import_keeps_the_ids(root, tmp_path, capsys):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(coco([(7, [ROAD_POLYGON]), (9, [GATE_POLYGON])])))
    assert imported(root, path) == 0
    before = (root / "dataset.yaml").read_text()
    other = coco([(9, [GATE_POLYGON])])
    other["categories"].reverse()
    path.write_text(json.dumps(other))
    assert imported(root, path) == 0
    assert set(np.unique(ids(root))) == {1, 255}
    assert (root / "dataset.yaml").read_text() == before
    other["categories"][0]["name"] = "gaet"
    path.write_text(json.dumps(other))
    assert imported(root, path) == 2
    error = capsys.readouterr().err
    assert "class 'gaet' is not in the class list (did you mean 'gate'?)" in error


def test_drafts_come_back_as_they_were(tmp_path, root):
    names = ("road", "unlabeled background", "gate", "sky")
    palette = (ROAD, (0, 0, 0), GATE, GATE)
    writer = DraftWriter(tmp_path / "drafts", names, palette)
    labels = np.where(expected() == 1, 2, expected()).astype(np.uint8)
    labels[0] = 1
    for stem in STEMS:
        writer.add_labels(stem, labels)
    writer.finish()
    text = (tmp_path / "drafts/labelmap.txt").read_text()
    assert "sky" not in text
    assert "background:0,0,0::" in text
    assert imported(root, tmp_path / "drafts") == 0
    read = ids(root)
    assert (read[0] == 1).all()
    assert np.array_equal(read == 0, labels == 0)
    assert np.array_equal(read == 2, labels == 2)
    assert np.array_equal(read == 255, labels == 255)


def test_class_lists(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("road: 1,2,3\nsky\ntraffic sign 4, 5, 6\nbackground:0,0,0::\n")
    found = read_class_list(path)
    assert found.names == ["road", "sky", "traffic sign"]
    assert found.colours == {"road": (1, 2, 3), "traffic sign": (4, 5, 6), "background": (0, 0, 0)}
    assert len(set(found.palette())) == 3
    for text, message in (
        ("road\nroad\n", "names.txt, line 2: class 'road' is listed twice"),
        ("road:1,2,300\n", "names.txt, line 1: colour 1,2,300 is not three values"),
        ("# nothing\n", "names.txt: lists no class"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            read_class_list(path)


def spoil_colour(root, export):
    write_image(export / "SegmentationClass/100.png", np.full((*SIZE, 3), 9, np.uint8))


def spoil_size(root, export):
    write_image(export / "SegmentationClass/100.png", np.zeros((8, 8, 3), np.uint8))


def spoil_name(root, export):
    (export / "SegmentationClass/100.png").rename(export / "SegmentationClass/101.png")


def spoil_list(root, export):
    (export / "labelmap.txt").unlink()


def spoil_all(root, export):
    for path in export.rglob("*.*"):
        path.unlink()


def spoil_data_set(root, export):
    (root / "dataset.yaml").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_colour, r"100.png: colour \[9, 9, 9\] \(240 pixels\) is that of no class"),
        (spoil_size, "100.png: is 20x12 and its labels 8x8; export labels at the size"),
        (spoil_name, "has labels for '101', and .*rgb no image of that name"),
        (spoil_list, "export: masks need a class list, and there is no labelmap.txt"),
        (spoil_all, "is none of the known exports; name it with --format"),
        (spoil_data_set, "dataset.yaml: cannot be read"),
    ],
)
def test_wrong_exports_are_refused_in_one_line(root, tmp_path, capsys, spoil, message):
    export = tmp_path / "export"
    write_masks(export / "SegmentationClass", coloured(expected()))
    (export / "labelmap.txt").write_text(CVAT)
    spoil(root, export)
    assert imported(root, export) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deep"),
        ('{"annotations": []}', "is no COCO file .KeyError: 'categories'."),
    ],
)
def test_broken_json_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_coco(path, Classes()))


def test_broken_shapes_are_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(labelme("a", [("road", "line", [[1, 1], [5, 5]], {})])))
    with pytest.raises(DataError, match="shape 0: a line has no area"):
        list(read_labelme(path, Classes()))
    wrong = runs(expected() == 1)
    wrong["counts"][0] += 1
    path.write_text(json.dumps(coco([(7, wrong)])))
    with pytest.raises(DataError, match="annotation 0: run lengths sum to 241, not 240"):
        list(read_coco(path, Classes()))


def test_more_than_255_classes_are_refused(tmp_path):
    export = coco([])
    export["categories"] = [{"id": i, "name": f"kind {i}"} for i in range(256)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(export))
    with pytest.raises(DataError, match="class 'kind 255' is one above 255"):
        list(read_coco(path, Classes()))


def test_formats_are_told_apart(tmp_path):
    (tmp_path / "coco.json").write_text(json.dumps(coco([])))
    (tmp_path / "me.json").write_text(json.dumps(labelme("a", [])))
    assert guess_format(tmp_path / "coco.json") is Format.COCO
    assert guess_format(tmp_path / "me.json") is Format.LABELME


def test_grey_masks_stay_values(tmp_path):
    write_masks(tmp_path, np.repeat(expected()[..., None], 3, axis=2))
    found = dict(read_masks(tmp_path, Classes(["road", "gate"])))
    assert np.array_equal(found["100"], expected())
    write_image(tmp_path / "100.png", np.full(SIZE, 7, np.uint8))
    with pytest.raises(DataError, match=r"100.png: value 7 \(240 pixels\) is no position"):
        dict(read_masks(tmp_path, Classes(["road", "gate"])))
    assert read_image(tmp_path / "100.png").ndim == 2


def test_colours_without_a_list_of_colours_are_refused(tmp_path):
    write_masks(tmp_path, coloured(expected()))
    with pytest.raises(DataError, match=r"100.png: shows colours, and the"):
        dict(read_masks(tmp_path, Classes(["road", "gate"])))
