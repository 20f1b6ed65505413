"""``video:``: every frame of the file once, in display order, with its time; what cannot be decoded is said under its number."""

import logging
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.capture.sources.source import NOTHING, READY, SourceFrame
from nodes.capture.sources.video import AHEAD, VideoSource, video_of_run
from nodes.capture.sources.video_index import UNSETTLED
from pipeline.core.errors import ConfigError
from tests.videos import damage, moving, packets, write_video

COUNT = 40
CODECS: dict[str, dict[str, Any]] = {
    "clip.mkv": {"level": "3", "slicecrc": "1"},
    "clip.mp4": {"codec": "libx264", "pixels": "yuv420p", "b_frames": 2},
    "clip.ts": {"codec": "libx264", "pixels": "yuv420p", "b_frames": 2},
    "clip.avi": {"codec": "mpeg4", "pixels": "yuv420p", "b_frames": 2},
    "clip.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
}
Open = Callable[..., VideoSource]


@pytest.fixture
def open_video() -> Iterator[Open]:
    """VideoSource(path), closed afterwards."""
    opened: list[VideoSource] = []

    def make(path: Path, **options: Any) -> VideoSource:
        opened.append(VideoSource(str(path), **{"loop": False, "max_pixels": 1 << 20, **options}))
        return opened[-1]

    yield make
    for source in opened:
        source.close()


def read_from(source: VideoSource, first: int = 0, last: int = 1000) -> list[tuple[SourceFrame, NDArray[np.uint8]]]:
    """Shots and grey pictures from ``first`` until the source ends, or to ``last``."""
    into, found = np.zeros(source.slot_bytes, np.uint8), []
    for number in range(first, last + 1):
        shot = source.read(number, into)
        if shot is None:
            assert not source.has(number)
            break
        found.append((shot, into[: shot.length].reshape(shot.shape or (0, 0)).copy()))
    return found


@pytest.fixture(params=CODECS)
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_video(tmp_path / request.param, moving(COUNT), **CODECS[request.param])


def test_every_frame_comes_once_in_display_order_with_its_time(clip: Path, open_video: Open) -> None:
    source = open_video(clip)

    found = read_from(source)

    assert [s.source for s, _ in found] == [f"{clip.name}#{k / 25:.3f}s" for k in range(COUNT)]
    assert {s.reason for s, _ in found} == {""}
    assert source.fps == pytest.approx(25)
    true = np.stack(moving(COUNT)).astype(int)
    for k, (_, picture) in enumerate(found):
        assert np.abs(true - picture).mean((1, 2)).argmin() == k
        assert clip.suffix != ".mkv" or (picture == true[k]).all()  # FFV1 keeps every bit


def test_grey_is_what_opencv_makes_of_the_file(clip: Path, open_video: Open) -> None:
    oracle = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    for _, picture in read_from(open_video(clip)):
        there, colour = oracle.read()
        assert there
        assert np.abs(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY).astype(int) - picture).max() <= 2


@pytest.mark.parametrize("first", [1, 11, 12, 13, 29, COUNT - 1, COUNT])
def test_a_capture_node_that_came_back_goes_on_at_its_number(clip: Path, open_video: Open, first: int) -> None:
    whole, rest = read_from(open_video(clip)), read_from(open_video(clip, first=first), first)

    assert [s for s, _ in rest] == [s for s, _ in whole[first:]]
    assert all((a == b).all() for (_, a), (_, b) in zip(rest, whole[first:], strict=True))


def test_a_loop_has_no_seam(clip: Path, open_video: Open) -> None:
    once = read_from(open_video(clip))

    looped = read_from(open_video(clip, loop=True), 0, 2 * COUNT + 4)
    later = read_from(open_video(clip, loop=True, first=COUNT + 7), COUNT + 7, 2 * COUNT + 4)

    assert [s for s, _ in looped] == [once[k % COUNT][0] for k in range(2 * COUNT + 5)]
    assert all((p == once[k % COUNT][1]).all() for k, (_, p) in enumerate(looped))
    assert [s for s, _ in later] == [s for s, _ in looped[COUNT + 7 :]]


@pytest.mark.parametrize("packet", [0, 5, 20, COUNT - 1])
def test_a_damaged_packet_costs_frames_to_the_next_key_frame_and_each_is_said(clip: Path, open_video: Open, packet: int) -> None:
    """Numbers and times stay; what is not called corrupt is, to the bit, what the whole file gives."""
    if clip.suffix == ".ts":
        pytest.skip("there the noise hits the container: a frame is missing, and the jump in time is logged, as tested below")
    whole = read_from(open_video(clip))
    damage(clip, packet)

    found = read_from(open_video(clip))

    bad = [k for k, (s, _) in enumerate(found) if s.reason]
    assert {found[k][0].reason for k in bad} == {"corrupt"}
    assert 1 <= len(bad) <= 14
    assert [s.source for s, _ in found] == [s.source for s, _ in whole]
    assert all((p == whole[k][1]).all() for k, (_, p) in enumerate(found) if k not in bad)


def test_a_file_cut_short_gives_what_it_has_and_says_so(tmp_path: Path, open_video: Open, caplog: pytest.LogCaptureFixture) -> None:
    cut = write_video(tmp_path / "a.mp4", moving(COUNT), codec="libx264", pixels="yuv420p", index_first=True)
    position, size = packets(cut)[25]
    cut.write_bytes(cut.read_bytes()[: position + size // 2])

    found = read_from(open_video(cut))

    assert [s.reason for s, _ in found] in ([""] * 25 + ["corrupt"], [""] * 25)
    assert f"of {COUNT} frames are there: the file has been cut short" in caplog.text


def test_missing_time_is_said(tmp_path: Path, open_video: Open, caplog: pytest.LogCaptureFixture) -> None:
    path = write_video(tmp_path / "a.mkv", moving(10), stamps=[0, 1, 2, 3, 8, 9, 10, 11, 12, 13])

    found = read_from(open_video(path))

    assert found[4][0].source == "a.mkv#0.320s"
    assert "at 1 places, first after 0.120 s, frames are missing" in caplog.text


@pytest.mark.timeout(30)
def test_the_decoder_is_a_few_frames_ahead_and_goes_on_over_frames_dropped_unseen(tmp_path: Path, open_video: Open) -> None:
    """A full ring drops frames without reading them: being asked for later ones is enough."""
    source = open_video(write_video(tmp_path / "a.mkv", moving(COUNT)))

    while source._head[0] < COUNT - 2:
        assert source.has(COUNT - 2)
        assert source._ahead.qsize() <= AHEAD
    assert read_from(source, COUNT - 1)[0][0].source == f"a.mkv#{(COUNT - 1) / 25:.3f}s"
    assert not source.has(COUNT)


def test_look_never_waits_for_a_slow_decoder(tmp_path: Path) -> None:
    """As on a slow disk: the thread that looks also sends heartbeats, and a read that waits is taken for a hang."""
    go = threading.Event()

    class Slow(VideoSource):
        def _frames(self, container: Any, key: int) -> Iterator[Any]:
            for at, frame in super()._frames(container, key):
                if at >= 2:
                    go.wait(30)
                yield at, frame

    source = Slow(str(write_video(tmp_path / "clip.mkv", moving(10))), loop=False, max_pixels=1 << 20)
    into = np.zeros(source.slot_bytes, np.uint8)
    try:
        for number in (0, 1):
            while source.look(number) is not READY:
                select.select([source.fileno()], [], [], 10)
            source.read(number, into)
        assert source.look(2) is NOTHING
        assert select.select([source.fileno()], [], [], 0)[0] == []
        go.set()
        for number in range(2, 10):
            while source.look(number) is NOTHING:
                assert select.select([source.fileno()], [], [], 10)[0], "no news although a picture came"
            assert source.read(number, into)
        assert source.look(10).ended
    finally:
        go.set()
        source.close()


def test_a_frame_larger_than_its_slot_is_said(tmp_path: Path, open_video: Open) -> None:
    """A ring that an earlier capture process made for a smaller file."""
    source = open_video(write_video(tmp_path / "a.mkv", moving(3)))

    shot = source.read(0, np.zeros(source.slot_bytes - 1, np.uint8))

    assert shot == SourceFrame(shape=None, length=0, source="a.mkv#0.000s", reason="too_large")


def _audio(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_text("these are words\n" * 50), "cannot be opened as a video"),
        (_audio, "has no video stream"),
        (lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"), "cannot be opened as a video|holds no frame"),
    ],
)
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, make: Callable[[Path], object], says: str) -> None:
    path = tmp_path / "clip.wav"
    make(path)

    with pytest.raises(ConfigError, match=rf"video:{path}: .*({says})"):
        VideoSource(str(path), loop=False, max_pixels=1 << 20)


def test_a_file_cut_before_its_index_and_bare_h264_are_refused_with_what_to_do(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", moving(10), codec="libx264", pixels="yuv420p")
    whole.write_bytes(whole.read_bytes()[:-500])
    bare = write_video(tmp_path / "a.h264", moving(10), codec="libx264", pixels="yuv420p")

    for path, says in ((whole, "name a whole video file"), (bare, "ffmpeg -i")):
        with pytest.raises(ConfigError, match=says):
            VideoSource(str(path), loop=False, max_pixels=1 << 20)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"max_pixels": 6143}, "96 x 64 pixels is over limits.max_pixels"), ({"frame_px": (64, 96)}, "96 x 64 pixels; correct frame_px")],
)
def test_a_size_that_does_not_fit_is_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    path = write_video(tmp_path / "a.mkv", moving(2))

    with pytest.raises(ConfigError, match=says):
        VideoSource(str(path), **{"loop": False, "max_pixels": 1 << 20, **options})


def test_closing_ends_the_thread_wherever_it_stands(tmp_path: Path, open_video: Open) -> None:
    path = write_video(tmp_path / "a.mkv", moving(COUNT))
    for count in (0, 3, COUNT):
        source = open_video(path, loop=count == 3)
        read_from(source, 0, count - 1)
        source.close()
        assert not source._thread.is_alive()


def test_nothing_is_said_about_a_whole_file(clip: Path, open_video: Open, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        read_from(open_video(clip))

    assert caplog.text == ""


def of_run(clip: Path, left_at: int | None = None) -> VideoSource:
    """As a capture process opens it, the first of a run or one that comes after."""
    return video_of_run(str(clip), clip.with_name("files-top"), loop=False, max_pixels=1 << 20, frame_px=None, left_at=left_at)


def test_a_capture_that_comes_again_refuses_another_video(tmp_path: Path) -> None:
    """Another that has as many frames at the same times, or fewer, or is none any more; the run's own is read when it is back."""
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    of_run(clip).close()
    own = clip.rename(tmp_path / "own.mkv")
    for pictures in (moving(COUNT + 1)[1:], moving(COUNT)[:9]):
        write_video(clip, pictures)
        with pytest.raises(ConfigError, match="not the file that this run began with; put that one back"):
            of_run(clip, 3)
    clip.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        of_run(clip, 3)

    own.rename(clip)
    clip.touch()

    source = of_run(clip, 3)
    assert len(read_from(source, 3)) == COUNT - 3
    source.close()


GROWING: dict[str, dict[str, Any]] = {
    "clip.mkv": {},
    "clip.ts": {"codec": "libx264", "pixels": "yuv420p", "b_frames": 2},
    "clip.avi": {"codec": "mpeg4", "pixels": "yuv420p", "b_frames": 2},
    "clip.flv": {"codec": "libx264", "pixels": "yuv420p"},
}


@pytest.mark.parametrize("name", GROWING)
def test_of_a_video_that_has_grown_the_frames_of_the_start_are_read(tmp_path: Path, name: str) -> None:
    """It is first opened while its last packet is half there, as a file is that is being written."""
    whole = write_video(tmp_path / name, moving(COUNT), **GROWING[name]).read_bytes()
    clip = tmp_path / f"live.{name}"
    for cut in range(3 * len(whole) // 4, len(whole) - 1000, len(whole) // 40):
        clip.write_bytes(whole[:cut])
        first = of_run(clip)
        then = [shot.source for shot, _ in read_from(first)]
        first.close()
        clip.write_bytes(whole)

        source = of_run(clip, 3)

        found = [shot.source for shot, _ in read_from(source, 3)]
        assert len(found) == len(then) - 3
        assert found[:-UNSETTLED] == then[3:-UNSETTLED]
        source.close()


def test_a_capture_that_comes_again_refuses_a_video_cut_short(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    of_run(clip).close()
    write_video(clip, moving(COUNT)[: COUNT - 1])

    with pytest.raises(ConfigError, match="not the file that this run began with"):
        of_run(clip, 3)


def test_a_lost_mark_of_the_run_is_said_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    of_run(clip).close()
    (tmp_path / "files-top").write_bytes(b"\x93")

    of_run(clip, 3).close()

    assert "cannot be checked whether" in caplog.text
    caplog.clear()
    of_run(clip, 3).close()
    assert caplog.text == ""


def test_a_mark_that_cannot_be_kept_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    (tmp_path / ".files-top.part").mkdir()

    of_run(clip).close()

    assert "cannot be written (Is a directory)" in caplog.text


def test_a_looped_video_that_is_replaced_ends_capture_and_no_frame_of_it_is_given(open_video: Open, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    source = open_video(clip, loop=True)
    assert len(read_from(source, 0, 3)) == 4
    write_video(tmp_path / "other.mkv", moving(COUNT + 9)[9:]).replace(clip)

    assert len(read_from(source, 4, COUNT - 1)) == COUNT - 4
    with pytest.raises(ConfigError, match="not the file that this run began with"):
        read_from(source, COUNT)
    with pytest.raises(ConfigError, match="not the file"):
        read_from(source, COUNT)


def test_a_looped_video_that_was_only_written_again_goes_on(open_video: Open, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mkv", moving(COUNT))
    source = open_video(clip, loop=True)
    clip.write_bytes(clip.read_bytes())

    assert len(read_from(source, 0, 3 * COUNT)) == 3 * COUNT + 1
