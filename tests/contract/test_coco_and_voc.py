"""Data sets with boxes: Pascal VOC and COCO as they lie on disk, and what strangers' files may hold."""

from pathlib import Path

import pytest

from ilcs_model.data.check import check_images
from ilcs_model.data.dataset import Dataset, open_dataset
from ilcs_model.errors import DataError
from tests.contract.images import write_image


def by_name(data: Dataset) -> dict[str, tuple[str, str]]:
    return {f.name: (data.classes[k], s) for f, k, s in zip(data.files, data.labels, data.splits, strict=True)}


VOC = """<annotation><filename>other</filename><size><width>30</width><height>20</height></size>{}</annotation>"""
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write_voc(root: Path, **objects: str) -> Path:
    for name, text in objects.items():
        write_image(root / "JPEGImages" / f"{name}.png")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(VOC.format(text))
    return root


def test_boxes_beside_a_split_are_found_and_count_pixels_from_zero(tmp_path: Path) -> None:
    """VOC counts from 1 and its last column belongs to the box."""
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png")
    (tmp_path / "split.csv").write_text("file,class,split\na.png,x,train\nb.png,y,train\nc.png,x,test\n")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.xml").write_text(VOC.format(OBJECT.format("x", 1, 1, 30, 20) + OBJECT.format("y", 5, 6, 5, 7)))
    (tmp_path / "annotations" / "b.xml").write_text(VOC.format(""))

    data = open_dataset(tmp_path)

    assert data.boxes == (((0.0, 0.0, 30.0, 20.0), (4.0, 5.0, 1.0, 2.0)), (), None)
    assert data.locates
    assert data.remarks[0].startswith("1 images have boxes of several classes; they keep the class")


def test_a_voc_set_is_read_with_its_lists(tmp_path: Path) -> None:
    big, small = OBJECT.format("dent", 1, 1, 20, 10), OBJECT.format("burr", 1, 1, 3, 3)
    write_voc(tmp_path, a=big, b=small, c=big + small, d="", e=big, f=small, g=big)
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text("a\nb  1\n\nd -1\n")
    (main / "val.txt").write_text("c\n")
    (main / "trainval.txt").write_text("a\nb\nc\nd\ne\n")
    (main / "test.txt").write_text("f\n")
    (main / "dent_train.txt").write_text("a 1\n")

    data = open_dataset(tmp_path)

    assert by_name(data) == {
        "a.png": ("dent", "train"),
        "b.png": ("burr", "train"),
        "c.png": ("dent", "val"),
        "d.png": ("ok", "train"),
        "e.png": ("dent", "train"),
        "f.png": ("burr", "test"),
    }
    assert data.boxes[[f.name for f in data.files].index("d.png")] == ()
    assert data.remarks[0] == "1 images have boxes of several classes; they take the class with the largest area"
    assert data.remarks[1] == "1 images are in no list of ImageSets/Main and are left out: g"


def test_boxes_of_another_size_of_the_image_are_refused(tmp_path: Path) -> None:
    """Images that were scaled, or turned, after they were annotated; a size that was not noted is believed."""
    root = write_voc(tmp_path, **{f"i{k:02}": OBJECT.format(("dent", "burr")[k % 2], 1, 1, 5, 5) for k in range(20)})
    write_image(root / "JPEGImages" / "i03.png", size=(20, 30))
    write_image(root / "JPEGImages" / "i04.png", size=(60, 40))
    (root / "Annotations" / "i04.xml").write_text(f"<annotation>{OBJECT.format('dent', 1, 1, 5, 5)}</annotation>")

    with pytest.raises(DataError, match=r"^1 of 20 images .*\n.*i03\.png: has 20 x 30 pixels, its boxes were drawn on 30 x 20; bring"):
        check_images(open_dataset(root))


def test_a_voc_set_without_lists_holds_out_every_tenth(tmp_path: Path) -> None:
    write_voc(tmp_path, **{f"i{k:02}": OBJECT.format(("dent", "burr")[k % 2], 1, 1, 5, 5) for k in range(20)})

    assert sorted(open_dataset(tmp_path).splits) == ["test"] * 2 + ["train"] * 18


LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;">]><annotation><object><name>&m;</name></object></annotation>'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (LAUGHS.encode(), "DOCTYPE"),
        (LAUGHS.encode("utf-16"), "DOCTYPE"),
        (b"<annotation><object>", "no element found|unclosed"),
        (b"\xff\xd8\xff", "a.xml"),
        (b"<annotation>" + b" " * (4 << 20) + b"</annotation>", "over 4 MiB"),
        (VOC.format(OBJECT.format("x", 5, 5, 3, 9)).encode(), "object 1 encloses nothing"),
        (VOC.format(OBJECT.format("x", "nan", 5, 30, 9)).encode(), "object 1 encloses nothing"),
        (VOC.format("<object><name>x</name></object>").encode(), "object 1 has no bndbox of four numbers"),
        (VOC.format(OBJECT.format("..", 1, 1, 3, 3)).encode(), r"class '\.\.' cannot be the name of a folder"),
    ],
)
def test_a_hostile_or_broken_annotation_is_named(tmp_path: Path, text: bytes, says: str) -> None:
    write_voc(tmp_path, a="", b=OBJECT.format("dent", 1, 1, 2, 2))
    (tmp_path / "Annotations" / "a.xml").write_bytes(text)

    with pytest.raises(DataError, match=says) as caught:
        open_dataset(tmp_path)
    assert "a.xml" in str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        ("a\n", "a\n", r"test\.txt:1: a is listed already in .*train\.txt:1"),
        ("a\n../b\n", "", r"train\.txt:2: '\.\./b' has no image in JPEGImages"),
        ("a\nc\n", "", r"train\.txt:2: 'c' has no annotation in Annotations"),
    ],
)
def test_a_voc_list_that_cannot_be_followed_is_named(tmp_path: Path, train: str, test: str, says: str) -> None:
    write_voc(tmp_path, a="", b=OBJECT.format("dent", 1, 1, 2, 2))
    write_image(tmp_path / "JPEGImages" / "c.png")
    main = tmp_path / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (main / "train.txt").write_text(train)
    (main / "test.txt").write_text(test)

    with pytest.raises(DataError, match=says):
        open_dataset(tmp_path)


def test_an_xml_without_its_image_is_named(tmp_path: Path) -> None:
    write_voc(tmp_path, a="", b=OBJECT.format("dent", 1, 1, 2, 2))
    (tmp_path / "JPEGImages" / "b.png").unlink()

    with pytest.raises(DataError, match=r"Annotations/b\.xml: 'b' has no image in JPEGImages"):
        open_dataset(tmp_path)


COCO = """{{"info": {{}}, "images": [{}], "annotations": [{}],
"categories": [{{"id": 3, "name": "dent"}}, {{"id": 7, "name": "burr"}}, {{"id": 9, "name": "unused/one"}}]}}"""
IMAGE = '{{"id": {}, "file_name": "{}", "width": 30}}'
BOX = '{{"id": 1, "image_id": {}, "category_id": {}, "bbox": {}, "iscrowd": 0}}'


def write_coco(path: Path, images: list[str], boxes: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(COCO.format(", ".join(images), ", ".join(boxes)))


def test_a_coco_set_is_read_from_its_own_layout(tmp_path: Path) -> None:
    for name in ("train2017/a.png", "train2017/b.png", "train2017/c.png", "images/d.png"):
        write_image(tmp_path / name)
    images = [IMAGE.format(1, "a.png"), IMAGE.format(2, "b.png"), IMAGE.format(3, "c.png")]
    boxes = [BOX.format(1, 3, [0, 0.5, 4, 4]), BOX.format(2, 7, [1, 1, 2, 2]), BOX.format(1, 7, [0, 0, 3, 3])]
    write_coco(tmp_path / "annotations" / "instances_train2017.json", images, boxes)
    write_coco(tmp_path / "annotations" / "instances_val2017.json", [IMAGE.format(1, "d.png")], [BOX.format(1, 3, [0, 0, 9, 9])])
    (tmp_path / "annotations" / "captions_val2017.json").write_text('{"images": [], "annotations": []}')

    data = open_dataset(tmp_path)

    assert by_name(data) == {"a.png": ("dent", "train"), "b.png": ("burr", "train"), "c.png": ("ok", "train"), "d.png": ("dent", "val")}
    assert data.boxes == (((0.0, 0.5, 4.0, 4.0), (0.0, 0.0, 3.0, 3.0)), ((1.0, 1.0, 2.0, 2.0),), (), ((0.0, 0.0, 9.0, 9.0),))
    assert data.remarks[0].startswith("1 images have boxes of several classes")


def test_coco_boxes_of_another_size_of_the_image_are_refused(tmp_path: Path) -> None:
    sized = ', "width": {}, "height": {}}}'.format
    images = [IMAGE.format(k, f"{k:02}.png")[:-1] + sized(*((30, 20), (0, 0), ('"?"', 20), (60, 40))[k % 4]) for k in range(20)]
    for k in range(20):
        write_image(tmp_path / f"{k:02}.png")
    write_coco(tmp_path / "boxes.json", images, [BOX.format(k, 3, [0, 0, 2, 2]) for k in range(16)])

    with pytest.raises(DataError, match=r"^4 of 20 images .*\n.*03\.png: has 30 x 20 pixels, its boxes were drawn on 60 x 40;"):
        check_images(open_dataset(tmp_path))


def test_one_coco_file_at_the_root_holds_out_every_tenth(tmp_path: Path) -> None:
    """``latest`` is not ``test``."""
    for k in range(20):
        write_image(tmp_path / "images" / f"{k:02}.png")
    images = [IMAGE.format(k, f"{k:02}.png") for k in range(20)]
    write_coco(tmp_path / "latest.json", images, [BOX.format(k, 3, [0, 0, 2, 2]) for k in range(10)])

    data = open_dataset(tmp_path)

    assert data.classes == ("dent", "ok")
    assert sorted(data.splits) == ["test"] * 2 + ["train"] * 18
    assert not data.names_split, "eval judges all images of such a set"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [', "not readable JSON"),
        ('{"images": ' + "[" * 100_000, "not readable JSON"),
        ('{"images": [], "annotations": []}', "looks like a COCO set but has no categories; complete it or move it away"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', r"file_name.*\$\.images\[0\]"),
        (COCO.format(IMAGE.format(1, "a.png"), BOX.format(2, 3, [0, 0, 1, 1])), r"annotations\[0\] names an image or a category"),
        (COCO.format(IMAGE.format(1, "a.png"), BOX.format(1, 4, [0, 0, 1, 1])), r"annotations\[0\] names an image or a category"),
        (COCO.format(IMAGE.format(1, "a.png"), BOX.format(1, 3, [0, 0, -1, 1])), r"annotations\[0\] encloses nothing"),
        (COCO.format(IMAGE.format(1, "a.png"), BOX.format(1, 3, "[0, 0, 1e999, 1]")), r"out of range"),
        (COCO.format(IMAGE.format(1, "/etc/passwd"), ""), r"image 1: '/etc/passwd' leads out of the data folder"),
        (COCO.format(IMAGE.format(1, "../a.png"), ""), r"image 1: '\.\./a\.png' leads out of the data folder"),
        (COCO.format(IMAGE.format(1, "b.png"), ""), r"image 1: no b\.png in "),
        (COCO.format(IMAGE.format(1, "x" * 300), ""), r"image 1: no x"),
        (COCO.format(", ".join([IMAGE.format(1, "a.png")] * 2), ""), "two images have the same id"),
        (
            COCO.format(IMAGE.format(1, "a.png"), "").replace('"categories": [', '"categories": [{"id": 3, "name": "again"}, '),
            "two categories have the same id",
        ),
        (COCO.format(IMAGE.format(1, "a.png") + "," + IMAGE.format(2, "./a.png"), ""), r"image 2: a\.png is listed already in .*image 1"),
        (COCO.format(IMAGE.format(1, "a.png"), BOX.format(1, 9, [0, 0, 1, 1])), "class 'unused/one' cannot be the name of a folder"),
    ],
)
def test_a_broken_coco_file_is_named(tmp_path: Path, text: str, says: str) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "coco.json").write_text(text)

    with pytest.raises(DataError, match=says) as caught:
        open_dataset(tmp_path)
    assert "coco.json" in str(caught.value)


def test_the_neu_images_have_their_classes_counts_and_boxes(neu_dir: Path) -> None:
    data = open_dataset(neu_dir)

    assert (len(data.classes), len(data.split("train")), len(data.split("test"))) == (6, 1260, 270)
    assert data.boxes[data.files.index(neu_dir / "images" / "crazing_1.jpg")] == ((1, 1, 192, 193),)
    assert sum(len(boxes or ()) for boxes in data.boxes) == 3565
    assert any(remark.startswith("104 images have boxes of several classes") for remark in data.remarks)
