"""``folder:`` in the hands of somebody who changes it: one list for a run, and nothing that lies there holds capture up."""

import errno
import os
import resource
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from nodes.capture.node import open_source
from nodes.capture.sources import folder as folder_module
from nodes.capture.sources.folder import FolderSource
from nodes.capture.sources.source import Source, SourceFrame
from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import find_process
from pipeline.core.errors import ConfigError
from pipeline.diagnostics.doctor import _memory
from pipeline.runtime.node import NodeContext
from pipeline.system.files import open_plain

EPOCH = "a" * 32
SLOT = 4096
NAMES = [b"a.jpg", b"b\nc.png", b"d \xff\xfe.BMP", "e ä.jpeg".encode(), b"f.jpg"]


class Camera1:
    """A camera on a folder, and the runtime folder of its run."""

    def __init__(self, home: Path) -> None:
        self.images, self.runtime = home / "images", home / "runtime"
        self.images.mkdir()
        self.runtime.mkdir()
        self.camera = Camera(source=f"folder:{self.images}", slots=8)
        config = Config(line="l", cameras={"top": self.camera}, infer=Infer(model="m"), state_dir=str(home))
        self.node = NodeContext(config, find_process(config, "capture.top"), self.runtime)

    @property
    def kept(self) -> Path:
        """Where the list lies."""
        return self.node.endpoints.files("top")

    def add(self, *names: bytes) -> None:
        for name in names:
            Path(os.fsdecode(os.path.join(os.fsencode(self.images), name))).write_bytes(b"<" + name + b">")

    def open(self, left_at: int | None = None) -> Source:
        return open_source(self.node, self.camera, EPOCH, left_at)


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Camera1]:
    found = Camera1(tmp_path)
    yield found
    found.node.close()


def read(source: Source, number: int) -> tuple[SourceFrame, bytes]:
    into = np.zeros(SLOT, np.uint8)
    shot = source.read(number, into)
    assert shot is not None
    return shot, into[: shot.length].tobytes()


def contents(source: Source) -> list[bytes]:
    """What the source gives, until it ends."""
    number, found = 0, []
    while source.look(number).ready:
        found.append(read(source, number)[1])
        number += 1
    return found


def of(*names: bytes) -> list[bytes]:
    return [b"<" + name + b">" for name in names]


def test_a_capture_that_comes_again_has_the_list_of_the_first(top: Camera1) -> None:
    """Files that are gone keep their numbers, new ones get none; a name may hold any bytes."""
    top.add(*NAMES)
    assert contents(top.open()) == of(*NAMES)
    (top.images / "a.jpg").unlink()
    top.add(b"0.jpg", b"c.jpg")

    again = top.open(3)

    assert contents(again) == [b"", *of(*NAMES[1:])]
    assert read(again, 0)[0].reason == "unreadable"


def test_the_list_is_private_and_whole(top: Camera1) -> None:
    top.add(*NAMES)
    before = os.umask(0)
    top.open()
    os.umask(before)

    assert [p.name for p in top.runtime.iterdir() if "files" in p.name] == ["files-top"]
    assert stat.S_IMODE(top.kept.stat().st_mode) == 0o600


def test_the_first_capture_of_a_run_never_uses_a_list_that_lies_there(top: Camera1) -> None:
    """Nodes that are run one by one meet in the same folder each time."""
    top.add(b"a.jpg", b"b.jpg")
    top.open()
    top.add(b"0.jpg")

    assert contents(top.open()) == of(b"0.jpg", b"a.jpg", b"b.jpg")
    assert contents(top.open(1)) == of(b"0.jpg", b"a.jpg", b"b.jpg")


@pytest.mark.parametrize("harm", ["gone", "cut", "empty", "pipe"])
def test_a_lost_list_is_made_again_and_it_is_said_what_that_means(top: Camera1, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    top.add(b"a.jpg", b"b.jpg")
    top.open()
    data = top.kept.read_bytes()
    top.kept.unlink()
    if harm == "pipe":
        os.mkfifo(top.kept)
    elif harm != "gone":
        top.kept.write_bytes(data[:-3] if harm == "cut" else b"")
    top.add(b"0.jpg")

    assert contents(top.open(1)) == of(b"0.jpg", b"a.jpg", b"b.jpg")
    assert f"{top.kept}" in caplog.text and "skipped or inspected twice" in caplog.text
    caplog.clear()
    top.add(b"00.jpg")
    assert contents(top.open(1)) == of(b"0.jpg", b"a.jpg", b"b.jpg")
    assert caplog.text == ""


def test_a_list_that_cannot_be_kept_is_said_and_leaves_none_that_is_wrong(top: Camera1, caplog: pytest.LogCaptureFixture) -> None:
    top.add(b"a.jpg")
    top.open()
    top.add(b"b.jpg")
    (top.runtime / ".files-top.part").mkdir()

    assert contents(top.open()) == of(b"a.jpg", b"b.jpg")

    assert "cannot be kept" in caplog.text
    assert not top.kept.exists()


def test_what_is_no_plain_file_is_skipped_and_counted(
    top: Camera1, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    top.add(b"a.jpg", b"b.tif")
    (top.images / "sub.jpg").mkdir()
    (top.images / "to_sub.jpg").symlink_to("sub.jpg")
    (top.images / "to_a.jpg").symlink_to("a.jpg")
    monkeypatch.chdir(top.images)
    os.mkfifo("pipe.jpg")
    Path("nowhere.png").symlink_to("none.png")
    Path("loop.png").symlink_to("loop.png")
    Path("null.bmp").symlink_to("/dev/null")
    Path("nowhere").symlink_to("none")
    with socket.socket(socket.AF_UNIX) as peer:
        peer.bind("socket.jpeg")
        source = top.open()

    assert contents(source) == of(b"a.jpg", b"a.jpg")
    assert f"2 files skipped in {top.images}: not .jpg .jpeg .png .bmp" in caplog.text
    assert f"5 files skipped in {top.images}: no plain files" in caplog.text


@pytest.mark.timeout(20)
def test_a_file_that_becomes_a_pipe_or_a_folder_holds_nobody_up(top: Camera1) -> None:
    top.add(b"a.jpg", b"b.jpg", b"c.jpg", b"d.jpg")
    source = top.open()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (top.images / name).unlink()
    os.mkfifo(top.images / "a.jpg")
    (top.images / "b.jpg").mkdir()
    (top.images / "c.jpg").symlink_to("/dev/zero")

    assert [read(source, k)[0].reason for k in range(4)] == ["unreadable", "unreadable", "unreadable", ""]


def replaced_by_a_file(images: Path) -> None:
    shutil.rmtree(images)
    images.write_bytes(b"")


@pytest.mark.parametrize("go", [shutil.rmtree, replaced_by_a_file])
def test_a_folder_that_goes_ends_capture_as_at_a_start_without_it(top: Camera1, go: Callable[[Path], None]) -> None:
    top.add(b"a.jpg", b"b.jpg")
    source = top.open()
    assert read(source, 0)[1] == b"<a.jpg>"
    go(top.images)

    for attempt in (lambda: read(source, 1), lambda: top.open(1), top.open):
        with pytest.raises(ConfigError, match=r"^folder:.*/images: no such folder$"):
            attempt()
    top.images.unlink(missing_ok=True)
    top.images.mkdir()
    top.add(b"a.jpg", b"b.jpg")
    assert read(top.open(1), 1)[1] == b"<b.jpg>"


def test_a_folder_that_is_empty_now_ends_capture_as_one_that_is_gone(top: Camera1) -> None:
    """What a mount leaves behind, on whatever device, and a folder that was removed and made again: nobody can tell these apart."""
    top.add(b"a.jpg", b"b.jpg")
    source = top.open()
    away = top.images.rename(top.images.with_name("away"))
    top.images.mkdir()
    top.add(b"notes.txt")

    for attempt in (lambda: read(source, 0), lambda: top.open(0), top.open):
        with pytest.raises(ConfigError, match="holds no JPEG, PNG or BMP file"):
            attempt()
    shutil.rmtree(top.images)
    away.rename(top.images)
    assert read(source, 0)[1] == b"<a.jpg>"
    (top.images / "a.jpg").unlink()
    assert read(source, 0)[0].reason == "unreadable"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES])
def test_a_network_folder_that_cannot_be_listed_is_gone(top: Camera1, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    top.add(b"a.jpg")
    source = top.open()

    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_module, "open_plain", broken)
    assert read(source, 0)[0].reason == "unreadable"
    monkeypatch.setattr(os, "scandir", broken)

    for attempt in (lambda: read(source, 0), lambda: top.open(0), top.open):
        with pytest.raises(ConfigError, match=f"images: cannot be listed: {os.strerror(number)}"):
            attempt()


def test_a_file_that_is_back_when_its_folder_is_looked_at_is_read(top: Camera1, monkeypatch: pytest.MonkeyPatch) -> None:
    top.add(b"a.jpg")
    source = top.open()

    def away_once(path: bytes) -> int:
        monkeypatch.setattr(folder_module, "open_plain", open_plain)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(folder_module, "open_plain", away_once)

    assert read(source, 0)[1] == b"<a.jpg>"


def test_a_lack_of_descriptors_is_no_fault_of_a_file_or_its_folder(top: Camera1) -> None:
    top.add(b"a.jpg")
    source = top.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = os.open("/", os.O_RDONLY)
    os.close(least)
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
    try:
        for attempt in (lambda: read(source, 0), top.open):
            with pytest.raises(OSError, match="Too many open files"):
                attempt()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_nor_is_one_that_is_over_when_the_folder_is_looked_at(top: Camera1, monkeypatch: pytest.MonkeyPatch) -> None:
    top.add(b"a.jpg")
    source = top.open()

    def short(_: bytes) -> None:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(folder_module, "open_plain", short)

    with pytest.raises(OSError, match="Too many open files in system"):
        read(source, 0)


def test_doctor_counts_the_rings_of_a_folder_with_a_link_that_leads_nowhere(top: Camera1) -> None:
    top.add(b"a.jpg")
    (top.images / "b.jpg").symlink_to("none")

    (found,) = _memory(top.node.config)

    assert (found.name, found.status) == ("ring memory", "ok")


def test_a_source_without_a_run_lists_what_is_there(top: Camera1) -> None:
    top.add(b"a.jpg")

    assert contents(FolderSource(str(top.images), loop=False, max_bytes=SLOT)) == of(b"a.jpg")
