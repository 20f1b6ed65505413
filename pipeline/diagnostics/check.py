"""Checks whether a configuration can work on this machine: folders, model, Redis. ``load`` has checked the text itself."""

import os
import stat
from pathlib import Path

import msgspec

from pipeline.client import Events
from pipeline.config import MAX_FILE_BYTES, Camera, Config
from pipeline.config.model_file import find_model, read_model
from pipeline.config.plugins import ENGINES, SINKS, SOURCES
from pipeline.config.topology import NEEDED_TMP, frame_rate, runtime_dir
from pipeline.config.urls import SinkUrl, SourceUrl
from pipeline.core.errors import ConfigError
from pipeline.redis.login import redis_password
from pipeline.system.files import OURS, STATE_FOLDERS, check_place, read_plain
from pipeline.system.user_path import look, nearest

LONGEST_STATE_DIR = 480
"""In bytes. SQLite opens paths of up to 511 bytes; those of the spool's file and its log are a little longer than ``state_dir``."""


def check(config: Config) -> list[str]:
    """Why this line cannot run here, a sentence for each reason; empty if none was found. Makes the folder of the sockets."""
    return check_line(config) + check_sockets(config)


def check_line(config: Config) -> list[str]:
    """As ``check``, but without the folder of the sockets: cameras, sinks of other packages, model, engine, password and state folder."""
    found = []
    for name, camera in config.cameras.items():
        key = f"cameras.{name}.source"
        try:
            url = SourceUrl.parse(camera.source)
            found += _check_source(name, url, camera)
        except ConfigError as exc:  # of another package; others were refused as the configuration was read
            found.append(f"{key}: {exc}")
            continue
        if not url.kind.has_rate and camera.when_full == "drop_oldest" and frame_rate(camera) is None:
            found.append(f"{key}: has no frame rate of its own, so drop_oldest would drop nearly all; add ?fps=N or use when_full: block")
    for name, text in config.publish.sinks.items():
        try:
            SinkUrl.parse(text)
        except ConfigError as exc:  # of another package
            found.append(f"publish.sinks.{name}: {exc}")
    for attempt in (_check_model, _check_engine, redis_password):
        try:
            attempt(config)
        except ConfigError as exc:
            text = str(exc)
            found.append(text if text.startswith(("publish.", "infer.")) else f"infer.model: {text}")
    return found + _check_state(config)


def _check_source(name: str, url: SourceUrl, camera: Camera) -> list[str]:
    """What is wrong with a camera's source. Raises ``ConfigError`` if a source of another package fails when it is asked."""
    try:
        found = [f"cameras.{name}.{below}: {problem}" for below, problem in url.kind.lacks(url, camera)]
        problem = url.kind.unreadable(url)
    except Exception as exc:
        if SOURCES.is_own(url.scheme):
            raise
        raise ConfigError(f"the source {url.scheme}: fails when it is asked ({exc!r}); mend or remove its package") from exc
    return [*found, f"cameras.{name}.source: {problem}"] if problem else found


def check_sinks(config: Config) -> list[str]:
    """Why sinks other than Redis cannot be used now, a sentence for each. A line can run all the same: events wait in the spool."""
    found = []
    for name, text in config.publish.sinks.items():
        try:
            url = SinkUrl.parse(text)
        except ConfigError:  # ``check_line`` reports it
            continue
        try:
            problem = url.kind.unusable(url)
        except Exception as exc:
            if SINKS.is_own(url.scheme):
                raise
            problem = f"the sink {url.scheme}: fails when it is asked ({exc!r}); mend or remove its package"
        found += [f"publish.sinks.{name}: {problem}"] if problem else []
    return found


def check_sockets(config: Config) -> list[str]:
    """Why the folder of the line's sockets cannot be used, in a sentence; empty if it can. Makes the folder."""
    try:
        folder = runtime_dir(config)
    except ConfigError as exc:
        return [str(exc)]
    return [] if os.access(folder, os.W_OK | os.X_OK) else [f"{folder}, where the line's sockets must be, cannot be written; {NEEDED_TMP}"]


def _check_state(config: Config) -> list[str]:
    """What is wrong with ``state_dir`` as it is on the disk."""
    try:
        check_place(config.state)
    except ConfigError as exc:
        return [str(exc)]
    place = nearest(config.state)
    if problem := _no_folder_of_line(place):
        return [f"state_dir: {problem}"]
    if not os.access(place, os.W_OK | os.X_OK | (os.R_OK if place == config.state else 0)):
        return [f"state_dir: {place} cannot be used by this user; chmod u+rwx it, or choose another on a disk that can be written"]
    found = [f"state_dir: {problem}" for name in STATE_FOLDERS if (problem := _no_folder_of_line(config.state / name))]
    if (whose := _line_of(config.state)) not in (None, config.line):
        found.append(
            f"state_dir: {config.state} is that of line {whose}, which may have events to send; give line {config.line} one of its own"
        )
    if strange := _of_others(config.state):
        more = f" (and {len(strange) - 1} more)" if len(strange) > 1 else ""
        found.append(f"state_dir: {strange[0]} belongs to another user{more}; chown all in {config.state}, or choose another state_dir")
    if len(os.fsencode(config.state)) > LONGEST_STATE_DIR:
        found.append(f"state_dir: {config.state} is longer than {LONGEST_STATE_DIR} bytes, which SQLite cannot open; choose a shorter one")
    return found


def _no_folder_of_line(path: Path) -> str:
    """Why the line can have no folder at ``path``; an empty string if there is one, or it can be made."""
    try:
        if (found := look(path)) is None:
            return f"{path} is a link that leads nowhere; make the folder that it names, or remove the link" if path.is_symlink() else ""
    except ConfigError as exc:
        return str(exc)
    return "" if stat.S_ISDIR(found.st_mode) else f"{path} is a file where a folder must be; move it away or choose another state_dir"


def _line_of(state: Path) -> str | None:
    """Name of the line that ran on this state folder last; None if that cannot be read."""
    try:
        found = msgspec.json.decode(read_plain(state / "line.json", MAX_FILE_BYTES))["line"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _of_others(state: Path) -> list[Path]:
    """The line's own files and folders that it cannot use, because they belong to another user, root perhaps."""
    if os.geteuid() == 0:
        return []
    found = []
    for path in (state / name for name in OURS):
        try:
            inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()  # a link's target is the user's
            found += [p for p in (path, *inside) if p.lstat().st_uid != os.geteuid()]
        except OSError:  # it was removed just now, or its user will report it
            continue
    return found


def _check_model(config: Config) -> None:
    """Raises ``ConfigError`` for a model that cannot be read, or rules for classes that it does not know."""
    model = read_model(find_model(config.infer.model))
    if "ok" in config.infer.classes:
        raise ConfigError("infer.classes: ok is no defect, so it has no rule; set infer.min_score, which 1 - p(ok) must reach")
    if unknown := sorted(set(config.infer.classes) - set(model.classes)):
        raise ConfigError(f"infer.classes: {model.name} knows no {', '.join(unknown)}; it knows {', '.join(model.classes)}")


def _check_engine(config: Config) -> None:
    """Raises ``ConfigError`` for an engine of another package that cannot be imported. Linepipe's own are tried when the line starts."""
    if config.infer.engine != "auto" and not ENGINES.is_own(config.infer.engine):
        try:
            ENGINES.load(config.infer.engine)
        except ConfigError as exc:
            raise ConfigError(f"infer.engine: {exc}") from exc


def check_redis(config: Config) -> None:
    """Ask the configured Redis whether it answers; does nothing for ``embedded``.

    Waits up to ``pipeline.client.TIMEOUT_S``. Raises ``RedisUnreachableError`` if it does not answer or refuses, ``ConfigError`` if
    the password cannot be read.
    """
    if config.publish.redis != "embedded":
        with Events.of_line(config) as events:
            events.ping()
