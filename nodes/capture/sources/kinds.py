"""linepipe's own sources, as the table of plug-ins names them. What reads frames is imported only when one is opened."""

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from pipeline.config import Camera, Limits
from pipeline.config.urls import Opening, Rate, SourceUrl
from pipeline.core.errors import ConfigError
from pipeline.system.user_path import here, look

if TYPE_CHECKING:
    from nodes.capture.sources.source import Source

FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""Files that ``folder:`` reads."""


class FileOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of what is read from files."""

    loop: Annotated[bool, Meta(description="true or false")] = False
    """Begin again at the end."""
    fps: Rate = None


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of the simulator."""

    seed: Annotated[int, Meta(ge=0, description="a whole number")] = 0
    fps: Rate = None
    repeat: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="a whole number from 1")] = None
    """After so many frames the strip begins again."""


class Folder:
    """``folder:`` a folder of images, each a frame."""

    example = "folder:PATH[?loop=true&fps=N]"
    options = FileOptions
    paths = ()
    has_rate = follows_strip = False

    def contradictions(self, url: SourceUrl, camera: Camera) -> Iterator[tuple[str, str]]:
        return iter(())

    def missing(self, url: SourceUrl) -> str:
        path = Path(url.path)
        try:
            found = look(path)
        except ConfigError as exc:
            return str(exc)
        if found is None or not stat.S_ISDIR(found.st_mode):
            return f"no folder {path} (relative paths count from {here()}); correct the path"
        return "" if os.access(path, os.R_OK | os.X_OK) else _not_allowed(path)

    def ends(self, url: SourceUrl) -> bool:
        return not url.options.loop

    def slot_bytes(self, url: SourceUrl, camera: Camera, limits: Limits) -> int | None:
        try:
            files = [p for p in Path(url.path).iterdir() if p.suffix.lower() in FOLDER_SUFFIXES]
        except OSError:  # told as what is wrong with the configuration
            files = []
        return min(limits.max_file_bytes, max(map(_size, files), default=0)) + 1

    def open(self, url: SourceUrl, opening: Opening) -> "Source":
        from nodes.capture.sources.folder import FolderSource, list_of_run

        files = list_of_run(url.path, opening.kept, first=opening.left_at is None)
        return FolderSource(url.path, loop=url.options.loop, max_bytes=opening.config.limits.max_file_bytes, files=files)


class Video:
    """``video:`` a video file."""

    example = "video:PATH[?loop=true&fps=N]"
    options = FileOptions
    paths = ()
    has_rate, follows_strip = True, False

    def contradictions(self, url: SourceUrl, camera: Camera) -> Iterator[tuple[str, str]]:
        return iter(())

    def missing(self, url: SourceUrl) -> str:
        path = Path(url.path)
        try:
            found = look(path)
        except ConfigError as exc:
            return str(exc)
        if found is None:
            return f"{path} is not there (relative paths count from {here()}); name a video file"
        if not stat.S_ISREG(found.st_mode):
            what = "is a folder" if stat.S_ISDIR(found.st_mode) else f"is not there (relative paths count from {here()})"
            return f"{path} {what}; name a video file"
        if not os.access(path, os.R_OK):
            return _not_allowed(path)
        return f"{path} is empty; name a video file" if found.st_size == 0 else ""

    def ends(self, url: SourceUrl) -> bool:
        return not url.options.loop

    def slot_bytes(self, url: SourceUrl, camera: Camera, limits: Limits) -> int | None:
        return _pixels(camera)

    def open(self, url: SourceUrl, opening: Opening) -> "Source":
        from nodes.capture.sources.video import video_of_run

        return video_of_run(
            url.path,
            opening.kept,
            loop=url.options.loop,
            max_pixels=opening.config.limits.max_pixels,
            frame_px=opening.config.cameras[opening.name].frame_px,
            left_at=opening.left_at,
        )


class Sim:
    """``sim:`` strip that is drawn, with its truth in ``STATE_DIR/truth/CAMERA.jsonl``."""

    example = "sim:strip[?seed=N&fps=N&repeat=N]"
    options = SimOptions
    paths = ("strip",)
    has_rate = follows_strip = True

    def contradictions(self, url: SourceUrl, camera: Camera) -> Iterator[tuple[str, str]]:
        if camera.frame_px is None:
            yield "frame_px", "is required by a sim: source; give [width, height]"
        if url.fps is None and not (camera.speed_mps and camera.pixel_mm):
            yield "speed_mps", "a sim: source needs speed_mps and pixel_mm, or ?fps=N in its source"

    def missing(self, url: SourceUrl) -> str:
        return ""

    def ends(self, url: SourceUrl) -> bool:
        return False

    def slot_bytes(self, url: SourceUrl, camera: Camera, limits: Limits) -> int | None:
        return _pixels(camera)

    def open(self, url: SourceUrl, opening: Opening) -> "Source":
        from nodes.capture.sources.sim.source import StripSource, TruthFile

        camera = opening.config.cameras[opening.name]
        assert camera.frame_px is not None  # else the configuration was refused
        width, height = camera.frame_px
        path = opening.config.state / "truth" / f"{opening.name}.jsonl"
        along = camera.pixel_mm[1] if camera.pixel_mm else None
        truth = TruthFile(path, opening.epoch, height, along, opening.log, append=opening.left_at is not None)
        return StripSource(url.options.seed, width, height, truth, url.options.repeat)


FOLDER, VIDEO, SIM = Folder(), Video(), Sim()


def _not_allowed(path: Path) -> str:
    return f"{path} may not be read by this user; have its rights changed (chmod)"


def _pixels(camera: Camera) -> int | None:
    return None if camera.frame_px is None else math.prod(camera.frame_px)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a link that leads nowhere: capture skips it
        return 0
