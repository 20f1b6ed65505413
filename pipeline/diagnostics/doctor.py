"""The checks of ``linepipe doctor``: is this machine, and this line on it, fit to run? Each check gives findings; none raises."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

from pipeline.client import Events, RedisUnreachableError
from pipeline.config import Config
from pipeline.config.topology import runtime_dir
from pipeline.config.urls import SourceUrl
from pipeline.core.errors import ConfigError
from pipeline.diagnostics import libraries, machine
from pipeline.diagnostics.check import check_line, check_sinks, check_sockets
from pipeline.diagnostics.finding import Finding, failed, ok, warning, warning_if
from pipeline.system.user_path import nearest

LEAST_FREE = 100 << 20
MIN_REDIS = (6, 2)


def examine(config: Config | None) -> Iterator[Finding]:
    """Every finding, as it is made: first about the machine, then, with ``config``, about the line on it. Never raises.

    Takes some seconds: libraries are tried in processes of their own, a configured Redis is asked, and a file is written to the disk.
    """
    embedded = config is None or config.publish.redis == "embedded"
    yield from _run("machine", machine.findings)
    onnx = config is not None and config.infer.engine == "onnx"
    yield from _run("libraries", lambda: libraries.findings(needs_server=embedded, needs_onnx=onnx))
    if config is not None:
        for name, look in (("line", _line), ("state_dir", _state), ("memory", _memory), ("redis", _redis)):
            yield from _run(name, lambda look=look: look(config))  # type: ignore[misc]


def _run(name: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of one check; if it raises, that is a finding too, and the other checks go on."""
    try:
        yield from look()
    except Exception as exc:
        yield failed(name, f"the check broke: {type(exc).__name__}: {exc}", "report it")


def _line(config: Config) -> Iterator[Finding]:
    problems = check_line(config) + check_sinks(config)
    for problem in problems:
        yield failed("configuration", problem, "correct it; `linepipe validate` says whether it is right then")
    if not problems:
        yield ok("configuration", f"line {config.line}: cameras, model and folders are there")
    problems = check_sockets(config)
    for problem in problems:
        yield failed("runtime folder", problem, "sockets need a private folder under /tmp")
    if not problems:
        yield ok("runtime folder", f"{runtime_dir(config)} is private")


def _state(config: Config) -> Iterator[Finding]:
    try:
        place = nearest(config.state)
    except ConfigError as exc:
        yield failed("state_dir", str(exc), "choose a writable folder on a local disk")
        return
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        yield failed("state_dir", f"{place} cannot be written ({exc.strerror})", "choose a writable folder on a local disk")
        return
    yield ok("state_dir", f"{config.state}, can be written")
    free, wanted = shutil.disk_usage(place).free, int(config.publish.images_mb * 1e6) + LEAST_FREE
    text = f"{_mb(free)} free, of which publish.images_mb may take {config.publish.images_mb:.0f} MB"
    if free < LEAST_FREE:
        yield failed("disk", text, f"free {_mb(LEAST_FREE)} at least")
    else:
        yield warning_if(free < wanted, "disk", text, "free some, or lower publish.images_mb")


def _memory(config: Config) -> Iterator[Finding]:
    """The memory that the rings take, compared with what is free."""
    urls = {name: SourceUrl.parse(camera.source) for name, camera in config.cameras.items()}
    sizes = {name: url.kind.slot_bytes(url, config.cameras[name], config.limits) for name, url in urls.items()}
    unknown = [name for name, size in sizes.items() if size is None]
    need = sum(size * config.cameras[name].slots for name, size in sizes.items() if size is not None)
    free = machine.memory_free()
    text = f"the rings take {_mb(need)} of {_mb(free)} free"
    if unknown:
        text += f" (not counted: {', '.join(unknown)}, frame size unknown; give frame_px)"
    if need > free:
        yield failed("ring memory", text, "lower cameras.*.slots, or free memory")
    else:
        yield warning_if(need > free / 2, "ring memory", text, "lower cameras.*.slots: the nodes need memory too")


def _redis(config: Config) -> Iterator[Finding]:
    url = config.publish.redis
    if url == "embedded":
        return
    try:
        with Events.of_line(config) as events:
            events.ping()
            yield ok("redis", f"{url} answers")
            try:
                info = events.server_info()
            except RedisUnreachableError as exc:
                yield warning("redis settings", f"unknown: {exc}", "allow INFO, or see to Redis >= 6.2, appendonly and noeviction yourself")
                return
            yield from _server(info)
    except ConfigError as exc:
        yield failed("redis", str(exc), "the password must come from a file of yours, or LINEPIPE_REDIS_PASSWORD")
    except RedisUnreachableError as exc:
        yield failed("redis", str(exc), "start the server or correct publish.redis; events wait in the spool until then")


def _server(info: dict[str, object]) -> Iterator[Finding]:
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < MIN_REDIS:
        yield failed("redis version", version, "linepipe needs Redis 6.2 or newer, or Valkey")
    else:
        yield ok("redis version", f"{version} (Valkey {info['valkey_version']})" if "valkey_version" in info else version)
    if not info.get("aof_enabled"):
        advice = "set appendonly yes; what the server loses is sent again only within publish.keep_days"
        yield warning("redis persistence", "appendonly is off: a restart of the server forgets what it had", advice)
    else:
        yield ok("redis persistence", "appendonly is on")
    policy = str(info.get("maxmemory_policy", "unknown"))
    advice = "set noeviction: a stream may otherwise be evicted whole"
    yield warning_if(policy != "noeviction", "redis eviction", f"maxmemory-policy is {policy}", advice)


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
