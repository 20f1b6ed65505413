"""linepipe's own sources, as the table of plug-ins names them. The modules that read frames are imported only when one is opened."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from pipeline.config import Camera, Limits
from pipeline.config.urls import Opening, Rate, SourceKind, SourceUrl
from pipeline.core.errors import ConfigError
from pipeline.system.user_path import here, look

if TYPE_CHECKING:
    from nodes.capture.sources.source import Source

FOLDER_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")
"""Files that ``folder:`` reads."""


class FileOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``folder:`` and ``video:``."""

    loop: Annotated[bool, Meta(description="true or false")] = False
    """Begin again after the last frame."""
    fps: Rate = None


class SimOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of ``sim:``."""

    seed: Annotated[int, Meta(ge=0, description="a whole number")] = 0
    fps: Rate = None
    repeat: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="a whole number from 1")] = None
    """Number of frames after which the strip begins again; None: it never repeats."""


def _no_folder(url: SourceUrl) -> str:
    path = Path(url.path)
    try:
        found = look(path)
    except ConfigError as exc:
        return str(exc)
    if found is None or not stat.S_ISDIR(found.st_mode):
        return f"no folder {path} (relative paths count from {here()}); correct the path"
    return "" if os.access(path, os.R_OK | os.X_OK) else _not_allowed(path)


def _no_video(url: SourceUrl) -> str:
    path = Path(url.path)
    try:
        found = look(path)
    except ConfigError as exc:
        return str(exc)
    if found is None or not stat.S_ISREG(found.st_mode):
        folder = found is not None and stat.S_ISDIR(found.st_mode)
        what = "is a folder" if folder else f"is not there (relative paths count from {here()})"
        return f"{path} {what}; name a video file"
    if not os.access(path, os.R_OK):
        return _not_allowed(path)
    return f"{path} is empty; name a video file" if found.st_size == 0 else ""


def _not_allowed(path: Path) -> str:
    return f"{path} may not be read by this user; have its rights changed (chmod)"


def _unless_looped(url: SourceUrl) -> bool:
    return not url.options.loop


def _largest_file(url: SourceUrl, camera: Camera, limits: Limits) -> int:
    try:
        files = [p for p in Path(url.path).iterdir() if p.suffix.lower() in FOLDER_SUFFIXES]
    except OSError:  # reported by ``_no_folder``
        files = []
    return min(limits.max_file_bytes, max(map(_size, files), default=0)) + 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link: capture skips it
        return 0


def _open_folder(url: SourceUrl, opening: Opening) -> "Source":
    from nodes.capture.sources.folder import FolderSource, list_of_run

    files = list_of_run(url.path, opening.kept, first=opening.left_at is None)
    return FolderSource(url.path, loop=url.options.loop, max_bytes=opening.config.limits.max_file_bytes, files=files)


def _open_video(url: SourceUrl, opening: Opening) -> "Source":
    from nodes.capture.sources.video import video_of_run

    return video_of_run(
        url.path,
        opening.kept,
        loop=url.options.loop,
        max_pixels=opening.config.limits.max_pixels,
        frame_px=opening.config.cameras[opening.name].frame_px,
        left_at=opening.left_at,
    )


def _sim_lacks(url: SourceUrl, camera: Camera) -> Iterator[tuple[str, str]]:
    if camera.frame_px is None:
        yield "frame_px", "is required by a sim: source; give [width, height]"
    if url.fps is None and not (camera.speed_mps and camera.pixel_mm):
        yield "speed_mps", "a sim: source needs speed_mps and pixel_mm, or ?fps=N in its source"


def _open_sim(url: SourceUrl, opening: Opening) -> "Source":
    from nodes.capture.sources.sim.source import StripSource, TruthFile

    camera = opening.config.cameras[opening.name]
    assert camera.frame_px is not None  # else the configuration was refused
    width, height = camera.frame_px
    path = opening.config.state / "truth" / f"{opening.name}.jsonl"
    along = camera.pixel_mm[1] if camera.pixel_mm else None
    truth = TruthFile(path, opening.epoch, height, along, opening.log, append=opening.left_at is not None)
    return StripSource(url.options.seed, width, height, truth, url.options.repeat)


FOLDER = SourceKind(
    example="folder:PATH[?loop=true&fps=N]",
    open=_open_folder,
    options=FileOptions,
    has_rate=False,
    unreadable=_no_folder,
    ends=_unless_looped,
    slot_bytes=_largest_file,
)
"""A folder of images, each a frame."""
VIDEO = SourceKind(
    example="video:PATH[?loop=true&fps=N]",
    open=_open_video,
    options=FileOptions,
    unreadable=_no_video,
    ends=_unless_looped,
)
"""A video file."""
SIM = SourceKind(
    example="sim:strip[?seed=N&fps=N&repeat=N]",
    open=_open_sim,
    options=SimOptions,
    paths=("strip",),
    follows_strip=True,
    lacks=_sim_lacks,
)
"""A simulated strip, with its truth in ``STATE_DIR/truth/CAMERA.jsonl``."""
