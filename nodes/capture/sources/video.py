"""``video:``: the frames of a video file, decoded to grey, in display order.

A frame is a packet of the video stream: the file is read through once at the start (packets only, nothing is decoded),
so that frame numbers, times and the count are known before the first frame. A frame that the decoder then leaves out or
returns damaged is invalid, under its own number. A thread decodes ``AHEAD`` frames ahead.
"""

import itertools
import logging
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from nodes.capture.sources.luma import to_grey
from nodes.capture.sources.source import ENDED, NOTHING, READY, Awaited, SourceFrame, recall, remember
from nodes.capture.sources.video_index import VideoIdentity, VideoIndex
from pipeline.core.errors import ConfigError

log = logging.getLogger(__name__)
AHEAD = 4
"""Decoded frames that wait in memory at most, each as large as a frame in the file's own pixel format."""

Decoded = tuple[int, Any | None]
"""A frame's number and its picture; None if it is damaged."""


class VideoSource:
    """Decodes from frame number ``first`` on, as a ``Source``. Reads through the file and waits for that frame before it returns.

    ``known``: identity of the file with which the run began. If the file has grown since, only the frames it had then are read.
    Raises ``ConfigError`` for a file that is no video, has more than ``max_pixels``, is not ``frame_px`` (width, height) large,
    or is not ``known``. ``look`` and ``read`` raise it if the file was replaced before a further lap.
    """

    def __init__(
        self,
        path: str,
        *,
        loop: bool,
        max_pixels: int,
        frame_px: tuple[int, int] | None = None,
        first: int = 0,
        known: VideoIdentity | None = None,
    ) -> None:
        self._path, self._loop, self._max_pixels = Path(path), loop, max_pixels
        self._name = path.rpartition("/")[2].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self._opened = _which(self._path)
        with self._open() as container:
            stream = _picture_stream(container, path)
            width, height = stream.codec_context.width, stream.codec_context.height
            if width * height > max_pixels:
                raise ConfigError(f"video:{path}: {width} x {height} pixels is over limits.max_pixels ({max_pixels})")
            if frame_px is not None and frame_px != (width, height):
                raise ConfigError(
                    f"video:{path}: its frames are {width} x {height} pixels; correct frame_px {list(frame_px)} or leave it out"
                )
            index = VideoIndex.read(_packets(container, stream, path), stream, path)
        self.identity = known or index.identity(len(index))
        """Identity of the frames that this run reads."""
        self._index = self._same(index)
        self.slot_bytes = width * height
        self.size: tuple[int, int] | None = (height, width)
        self.fps: float | None = self._index.fps
        self.live = False
        self._ahead: queue.Queue[Decoded | Exception] = queue.Queue(AHEAD)
        self._head: Decoded = (-1, None)
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._decode, args=(first,), name="video", daemon=True)
        self._thread.start()
        if self.has(first):
            self._seek(first)

    def fileno(self) -> int:
        return self._news

    def look(self, frame: int) -> Awaited:
        try:
            os.eventfd_read(self._news)  # before the queue is looked at: a picture that comes now makes it readable again
        except BlockingIOError:
            pass
        if not self.has(frame):
            return ENDED
        return READY if self._head[0] >= frame else NOTHING

    def skip(self, frame: int) -> None:
        pass

    def has(self, frame: int) -> bool:
        """Whether there is a frame ``frame``; always with ``loop``. Discards earlier pictures. Raises what the decoder raised."""
        while self._head[0] < frame and not self._ahead.empty():
            self._take()  # dropped without being read: let the decoder go on
        return self._loop or frame < len(self._index)

    def read(self, frame: int, into: NDArray[np.uint8]) -> SourceFrame | None:
        """See ``Source``. Before ``look`` says that the frame is ready it waits for the decoder thread. Raises what that thread raised."""
        if not self.has(frame):
            return None
        picture = self._seek(frame)
        seconds = self._index.seconds(frame % len(self._index))
        source = f"{self._name}#{seconds:.3f}s"
        if picture is None:
            return SourceFrame(shape=None, length=0, source=source, reason="corrupt")
        height, width = picture.height, picture.width
        if height * width > min(len(into), self._max_pixels):
            return SourceFrame(shape=None, length=0, source=source, reason="too_large")
        to_grey(picture, into[: height * width].reshape(height, width))
        return SourceFrame(shape=(height, width), length=height * width, source=source)

    def close(self) -> None:
        """End the thread; waits for the frame that it decodes."""
        if self._closing.is_set():
            return
        self._closing.set()
        while self._thread.is_alive():
            while not self._ahead.empty():
                self._ahead.get_nowait()
            self._thread.join(0.01)
        os.close(self._news)

    def _seek(self, frame: int) -> Any | None:
        """Wait until the decoder is at ``frame``; its picture, None if damaged."""
        while self._head[0] < frame:
            self._take()
        return self._head[1]

    def _take(self) -> None:
        found = self._ahead.get()
        if isinstance(found, Exception):
            self._put(found)  # the thread has ended: the next call raises it again
            raise found
        self._head = found

    def _decode(self, first: int) -> None:
        """The thread: every frame from number ``first``."""
        count = len(self._index)
        lap, start = divmod(first, count)
        try:
            while not self._closing.is_set() and (lap == 0 or self._loop):
                for place, frame in self._lap(start):
                    self._put((lap * count + place, frame))
                    if self._closing.is_set():
                        return
                lap, start = lap + 1, 0
        except Exception as exc:  # raised again in ``_take``
            self._put(exc)

    def _put(self, what: Decoded | Exception) -> None:
        self._ahead.put(what)
        os.eventfd_write(self._news, 1)

    def _lap(self, start: int) -> Iterator[Decoded]:
        """Every frame from place ``start`` to the last, once and in order; frames that the decoder leaves out count as damaged."""
        place = start
        self._check()
        with self._open() as container:
            for at, frame in self._frames(container, self._index.key_before(start)):
                if at >= place:
                    yield from ((lost, None) for lost in range(place, at))
                    yield at, frame
                    place = at + 1
        yield from ((lost, None) for lost in range(place, len(self._index)))

    def _frames(self, container: Any, key: int) -> Iterator[Decoded]:
        """(place, frame or None if damaged) as the decoder returns them, from the key frame at place ``key``.

        A frame that cannot be decoded damages those after it, up to the next key frame, even if they look intact.
        """
        stream = container.streams.video[0]
        context = stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1  # frame threads cost latency; the other cores infer
        context.options = {"err_detect": "crccheck+explode", "max_pixels": str(self._max_pixels)}
        packets = _packets(container, stream)
        if key:  # not by seeking, which in some formats ends elsewhere or gives other time stamps
            packets = itertools.dropwhile(lambda p: self._index.place(p.pts) != key, packets)
        bad: set[int] = set()
        broken, leading = False, 0
        for packet in packets:
            place = self._index.place(packet.pts)
            if packet.is_keyframe and place is not None:
                broken, leading = False, place if broken else 0
            try:
                frames = context.decode(packet if packet.size else None)
            except av.FFmpegError:
                frames, broken = [], True
            broken = broken or packet.is_corrupt
            if place is not None and (broken or place < leading):
                bad.add(place)
            for frame in frames:
                at = self._index.place(frame.pts)
                if at is not None:
                    broken = broken or frame.is_corrupt
                    yield at, None if at in bad or frame.is_corrupt else frame
                    bad.discard(at)

    def _check(self) -> None:
        """Before a lap: raises ``ConfigError`` if the file was replaced by another video."""
        found = _which(self._path)
        if found != self._opened:
            with self._open() as container:
                stream = _picture_stream(container, str(self._path))
                self._same(VideoIndex.read(_packets(container, stream), stream, str(self._path)))
            self._opened = found

    def _same(self, index: VideoIndex) -> VideoIndex:
        """The index of this run's frames only. Raises ``ConfigError`` if ``index`` is that of another file."""
        frames = self.identity.frames
        if index.identity(frames) != self.identity:
            raise ConfigError(f"video:{self._path}: is not the file that this run began with; put that one back, or start the line again")
        return index if len(index) == frames else index.first(frames)

    def _open(self) -> Any:
        """The file as a container. FFmpeg opens no other: a playlist in the file cannot name further files or network addresses."""
        options = {"protocol_whitelist": "file", "fflags": "+genpts"}
        path = self._path
        if not path.is_file() or path.stat().st_size == 0:
            what = "is empty" if path.is_file() else "is a folder" if path.is_dir() else "no such file"
            raise ConfigError(f"video:{path}: {what}; name a video file")
        try:
            return av.open(f"file:{path.absolute()}", container_options=options)
        except (av.FFmpegError, OSError) as exc:
            raise ConfigError(f"video:{path}: cannot be opened as a video ({exc.strerror}); name a whole video file") from exc


def video_of_run(
    path: str, kept: Path, *, loop: bool, max_pixels: int, frame_px: tuple[int, int] | None, left_at: int | None
) -> VideoSource:
    """Open a run's video. The run's first capture process stores the file's identity in ``kept``; later ones compare with it.

    ``left_at``: number of the frame to go on with; None if this process is the first. Raises what ``VideoSource`` raises, and
    ``OSError`` if no descriptors are left. A lost or unwritable ``kept`` is only logged.
    """
    known = None if left_at is None else recall(kept, VideoIdentity)
    source = VideoSource(path, loop=loop, max_pixels=max_pixels, frame_px=frame_px, first=left_at or 0, known=known)
    if left_at is not None and known is None:
        log.warning("%s, the identity of this run's video, is lost: it cannot be checked whether %s was replaced since", kept, path)
    if known is None:
        try:
            remember(kept, source.identity)
        except OSError as exc:
            log.warning("%s cannot be written (%s): if capture dies, it is not noticed when %s is replaced", kept, exc.strerror, path)
    return source


def _which(path: Path) -> tuple[int, ...]:
    """Changes when a file is replaced or written to; () if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _picture_stream(container: Any, path: str) -> Any:
    """The first video stream. Raises ``ConfigError`` if there is none, only a cover picture, or no decoder for it."""
    streams = container.streams.video
    if not streams or av.stream.Disposition.attached_pic in streams[0].disposition:
        raise ConfigError(f"video:{path}: has no video stream; name a video file")
    if streams[0].codec_context is None or not streams[0].codec_context.width:
        raise ConfigError(
            f"video:{path}: its video cannot be decoded (cut short, or unknown here); name a whole video file, or convert it to H.264"
        )
    return streams[0]


def _packets(container: Any, stream: Any, path: str = "") -> Iterator[Any]:
    """The packets of ``stream`` that can be read, then an empty one to flush the decoder. With ``path``, logs an early end."""
    count = 0
    try:
        for packet in container.demux(stream):
            yield packet
            count += 1
    except (av.FFmpegError, OSError) as exc:
        if path:
            log.warning("%s: cannot be read after packet %d (%s)", path, count, exc.strerror)
        yield av.Packet()
