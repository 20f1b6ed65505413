"""What only the pixels tell: broken files named before a run, the same picture twice, colour, and masks from boxes."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from ilcs_model.data.augment import CELL
from ilcs_model.data.check import check_images, has_colour
from ilcs_model.data.dataset import Box, Dataset, mask_of, open_dataset
from ilcs_model.data.images import read_image
from ilcs_model.data.loader import Epoch, answers, draw_group, plain_batches
from ilcs_model.errors import DataError
from ilcs_model.info import TileRecipe
from tests.contract.images import write_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 60), np.uint8)
COLOUR = RNG.integers(0, 256, (40, 60, 3), np.uint8)


def folder_of(root: Path, images: dict[str, bytes]) -> Dataset:
    """A data set of two classes whose files are ``images``."""
    for name, data in images.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    return open_dataset(root)


def encoded(image: np.ndarray, kind: str = ".png", *flags: int) -> bytes:
    return cv2.imencode(kind, image, flags)[1].tobytes()


def test_every_broken_file_is_named_at_once_and_no_more_than_ten(tmp_path: Path) -> None:
    whole = {kind: encoded(GREY, kind) for kind in (".jpg", ".png", ".bmp", ".tif", ".webp")}
    broken = {f"x/{kind[1:]}{kind}": data[: len(data) * 2 // 3] for kind, data in whole.items()}
    data = folder_of(tmp_path, {"x/fine.png": encoded(GREY[1:]), "y/fine.png": encoded(GREY), **broken, "y/empty.png": b""})

    with pytest.raises(DataError, match="6 of 8 images cannot be used") as caught:
        check_images(data)
    assert all(name in str(caught.value) for name in (*broken, "y/empty.png"))
    assert "fine" not in str(caught.value)

    many = folder_of(tmp_path, {f"x/{k}.jpg": b"\xff\xd8\xff" for k in range(20)})
    with pytest.raises(DataError, match="26 of 28 images") as caught:
        check_images(many)
    assert len(str(caught.value).splitlines()) == 12
    assert str(caught.value).endswith("and 16 more")


def test_a_file_that_is_gone_since_the_folder_was_opened_is_named(tmp_path: Path) -> None:
    """As when a line that still runs makes room for new images."""
    data = folder_of(tmp_path, {"x/1.png": encoded(GREY), "y/1.png": encoded(GREY[1:])})
    (tmp_path / "x" / "1.png").unlink()

    with pytest.raises(DataError, match=r"x/1\.png: not a readable image"):
        check_images(data)


@pytest.mark.parametrize("decode", ["grey", "rgb"])
def test_images_of_any_depth_and_kind_give_eight_bits(tmp_path: Path, decode: str) -> None:
    """16 bits lose the lower 8, as on the line; transparency is left out; one pixel is an image."""
    deep = (COLOUR.astype(np.uint16) << 8) + 77
    alpha = np.dstack([COLOUR, RNG.integers(0, 256, (40, 60), np.uint8)])
    for name, image in {"16.png": deep, "16.tif": deep, "alpha.png": alpha, "alpha.tif": alpha, "plain.bmp": COLOUR}.items():
        cv2.imwrite(str(tmp_path / name), image)
        found = read_image(tmp_path / name, decode)
        wanted = cv2.cvtColor(COLOUR, cv2.COLOR_BGR2RGB) if decode == "rgb" else cv2.cvtColor(COLOUR, cv2.COLOR_BGR2GRAY)
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).max() <= 1, name
    write_image(tmp_path / "dot.png")
    cv2.imwrite(str(tmp_path / "dot.png"), np.full((1, 1), 7, np.uint8))
    assert read_image(tmp_path / "dot.png", decode).max() == 7


def test_a_jpeg_for_print_is_read(tmp_path: Path) -> None:
    """Four inks; OpenCV is the oracle."""
    inks = cv2.resize(RNG.integers(0, 256, (4, 4, 4), np.uint8), (60, 40))
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(inks), quality=95, colorspace="CMYK")
    (tmp_path / "cmyk.jpg").write_bytes(data)

    found = read_image(tmp_path / "cmyk.jpg", "rgb")

    assert np.abs(found.astype(int) - cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)).max() <= 1


def test_a_file_of_several_pictures_and_one_of_floats_are_refused(tmp_path: Path) -> None:
    data = folder_of(tmp_path, {"x/1.png": encoded(GREY), "y/1.png": encoded(GREY[1:])})
    cv2.imwritemulti(str(tmp_path / "x" / "two.tif"), [GREY, GREY])
    (tmp_path / "y" / "float.tif").write_bytes(encoded(GREY.astype(np.float32), ".tif"))
    data = open_dataset(tmp_path)

    with pytest.raises(DataError, match=r"(?s)2 of 4 .*two\.tif: holds 2 pictures; save.*float\.tif: not a readable image"):
        check_images(data)


def test_the_same_picture_in_two_splits_is_said_and_once_more_in_one(tmp_path: Path) -> None:
    images = {name: encoded(np.full((8, 8), k, np.uint8)) for k, name in enumerate("abcde")}
    images["c"] = images["a"]
    images["e"] = images["b"]
    for name, data in images.items():
        (tmp_path / f"{name}.png").write_bytes(data)
    rows = ["file,class,split", "a.png,x,train", "b.png,x,train", "c.png,x,test", "d.png,y,train", "e.png,y,train"]
    (tmp_path / "split.csv").write_text("\n".join(rows))

    leak, twins = check_images(open_dataset(tmp_path))

    assert "in different splits" in leak and leak.endswith("a.png (x, train) = c.png (x, test)")
    assert twins == "byte-identical images: b.png (x, train) = e.png (y, train)"


def write_masked(root: Path, label: str, mask: np.ndarray) -> Dataset:
    write_image(root / "a.png", 10)
    write_image(root / "b.png", 20)
    cv2.imwrite(str(root / "m.png"), mask)
    (root / "split.csv").write_text(f"file,class,split,mask\na.png,{label},train,m.png\nb.png,z,train,none\n")
    return open_dataset(root)


def test_a_black_mask_of_a_defect_is_named_and_so_is_one_of_another_size(tmp_path: Path) -> None:
    black = np.zeros((20, 30), np.uint8)
    with pytest.raises(DataError, match=r"m\.png: all black, but a\.png shows a defect; mend it, or write none"):
        check_images(write_masked(tmp_path, "dent", black))
    with pytest.raises(DataError, match=r"m\.png: nothing above 127 in it \(the most is 1, white is 255\), but a\.png shows a defect"):
        check_images(write_masked(tmp_path, "dent", black + 1))
    with pytest.raises(DataError, match=r"m\.png: 20 x 30 pixels, but its image a\.png has 30 x 20"):
        check_images(write_masked(tmp_path, "dent", black.T))
    assert check_images(write_masked(tmp_path, "ok", black)) == ()


@pytest.fixture
def boxed(tmp_path: Path) -> Callable[..., Dataset]:
    """Images 30 x 20, the first with the given boxes, the second with none, the third not known."""

    def make(*boxes: Box) -> Dataset:
        for k in range(3):
            write_image(tmp_path / f"{k}.png", k)
        files = tuple(tmp_path / f"{k}.png" for k in range(3))
        return Dataset(root=tmp_path, classes=("dent", "ok"), files=files, labels=(0, 1, 0), splits=("train",) * 3, boxes=(boxes, (), None))

    return make


def test_boxes_serve_as_masks_and_are_cut_at_the_images_edge(boxed: Callable[..., Dataset]) -> None:
    data = boxed((4, 5, 2, 3), (27.5, -2, 9, 3), (-9, 0, 5, 9), (-2, 15, 5, 2))

    mask = mask_of(data, 0, (20, 30, 3))

    wanted = np.zeros((20, 30), np.uint8)
    wanted[5:8, 4:6] = wanted[0:1, 27:] = wanted[15:17, :3] = 255
    assert mask is not None and np.array_equal(mask, wanted)
    assert mask_of(data, 1, (20, 30)) is mask_of(data, 2, (20, 30)) is None
    assert check_images(data)[0].startswith("boxes of 1 images reach beyond the image and are cut off there: 0.png")


def test_boxes_outside_their_image_are_named(boxed: Callable[..., Dataset]) -> None:
    with pytest.raises(DataError, match=r"0\.png: its boxes lie outside the image"):
        check_images(boxed((100, 100, 5, 5)))


def test_the_target_map_shows_the_boxes_nothing_on_clean_images_and_leaves_open_what_is_not_known(boxed: Callable[..., Dataset]) -> None:
    data, epoch, group = boxed((0, 0, 30, 20)), Epoch(TileRecipe(size_px=32), 3, (0, 0)), np.arange(3)

    labels, maps = answers(data, group, draw_group(data, group, [(20, 30)] * 3, epoch), epoch)

    assert labels.tolist() == [0, 1, 0]
    assert maps is not None and maps.shape == (3, 32 // CELL, 32 // CELL)
    assert [m.unique().tolist() for m in maps] == [[1.0], [0.0], [-1.0]]


def test_colour_gives_three_channels_and_grey_one(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 2] = 200  # OpenCV writes blue first
    data = folder_of(tmp_path, {"x/1.png": encoded(red), "y/1.png": encoded(red[:4])})

    tiles, labels = next(plain_batches(data, [1, 0], TileRecipe(size_px=16, decode="rgb"), 2))

    assert (tiles.shape, tiles.dtype, labels.tolist()) == ((2, 3, 16, 16), torch.uint8, [1, 0])
    assert tiles[0].float().mean((1, 2)).tolist() == [200, 0, 0]
    assert next(plain_batches(data, [0], TileRecipe(size_px=16), 2))[0].shape == (1, 1, 16, 16)


def noisy_grey(channels: int = 3) -> np.ndarray:
    grey = np.clip(cv2.resize(GREY, (200, 160)).astype(int)[:, :, None] + RNG.normal(0, 12, (160, 200, channels)), 0, 255)
    return grey.astype(np.uint8)


def test_grey_pictures_saved_in_colour_are_grey(tmp_path: Path) -> None:
    """Whatever noise and JPEG do to their channels; and a coloured stamp on one image of many makes no colour data set."""
    images = {f"{c}/{k}.jpg": encoded(noisy_grey(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 30) for c in "xy" for k in range(10)}
    images |= {f"{c}/{k}.png": encoded(noisy_grey()) for c in "xy" for k in range(5)}
    assert not has_colour(folder_of(tmp_path, images))

    assert not has_colour(folder_of(tmp_path, {"x/0.png": encoded(COLOUR)}))


@pytest.mark.parametrize("kind", [".jpg", ".png", ".bmp"])
def test_coloured_pictures_are_coloured_even_if_little_of_each_is(tmp_path: Path, kind: str) -> None:
    image = noisy_grey()
    image[40:70, 50:90] = (30, 60, 160)  # rust on 4 % of the area

    assert has_colour(folder_of(tmp_path, {f"{c}/{k}{kind}": encoded(image + np.uint8(k), kind) for c in "xy" for k in range(2)}))


def test_the_only_twins_in_neu_are_found_and_it_is_grey(neu_dir: Path) -> None:
    data = open_dataset(neu_dir)

    assert check_images(data) == ("byte-identical images: patches_101.jpg (patches, train) = patches_105.jpg (patches, train)",)
    assert not has_colour(data)
