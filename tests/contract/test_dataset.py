"""Data folders: each kind is read as it stands, and what cannot be used is named with its place and a way out."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ilcs_model.data.dataset import open_dataset
from ilcs_model.data.loader import plain_batches
from ilcs_model.errors import DataError
from ilcs_model.info import TileRecipe
from nodes.publish.image_archive import ImageArchive
from nodes.publish.make_events import events_of
from pipeline.config import Camera, Config, Infer
from pipeline.core.events import DefectEvent
from pipeline.core.frame import Defect, ModelId, Verdict
from tests.contract.images import write_image
from tests.unit.frames import meta


def write_table(root: Path, *lines: str, header: str = "file,class,split") -> Path:
    """``split.csv`` for the images a.png to d.png, which are written too."""
    for name in "abcd":
        write_image(root / f"{name}.png", ord(name))
    (root / "split.csv").write_text("\n".join([header, *lines]) + "\n")
    return root


def test_class_folders_hold_out_every_tenth_image_and_leave_out_what_is_no_image(tmp_path: Path) -> None:
    for name in ("ok", "Späne"):
        for k in range(20):
            write_image(tmp_path / name / f"{k:02}{('.png', '.JPG', '.tif', '.webp')[k % 4]}")
    for name in (".hidden.png", "half.png.part", "notes.txt"):
        (tmp_path / "ok" / name).write_bytes(b"x")
    for name in (".git", "empty"):
        (tmp_path / name).mkdir()

    data = open_dataset(tmp_path)

    assert data.classes == ("Späne", "ok")
    assert [f.name for f, s in zip(data.files, data.splits, strict=True) if s == "test"] == ["09.JPG", "19.webp"] * 2
    assert len(data.files) == 40
    assert not data.locates
    assert any(str(tmp_path / "empty") in remark for remark in data.remarks)
    assert any("1 files or folders" in remark and "notes.txt" in remark for remark in data.remarks)


def test_folders_named_like_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label in ("dent", "ok"):
            write_image(tmp_path / split / label / "1.png")

    data = open_dataset(tmp_path)

    assert data.classes == ("dent", "ok")
    assert sorted(data.splits) == ["test"] * 2 + ["train"] * 2 + ["val"] * 2


def test_the_images_that_a_line_stores_are_a_data_folder(tmp_path: Path) -> None:
    """Written by the publish node's own code: ``state_dir/images/CAMERA/LABEL/ID.png``; its quota may leave empty folders."""
    config = Config(line="line1", cameras={"top": Camera(source="sim:strip")}, infer=Infer(model="m"), state_dir=str(tmp_path))
    png = cv2.imencode(".png", np.full((300, 300), 90, np.uint8))[1].tobytes()
    labels = ("rolled-in_scale", "scratches", "slag/inclusion") * 20
    defects = tuple(Defect(label=x, score=0.9, scores={x: 0.9}, box_px=(0, 0, 9, 9), png=png) for x in labels)
    archive = ImageArchive(tmp_path / "images", 1_000_000)
    for event, crop in events_of(Verdict(meta=meta(1), attempt=1, model=ModelId(name="m", digest="d"), defects=defects), config):
        assert isinstance(event, DefectEvent) and event.image
        archive.keep(event.image, crop)
    (tmp_path / "images" / "top" / "patches").mkdir()

    data = open_dataset(tmp_path / "images" / "top")

    assert data.classes == ("rolled-in_scale", "scratches", "slag_inclusion")
    assert (len(data.split("train")), len(data.split("test"))) == (54, 6)
    assert any("patches" in remark for remark in data.remarks)
    tiles, labels_ = next(plain_batches(data, data.split("test"), TileRecipe(), 6))
    assert (tiles.shape, labels_.tolist()) == ((6, 1, 300, 300), [0, 0, 1, 1, 2, 2])


FINE = ("a.png,x,train", "b.png,y,train")


@pytest.mark.parametrize(
    ("lines", "header", "says"),
    [
        ((*FINE, "c.png,x,tset"), "file,class,split", r"split\.csv:4: no split 'tset'; splits are train, val, test"),
        (
            (*FINE, "b.png,y,test"),
            "file,class,split",
            r"split\.csv:4: b\.png is listed already in .*split\.csv:3, once in train and",
        ),
        ((*FINE, "./a.png,x,train"), "file,class,split", r"split\.csv:4: a\.png is listed already in .*split\.csv:2; an image"),
        ((*FINE, "../a.png,x,train"), "file,class,split", r"split\.csv:4: '\.\./a\.png' leads out"),
        ((*FINE, "/a.png,x,train"), "file,class,split", r"split\.csv:4: '/a\.png' leads out"),
        ((*FINE, "c.png,x"), "file,class,split", r"split\.csv:4: has not as many cells"),
        ((*FINE, "c.png,x,train,none"), "file,class,split", r"split\.csv:4: has not as many cells"),
        ((*FINE, '"c.png,x,train'), "file,class,split", r"split\.csv:4: not a line of CSV"),
        ((*FINE, f"{'c' * 300}.png,x,train"), "file,class,split", r"split\.csv:4: .* does not exist"),
        (("a.png,x,train,none",), "file,class,split,maks", "column 'maks' is unknown.*the columns are file, class, split, mask"),
        (("a.png,x,train,x",), "file,class,split,file", "column 'file' is unknown or there twice"),
        (("a.png;x;train",), "file;class;split", "no column 'file'"),
        (("a.png,x,train,../m.png",), "file,class,split,mask", r"split\.csv:2: '\.\./m\.png' leads out"),
        (("a.png,x,train", "b.png,x,test"), "file,class,split", "one class only, x"),
        (("a.png,x,train", "b.png,y,val"), "file,class,split", "no image of class y in split 'train'"),
        ((), "file,class,split", "no images found"),
        ((), "", "no column 'file'"),
        ((*FINE, "c.png,u/v,train"), "file,class,split", r"split\.csv:4: class 'u/v' cannot be the name of a folder"),
        ((*FINE, "c.png,.x,train"), "file,class,split", r"split\.csv:4: class '\.x' cannot"),
        ((*FINE, "c.png,x ,train"), "file,class,split", r"split\.csv:4: class 'x ' is empty, or has characters"),
        ((*FINE, "c.png,a\u0308,train"), "file,class,split", r"split\.csv:4: class .* is not in Unicode's composed form"),
        ((*FINE, f"c.png,{'ä' * 51},train"), "file,class,split", r"split\.csv:4: class .* is longer than 100 bytes"),
    ],
)
def test_a_split_that_cannot_be_right_is_refused_at_its_line(tmp_path: Path, lines: tuple[str, ...], header: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_dataset(write_table(tmp_path, *lines, header=header))


def test_a_table_that_is_not_utf8_is_refused_and_a_byte_order_mark_is_none_of_its_text(tmp_path: Path) -> None:
    write_table(tmp_path, *FINE)
    text = (tmp_path / "split.csv").read_bytes()
    (tmp_path / "split.csv").write_bytes(b"\xef\xbb\xbf" + text)
    assert open_dataset(tmp_path).classes == ("x", "y")

    (tmp_path / "split.csv").write_bytes(text.replace(b",y", b",\xe4"))
    with pytest.raises(DataError, match=r"split\.csv: not UTF-8 .*save it as UTF-8"):
        open_dataset(tmp_path)


def test_what_is_not_tested_is_said(tmp_path: Path) -> None:
    assert open_dataset(write_table(tmp_path, *FINE)).remarks == ("no images in split 'test': nothing will tell how good the model is",)
    assert open_dataset(write_table(tmp_path, *FINE, "c.png,x,test")).remarks == ("no image of class y in split 'test'",)


def test_what_is_only_evaluated_needs_no_training_split_and_no_second_class(tmp_path: Path) -> None:
    write_table(tmp_path, "a.png,x,test", "b.png,x,test")

    assert open_dataset(tmp_path, for_training=False).splits == ("test", "test")
    with pytest.raises(DataError, match="one class only"):
        open_dataset(tmp_path)


def test_a_folder_without_images_says_what_one_looks_like(tmp_path: Path) -> None:
    (tmp_path / "top" / "scratches").mkdir(parents=True)

    with pytest.raises(DataError, match=r"no images found; a data folder has one sub-folder.*no images in .*top"):
        open_dataset(tmp_path)


def test_links_that_lead_nowhere_or_round_in_circles_are_named(tmp_path: Path) -> None:
    for label in "xy":
        write_image(tmp_path / label / "1.png")
    (tmp_path / "x" / "up").symlink_to(tmp_path)
    assert len(open_dataset(tmp_path).files) == 2

    (tmp_path / "x" / "2.png").symlink_to(tmp_path / "x" / "2.png")
    with pytest.raises(DataError, match=r"x/2\.png: a link that leads nowhere"):
        open_dataset(tmp_path)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    for label in ("x", "y"):
        write_image(tmp_path / label / "1.png")
    (tmp_path / "x" / "1.png").rename(tmp_path / "x" / b"\xff.png".decode(errors="surrogateescape"))

    with pytest.raises(DataError, match="printable UTF-8"):
        open_dataset(tmp_path)


def test_a_damaged_note_on_the_datas_origin_is_found_at_the_start(tmp_path: Path) -> None:
    write_table(tmp_path, *FINE)
    (tmp_path / "origin.json").write_text("{")

    with pytest.raises(DataError, match=r"origin\.json: not readable JSON"):
        open_dataset(tmp_path)


def test_a_json_file_that_is_no_coco_set_is_said_to_be_left_out(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    make_images(tmp_path / "images", 3)
    (tmp_path / "annotations.json").write_text("[]")

    with pytest.raises(DataError, match=r"one class only, images; .*; annotations\.json: not a COCO set, left out"):
        open_dataset(tmp_path)
    make_images(tmp_path / "masks", 3)
    assert "annotations.json: not a COCO set, left out" in open_dataset(tmp_path).remarks


def test_a_split_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "split.csv").write_text("file,class,split\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read everything, so it is not to be had really

    monkeypatch.setattr(Path, "read_text", refuse)

    with pytest.raises(DataError, match=r"split\.csv: cannot be read \(Permission denied\)"):
        open_dataset(tmp_path)
