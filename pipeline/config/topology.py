"""Configuration -> processes: their names, what each runs, and where their sockets are. Pure, except for the runtime folder.

Entry points are texts, which the child process resolves: pipeline imports no node.
"""

import math
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from pipeline.config import Camera, Config
from pipeline.config.urls import SourceUrl
from pipeline.core.errors import ConfigError, told_as

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
    """Its entry point, ``package.module:function``, for ``pkgutil.resolve_name``."""
    camera: str | None = None
    """The camera of a capture process; None for others."""


PREPROCESS = "nodes.preprocess.choose_preprocess:make_preprocess"
"""Entry point that makes a ``pipeline.core.tiles.Preprocess`` from a configuration, a tile recipe and a logger."""


def processes(config: Config) -> list[Process]:
    """Every process of the line, in the order in which they start; they stop in the reverse order."""
    found = [Process(name=PUBLISH, entry="nodes.publish.node:publish")]
    found += [Process(name=name, entry=_STAGES[frozenset(stages)]) for name, stages in config.placement.items()]
    for camera in config.cameras:
        found.append(Process(name=f"capture.{camera}", entry="nodes.capture.node:capture", camera=camera))
    return found


def workers(config: Config, stage: str) -> tuple[str, ...]:
    """Names of the processes that run ``stage``, ``preprocess`` or ``infer``."""
    return tuple(name for name, stages in config.placement.items() if stage in stages)


def find_process(config: Config, name: str) -> Process:
    """The process of that name. Raises ``ConfigError``, which lists the names, if the line has none."""
    for process in processes(config):
        if process.name == name:
            return process
    names = ", ".join(p.name for p in processes(config))
    raise ConfigError(f"line {config.line!r} has no node {name!r}; it has {names}")


def frame_rate(camera: Camera, height: int | None = None) -> float | None:
    """Frames a second of a camera: what its source URL asks for, or else the speed divided by the height of a frame.

    None: the source has a rate of its own, or frames come as fast as they are taken. ``height`` is that of a frame in pixels, where
    the source knows it better than ``frame_px``. Raises ``ConfigError`` for a source URL that cannot be used.
    """
    url = SourceUrl.parse(camera.source)
    if url.fps is not None:
        return url.fps
    height = height or (camera.frame_px[1] if camera.frame_px else None)
    if camera.speed_mps and camera.pixel_mm and height and (url.kind.follows_strip or camera.when_full == "drop_oldest"):
        return 1000 * camera.speed_mps / (height * camera.pixel_mm[1])
    return None


def is_finite(camera: Camera) -> bool:
    """Whether the camera's source ends by itself. Raises ``ConfigError`` for a source URL that cannot be used."""
    url = SourceUrl.parse(camera.source)
    return url.kind.ends(url)


def credits_for(config: Config, camera: str) -> int:
    """Credits of a worker for one camera: enough frames for two batches, but at most half of the ring; never less than 2.

    A frame of unknown size counts as one tile.
    """
    tiles = 1
    size, grid = config.cameras[camera].frame_px, config.preprocess
    if size is not None and grid.layout == "grid":
        step = grid.tile_px - grid.overlap_px
        tiles = math.prod(max(1, math.ceil((px - grid.overlap_px) / step)) for px in size)
    return max(2, min(math.ceil(2 * config.infer.max_batch / tiles), config.cameras[camera].slots // 2))


class Endpoints:
    """Addresses and paths in the runtime folder ``folder``: the sockets of a line's processes, and capture's notes on its source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tiles = f"ipc://{folder}/tiles"
        """ZeroMQ address of preprocess, for the hop to infer when they run in different processes."""
        self.publish = f"ipc://{folder}/publish"
        """ZeroMQ address of publish, for records."""
        self.supervisor = f"ipc://{folder}/supervisor"
        """ZeroMQ address of the supervisor, for heartbeats."""
        self.redis = folder / "redis"
        """AF_UNIX socket of the embedded Redis, for the line's own processes."""

    def frames(self, camera: str) -> str:
        """ZeroMQ address of a camera's capture node, for the frame hop."""
        return f"ipc://{self.folder}/frames-{camera}"

    def ring(self, camera: str) -> Path:
        """AF_UNIX socket at which a camera's capture node gives out its ring's descriptor."""
        return self.folder / f"ring-{camera}"

    def files(self, camera: str) -> Path:
        """File in which capture notes what it reads in this run: a folder's list of files, or what identifies a video."""
        return self.folder / f"files-{camera}"


def runtime_dir(config: Config) -> Path:
    """Make and return the line's private folder (0700) for sockets, ``/tmp/linepipe-UID/DIGEST``.

    Each run has a folder of its own in it; nodes that are started one by one have their sockets directly in it. The path is short,
    because ipc addresses are limited to 107 bytes: so it is not under ``state_dir``. Raises ``ConfigError`` as ``make_private`` does.
    """
    return make_private(Path("/tmp") / f"linepipe-{os.getuid()}" / config.digest())


def make_private(folder: Path) -> Path:
    """Make a folder below /tmp/linepipe-UID, and those between, where they are missing (mode 0700); returns ``folder``.

    Raises ``ConfigError`` if one cannot be made, belongs to another user, is no folder, or gives others any rights.
    """
    for path in [p for p in reversed((folder, *folder.parents)) if f"linepipe-{os.getuid()}" in p.parts]:
        with told_as(ConfigError, f"{path}, where the line's sockets must be, cannot be created", NEEDED_TMP):
            with suppress(FileExistsError):  # something else: refused below
                path.mkdir(mode=0o700)
            found = path.lstat()
        if found.st_uid != os.getuid():
            raise ConfigError(
                f"{path}, where the line's sockets must be, belongs to user {found.st_uid}; ask that user or root to remove it"
            )
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
            raise ConfigError(f"{path} is not a private folder of yours; remove it")
    return folder
