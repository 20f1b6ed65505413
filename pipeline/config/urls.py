"""The URLs of a configuration: a camera's ``source`` and a sink are parsed, ``publish.redis`` is checked.

The tables of plug-ins define which schemes there are. Redis URLs are checked here because redis-py would report a mistake only
when it connects, and would let a URL override linepipe's own options.
"""

import logging
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta

from pipeline.config.plugins import SINKS, SOURCES, Kind
from pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.config.schema import Camera, Config, Limits

Rate = Annotated[Annotated[float, Meta(gt=0, le=100_000)] | None, Meta(description="a number")]
"""Frames a second that an option asks for."""


class Opening(NamedTuple):
    """What a source gets when it is opened, in addition to its URL."""

    name: str
    """Name of the camera."""
    config: "Config"
    epoch: str
    """Epoch of this capture process."""
    kept: Path
    """A file of the run: what the source writes there, a later capture process of the same run can read."""
    left_at: int | None
    """Number of the next frame, if an earlier capture process of this run read the source; None if this is the first."""
    log: logging.Logger


class NoOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options of a source that takes none."""


def frame_bytes(url: "SourceUrl", camera: "Camera", limits: "Limits") -> int | None:
    """Bytes of a raw grey frame of the camera's ``frame_px``; None if that is not given."""
    return None if camera.frame_px is None else math.prod(camera.frame_px)


class SourceKind(NamedTuple):
    """What linepipe knows of one scheme of ``cameras.NAME.source``; the table of sources names such an object.

    Every command loads it, so its module imports what reads frames only within ``open``.
    """

    example: str
    """How the URL is written, for messages: ``folder:PATH[?loop=true&fps=N]``."""
    open: Callable[["SourceUrl", Opening], Any]
    """Opens the source: returns a ``nodes.capture.sources.source.Source``. Raises ``ConfigError`` if it cannot work."""
    options: type[msgspec.Struct] = NoOptions
    """The options after the ``?``: a frozen Struct with defaults, each field with a ``Meta(description=...)``."""
    paths: tuple[str, ...] = ()
    """The only paths that it takes; empty if it takes any."""
    has_rate: bool = True
    """Whether the source itself determines how fast frames come."""
    follows_strip: bool = False
    """Whether frames come as fast as the strip moves, without being asked for."""
    silent_s: float | None = None
    """A live camera that has sent nothing for so many seconds is lost; None: the source itself reports it, or it may be silent."""
    lacks: Callable[["SourceUrl", "Camera"], Iterator[tuple[str, str]]] = lambda url, camera: iter(())
    """What the other keys of the camera lack for this source: (key, sentence) for each."""
    unreadable: Callable[["SourceUrl"], str] = lambda url: ""
    """Why there is nothing to read here, and what to do; an empty string if no reason is known. Must not take long."""
    ends: Callable[["SourceUrl"], bool] = lambda url: False
    """Whether the source ends by itself."""
    slot_bytes: Callable[["SourceUrl", "Camera", "Limits"], int | None] = frame_bytes
    """Bytes of the largest frame, as far as that is known without opening the source; None if it is not."""


class SourceUrl(NamedTuple):
    """``scheme:path?options``: ``folder:images?loop=true`` -> folder, images, options with ``loop`` True."""

    scheme: str
    path: str
    options: Any
    """An instance of the kind's ``options``."""
    kind: SourceKind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a camera's ``source``; imports the source's module.

        Raises ``ConfigError`` for an unknown scheme, path or option, a malformed value, or a package that cannot be used; the
        text names no file and line of the configuration.
        """
        kind, url = _split(text, SOURCES, SourceKind)
        if kind.paths and url[1] not in kind.paths:
            raise ConfigError(f"{text!r}: write {kind.example}")
        return cls(*url, kind)

    @property
    def fps(self) -> float | None:
        """Frames a second that the option ``fps`` asks for; None if it is not given, or there is no such option."""
        asked: float | None = getattr(self.options, "fps", None)
        return asked


class SinkKind(NamedTuple):
    """What linepipe knows of one scheme of ``publish.sinks.NAME``; the table of sinks names such an object. Quick to import."""

    example: str
    """How the URL is written, for messages: ``jsonl:PATH[?keep=N]``."""
    open: Callable[["SinkUrl", Any], Any]
    """Called with a ``nodes.publish.sinks.sink.SinkOpening``, returns a ``nodes.publish.sinks.sink.Sink``; does not connect yet."""
    options: type[msgspec.Struct] = NoOptions
    """The options after the ``?``: a frozen Struct with defaults, each field with a ``Meta(description=...)``."""
    unusable: Callable[["SinkUrl"], str] = lambda url: ""
    """Why events cannot go there from here, and what to do; an empty string if no reason is known. Must not take long."""


class SinkUrl(NamedTuple):
    """``scheme:path?options`` of a sink."""

    scheme: str
    path: str
    options: Any
    """An instance of the kind's ``options``."""
    kind: SinkKind

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL of ``publish.sinks``, as ``SourceUrl.parse`` does; raises ``ConfigError`` in the same cases."""
        kind, url = _split(text, SINKS, SinkKind)
        return cls(*url, kind)


def sink_mistake(name: str, sinks: dict[str, str], state: Path) -> str:
    """What is wrong with the sink ``name`` of ``publish.sinks``, and what to do; an empty string if nothing is.

    ``state`` is the state folder. A sink of another package is not imported here, so its URL is not checked.
    """
    text = sinks[name]
    scheme = text.partition(":")[0]
    file = sink_file(text)
    for other, url in sinks.items():
        its = sink_file(url)
        if file and its and other != name and re.fullmatch(re.escape(file) + r"(\.\d+)?", its):
            return f"the sink {other} writes {its}; give each a file of its own"
    if file and Path(file).is_relative_to(os.path.realpath(state)):
        return f"{file} is in state_dir, where the line keeps its own files; choose another place"
    if name == "redis":
        return "redis is the sink that publish.redis names; choose another name"
    if not SINKS.is_own(scheme) and SINKS.knows(scheme):
        return ""
    try:
        SinkUrl.parse(text)
    except ConfigError as exc:
        return str(exc)
    return ""


def sink_file(text: str) -> str:
    """Path, with symbolic links resolved, of the file that a ``jsonl:`` sink writes; an empty string for another scheme or no path."""
    scheme, _, rest = text.partition(":")
    path = rest.partition("?")[0]
    return os.path.realpath(path) if scheme == "jsonl" and path and "\0" not in path else ""


_Record = TypeVar("_Record", SourceKind, SinkKind)


def _split(text: str, table: Kind, record: type[_Record]) -> tuple[_Record, tuple[str, str, Any]]:
    """The kind of a URL, and its scheme, path and options. Raises ``ConfigError`` as ``SourceUrl.parse`` says."""
    scheme, colon, rest = text.partition(":")
    if not colon or not table.knows(scheme):
        known = [table.load(name).example if table.is_own(name) else f"{name}:..." for name in table.names()]
        raise ConfigError(f"{text!r} is not a known {table.word}, or its package is not installed; write {' or '.join(known)}")
    kind = table.load(scheme)
    if not isinstance(kind, record):
        raise ConfigError(f"the {table.word} {scheme} is no {record.__name__}, but {kind!r}; mend or remove its package")
    declared: Any = kind.options
    if not (isinstance(declared, type) and issubclass(declared, msgspec.Struct)):
        raise ConfigError(f"the {table.word} {scheme}: its options are no msgspec.Struct, but {declared!r}; mend or remove its package")
    path, _, query = rest.partition("?")
    if not path:
        raise ConfigError(f"{text!r}: write {kind.example}")
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError(f"{text!r}: an option is given twice; keep one")
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind.options)}
    typed = {}
    for name, value in options.items():
        if name not in fields:
            raise ConfigError(f"{text!r}: no option {name!r}; {scheme}: takes {', '.join(fields) or 'none'}")
        try:
            typed[name] = _typed(value, fields[name])
            msgspec.convert({name: typed[name]}, kind.options)
        except ValueError as exc:  # also msgspec's
            raise ConfigError(f"{text!r}: {name}={value} should be {_described(fields[name])}") from exc
    return kind, (scheme, path, msgspec.convert(typed, kind.options))


def _typed(value: str, kind: Any) -> str | bool | int | float:
    """The text of an option as its field's type. Raises ``ValueError``."""
    if bool in (types := _types(kind)):
        if value not in ("true", "false"):
            raise ValueError(value)
        return value == "true"
    if float in types:
        return float(value)
    if int in types:
        if not value.isdecimal():
            raise ValueError(value)
        return int(value)
    return value


def _types(kind: Any) -> set[Any]:
    """Every plain type in an annotation."""
    return set().union(*map(_types, inner)) if (inner := get_args(kind)) else {kind}


def _described(kind: Any) -> str:
    metas = [meta for meta in get_args(kind)[1:] if isinstance(meta, Meta)] if get_origin(kind) is Annotated else []
    plain = next((words for kind_, words in _WORDS.items() if kind_ in _types(kind)), f"{kind}")
    return next((meta.description for meta in metas if meta.description), plain)


_WORDS = {bool: "true or false", float: "a number", int: "a whole number", str: "text"}


PASSWORD_ELSEWHERE = "a password does not belong here; use LINEPIPE_REDIS_PASSWORD or publish.password_file"
REDIS_OPTIONS = {"db": (r"\d{1,5}", "a whole number"), "client_name": (r"\S+", "a name without spaces")}
TLS_OPTIONS = {
    "ssl_ca_certs": (r".+", "a file"),
    "ssl_certfile": (r".+", "a file"),
    "ssl_keyfile": (r".+", "a file"),
    "ssl_cert_reqs": (r"required|optional|none", "required, optional or none"),
    "ssl_check_hostname": (r"true|false", "true or false"),
}


def redis_mistake(url: str) -> str:
    """What is wrong with ``publish.redis``, and what to write; an empty string if nothing is."""
    if url == "embedded":
        return ""
    match = re.fullmatch(r"(rediss?|unix)://(?:(?P<auth>[^@/]*)@)?(?P<rest>[^?#]*)(?:\?(?P<query>.*))?", url)
    if match is None:
        return f"{url!r} is not a Redis URL; write embedded, redis://HOST:PORT/DB, rediss://... or unix:///PATH"
    if match["auth"] and ":" in match["auth"] and match["auth"].split(":", 1)[1]:
        return PASSWORD_ELSEWHERE
    if problem := _option_mistake(match[1], match["query"] or ""):
        return problem
    if match[1] == "unix":
        return "" if match["rest"].startswith("/") else f"{url!r}: write unix:///PATH/OF/SOCKET"
    name = r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?"
    host = re.fullmatch(rf"(\[[0-9a-fA-F:]+\]|{name})(?::(\d{{1,5}}))?(?:/\d*)?", match["rest"])
    if host is None or (host[2] and not 0 < int(host[2]) < 65536):
        return f"{url!r}: host, port or database is malformed; write redis://HOST:PORT/DB"
    return ""


def _option_mistake(scheme: str, query: str) -> str:
    """What is wrong with the options of a Redis URL; an empty string if nothing is."""
    known = REDIS_OPTIONS | (TLS_OPTIONS if scheme == "rediss" else {})
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "password":
            return PASSWORD_ELSEWHERE
        if name not in known:
            return f"no option {name!r}; {scheme}:// takes {', '.join(known)}"
        pattern, kind = known[name]
        if not re.fullmatch(pattern, value):
            return f"{name}={value} should be {kind}"
    return ""
