"""Configuration -> processes: their names, what each runs, and where their sockets lie. Pure but for the runtime folder.

Entry points are names, resolved in the child: pipeline imports no node.
"""

import math
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.config import Camera, Config
from pipeline.config.urls import SourceUrl
from pipeline.core.errors import ConfigError

PUBLISH = "publish"
NEEDED_TMP = "have a /tmp that can be written and has room"
_STAGES = {
    frozenset({"preprocess", "infer"}): "nodes.infer.node:inspect",
    frozenset({"preprocess"}): "nodes.preprocess.node:preprocess",
    frozenset({"infer"}): "nodes.infer.node:infer",
}


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of a line. ``name`` is what its command line shows: ``linepipe node NAME``."""

    name: str
    entry: str
    camera: str | None = None


PREPROCESS = "nodes.preprocess.choose_preprocess:make_preprocess"
"""What makes a ``pipeline.core.tiles.Preprocess`` from a configuration, a recipe and a logger."""


def processes(config: Config) -> list[Process]:
    """Every process of the line, in the order in which they start; they stop in the reverse order."""
    found = [Process(name=PUBLISH, entry="nodes.publish.node:publish")]
    found += [Process(name=name, entry=_STAGES[frozenset(stages)]) for name, stages in config.placement.items()]
    for camera in config.cameras:
        found.append(Process(name=f"capture.{camera}", entry="nodes.capture.node:capture", camera=camera))
    return found


def workers(config: Config, stage: str) -> tuple[str, ...]:
    """Names of the processes that run ``preprocess`` or ``infer``."""
    return tuple(name for name, stages in config.placement.items() if stage in stages)


def find_process(config: Config, name: str) -> Process:
    """The process of that name. Raises ``ConfigError`` listing the names there are."""
    for process in processes(config):
        if process.name == name:
            return process
    names = ", ".join(p.name for p in processes(config))
    raise ConfigError(f"line {config.line!r} has no node {name!r}; it has {names}")


def frame_rate(camera: Camera, height: int | None = None) -> float | None:
    """Frames a second: asked for in the source, or speed / height of a frame; None: the source's own, or as fast as they are taken.

    ``height``: of a frame in pixels, where the source knows it better than ``frame_px``.
    """
    url = SourceUrl.parse(camera.source)
    if url.fps is not None:
        return url.fps
    height = height or (camera.frame_px[1] if camera.frame_px else None)
    if camera.speed_mps and camera.pixel_mm and height and (url.kind.follows_strip or camera.when_full == "drop_oldest"):
        return 1000 * camera.speed_mps / (height * camera.pixel_mm[1])
    return None


def is_finite(camera: Camera) -> bool:
    """Whether the source ends by itself."""
    url = SourceUrl.parse(camera.source)
    return url.kind.ends(url)


def credits_for(config: Config, camera: str) -> int:
    """Frames of one camera that a worker asks for: at least two batches' worth, at most half of the ring."""
    tiles = 1
    size, grid = config.cameras[camera].frame_px, config.preprocess
    if size is not None and grid.layout == "grid":
        step = grid.tile_px - grid.overlap_px
        tiles = math.prod(max(1, math.ceil((px - grid.overlap_px) / step)) for px in size)
    return max(2, min(math.ceil(2 * config.infer.max_batch / tiles), config.cameras[camera].slots // 2))


class Endpoints:
    """What a line's processes have in its runtime folder: the addresses of its sockets, and what capture keeps of its source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def frames(self, camera: str) -> str:
        """Capture's side of the frame hop."""
        return f"ipc://{self.folder}/frames-{camera}"

    def ring(self, camera: str) -> Path:
        """Where capture hands out the ring's descriptor."""
        return self.folder / f"ring-{camera}"

    def files(self, camera: str) -> Path:
        """Where capture keeps what it reads in this run: a folder's list of files, or what a video is known by."""
        return self.folder / f"files-{camera}"

    @property
    def tiles(self) -> str:
        """Preprocess's side of the hop to infer, when they are placed apart."""
        return f"ipc://{self.folder}/tiles"

    @property
    def publish(self) -> str:
        return f"ipc://{self.folder}/publish"

    @property
    def supervisor(self) -> str:
        return f"ipc://{self.folder}/supervisor"

    @property
    def redis(self) -> Path:
        """The embedded server's own socket, for the line's processes."""
        return self.folder / "redis"


def runtime_dir(config: Config) -> Path:
    """A short private folder (0700) for the line's sockets; nodes that are run one by one meet there.

    ipc paths are limited to 107 bytes, so it does not lie under ``state_dir``. Raises ``ConfigError`` if the folder
    belongs to somebody else.
    """
    return make_private(Path("/tmp") / f"linepipe-{os.getuid()}" / config.digest())


def make_private(folder: Path) -> Path:
    """Make a folder (0700) below /tmp/linepipe-UID, and what lies between, where missing.

    Raises ``ConfigError`` unless all of them are ours alone.
    """
    for path in [p for p in reversed((folder, *folder.parents)) if f"linepipe-{os.getuid()}" in p.parts]:
        try:
            with suppress(FileExistsError):  # something else: refused below
                path.mkdir(mode=0o700)
            found = path.lstat()
        except OSError as exc:
            text = f"{path}, where the line's sockets must lie, cannot be made: {exc.strerror}; {NEEDED_TMP}"
            raise ConfigError(text) from exc
        if found.st_uid != os.getuid():
            raise ConfigError(f"{path}, where the line's sockets must lie, belongs to user {found.st_uid}; have it removed, root can do it")
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
            raise ConfigError(f"{path} is not a private folder of yours; remove it")
    return folder
