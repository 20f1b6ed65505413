"""Sources: frames in order, the same each time, each within its slot; a bad one is said, never raised."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nodes.capture.sources.folder import FolderSource
from nodes.capture.sources.sim.source import StripSource
from nodes.capture.sources.source import Source
from nodes.capture.sources.video import VideoSource
from pipeline.core.errors import ConfigError
from tests.videos import moving, write_video


@pytest.fixture(params=["folder", "strip", "video"])
def make_source(request: pytest.FixtureRequest, tmp_path: Path, make_images: Callable[..., list[Path]]) -> Callable[[], Source]:
    make_images(tmp_path, 5)
    if request.param == "folder":
        return lambda: FolderSource(str(tmp_path), loop=True, max_bytes=1 << 20)
    if request.param == "video":
        path = write_video(tmp_path / "clip.mkv", moving(5))
        return lambda: VideoSource(str(path), loop=True, max_pixels=1 << 20)
    return lambda: StripSource(3, 400, 100)


def frame(source: Source, number: int) -> bytes:
    into = np.zeros(source.slot_bytes, np.uint8)
    shot = source.read(number, into)
    assert shot is not None
    assert shot.reason == ""
    return into[: shot.length].tobytes()


def test_the_same_frame_is_the_same_bytes_every_time(make_source: Callable[[], Source]) -> None:
    one, other = make_source(), make_source()

    assert [frame(one, k) for k in range(7)] == [frame(other, k) for k in range(7)]


def test_reading_may_start_anywhere(make_source: Callable[[], Source]) -> None:
    """A capture node that came back goes on at the next number."""
    one, other = make_source(), make_source()
    for k in range(3):
        frame(one, k)

    assert frame(other, 3) == frame(one, 3)


def test_a_folder_gives_its_images_by_name_and_ends(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    paths = make_images(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("not an image")
    source = FolderSource(str(tmp_path), loop=False, max_bytes=1 << 20)

    assert [frame(source, k) for k in range(3)] == [p.read_bytes() for p in paths]
    assert not source.has(3)
    assert source.read(3, np.zeros(source.slot_bytes, np.uint8)) is None


def test_files_that_a_folder_skips_are_counted(
    tmp_path: Path, make_images: Callable[..., list[Path]], caplog: pytest.LogCaptureFixture
) -> None:
    make_images(tmp_path, 3)
    (tmp_path / "sub").mkdir()
    FolderSource(str(tmp_path), loop=False, max_bytes=1 << 20)
    assert caplog.text == ""

    for name in ("a.tif", "b.JPG.part"):
        (tmp_path / name).write_text("x")
    FolderSource(str(tmp_path), loop=False, max_bytes=1 << 20)

    assert f"2 files skipped in {tmp_path}: not .jpg .jpeg .png .bmp" in caplog.text


def test_files_that_change_meanwhile_are_said(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    """Gone, emptied, grown: each a reason, the source goes on."""
    paths = make_images(tmp_path, 4)
    source = FolderSource(str(tmp_path), loop=False, max_bytes=1 << 20)
    into = np.zeros(source.slot_bytes, np.uint8)
    paths[0].unlink()
    paths[1].write_bytes(b"")
    paths[2].write_bytes(bytes(source.slot_bytes + 5))

    found = [source.read(k, into) for k in range(4)]

    assert [s.reason for s in found if s is not None] == ["unreadable", "empty", "too_large", ""]


@pytest.mark.parametrize("fill", [[], ["readme.txt"]])
def test_a_folder_without_images_is_refused(tmp_path: Path, fill: list[str]) -> None:
    for name in fill:
        (tmp_path / name).write_text("x")

    with pytest.raises(ConfigError, match="no JPEG, PNG or BMP"):
        FolderSource(str(tmp_path), loop=False, max_bytes=1)


def test_another_seed_is_another_strip() -> None:
    assert frame(StripSource(1, 200, 50), 0) != frame(StripSource(2, 200, 50), 0)
