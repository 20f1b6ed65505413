"""Checks a configuration against this machine: folders, model, Redis. ``load`` has checked the text itself."""

import os
from pathlib import Path

import msgspec

from pipeline.client import Events
from pipeline.config import MAX_FILE_BYTES, Config
from pipeline.errors import ConfigError
from pipeline.model_file import find_model, read_model
from pipeline.plain_file import read_plain
from pipeline.private import OURS, check_owner
from pipeline.secret import redis_password
from pipeline.source_url import SourceUrl
from pipeline.topology import frame_rate

LONGEST_STATE_DIR = 480
"""SQLite opens paths of up to 511 bytes; the spool's file and its log lie below."""
STATE_FOLDERS = ("spool", "images", "truth", "engines", "redis")
"""What nodes keep under ``state_dir``."""


def check(config: Config) -> list[str]:
    """What stands in the way of running this line here, a sentence each; empty: nothing found."""
    found = []
    for name, camera in config.cameras.items():
        url = SourceUrl.parse(camera.source)
        key = f"cameras.{name}.source"
        if url.scheme == "folder" and not Path(url.path).is_dir():
            found.append(f"{key}: no folder {url.path} (relative paths count from {Path.cwd()}); correct the path")
        if url.scheme == "video" and (what := _no_file(Path(url.path))):
            found.append(f"{key}: {url.path} {what}; name a video file")
        if url.scheme != "video" and camera.when_full == "drop_oldest" and frame_rate(camera) is None:
            found.append(f"{key}: has no frame rate of its own, so drop_oldest would drop nearly all; add ?fps=N or use when_full: block")
    for attempt in (_check_model, redis_password):
        try:
            attempt(config)
        except ConfigError as exc:
            text = str(exc)
            found.append(text if text.startswith(("publish.", "infer.")) else f"infer.model: {text}")
    return found + _check_state(config)


def _check_state(config: Config) -> list[str]:
    """What is wrong with ``state_dir`` as it lies there."""
    try:
        check_owner(config.state)
    except ConfigError as exc:
        return [str(exc)]
    found = []
    parent = next(p for p in (config.state, *config.state.parents) if p.exists())
    if not parent.is_dir():
        found.append(f"state_dir: {parent} is a file; choose a folder")
    for path in (config.state / name for name in STATE_FOLDERS):
        if path.exists() and not path.is_dir():
            found.append(f"state_dir: {path} is a file where a folder must be; move it away or choose another state_dir")
    if (whose := _line_of(config.state)) not in (None, config.line):
        found.append(
            f"state_dir: {config.state} is that of line {whose}, which may have events to send; give line {config.line} one of its own"
        )
    if strange := _of_others(config.state):
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        found.append(f"state_dir: {strange[0]} belongs to another user{more}; chown all in {config.state}, or choose another state_dir")
    if len(os.fsencode(config.state.absolute())) > LONGEST_STATE_DIR:
        found.append(f"state_dir: {config.state} is longer than {LONGEST_STATE_DIR} bytes, which SQLite cannot open; choose a shorter one")
    return found


def _line_of(state: Path) -> str | None:
    """The line that ran on this state folder last; None where that cannot be seen."""
    try:
        found = msgspec.json.decode(read_plain(state / "line.json", MAX_FILE_BYTES))["line"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _of_others(state: Path) -> list[Path]:
    """What a line keeps there and cannot use, because another user made it, root perhaps."""
    if os.geteuid() == 0:
        return []
    found = []
    for path in (state / name for name in OURS):
        try:
            inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()  # what a link leads to is not the line's
            found += [p for p in (path, *inside) if p.lstat().st_uid != os.geteuid()]
        except OSError:  # it has just gone, or it is told where it is used
            continue
    return found


def _check_model(config: Config) -> None:
    """Raises ``ConfigError`` for a model that cannot be read, or rules for classes that it does not know."""
    model = read_model(find_model(config.infer.model))
    if "ok" in config.infer.classes:
        raise ConfigError("infer.classes: ok is no defect; its share decides through infer.min_score")
    if unknown := sorted(set(config.infer.classes) - set(model.classes)):
        raise ConfigError(f"infer.classes: {model.name} knows no {', '.join(unknown)}; it knows {', '.join(model.classes)}")


def _no_file(path: Path) -> str:
    """Why ``path`` is no file with content; empty: it is one."""
    if path.is_dir():
        return "is a folder"
    if not path.is_file():
        return f"is not there (relative paths count from {Path.cwd()})"
    return "is empty" if path.stat().st_size == 0 else ""


def check_redis(config: Config) -> None:
    """Raises ``RedisUnreachableError`` unless the configured server answers; nothing to check for ``embedded``."""
    if config.publish.redis != "embedded":
        with Events.of_line(config) as events:
            events.ping()
