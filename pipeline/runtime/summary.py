"""What a run reports: the summary (a public contract) and its file, what the run did not do, and the live status."""

import errno
import fcntl
import os
import re
import select
from pathlib import Path

import msgspec

from pipeline.config import Config
from pipeline.config.topology import PUBLISH
from pipeline.core.errors import ConfigError, told_as
from pipeline.core.events import TYPES
from pipeline.core.histogram import Histogram
from pipeline.core.ledger import Account
from pipeline.core.status import (
    CameraSummary,
    Latency,
    LineStatus,
    NodeStatus,
    Phase,
    RedisPlace,
    SinkFacts,
    SpoolStatus,
    SpoolSummary,
    Summary,
    Throughput,
)
from pipeline.runtime.node_process import NodeProcess
from pipeline.system.files import part_of, write_durable

STAGES = ("total", "capture", "preprocess", "infer", "publish")


def summary(
    config: Config,
    children: list[NodeProcess],
    accounts: dict[str, Account],
    epochs: dict[str, list[str]],
    duration_s: float,
    rate_s: float,
    url: str,
    error: str | None,
) -> Summary:
    """The summary of a run, as ``--summary`` writes it. ``children`` must include publish.

    ``epochs`` are those of each camera, ``duration_s`` and ``rate_s`` come from ``RunTime``, ``url`` is that of Redis, and ``error`` is
    why the run failed or what it left undone, None if nothing.
    """
    publish = _publish(children)
    tiles = sum(life.tiles for life in publish.lives.values())
    inspected = sum(a.inspected for a in accounts.values())
    backlog = publish.facts.backlog
    return Summary(
        line=config.line,
        error=error,
        duration_s=round(duration_s, 3),
        cameras={name: CameraSummary(epochs=epochs.get(name, []), **msgspec.structs.asdict(a)) for name, a in accounts.items()},
        events={kind: publish.facts.events.get(kind, 0) for kind in TYPES},
        spool=SpoolSummary(backlog=backlog, delivered=publish.exit_code == 0 and backlog == 0),
        sinks=_sinks(config, publish),
        throughput=Throughput(frames_per_s=_rate(inspected, rate_s), tiles_per_s=_rate(tiles, rate_s)),
        latency_ms=_latency(publish),
        restarts={c.name: c.restarts for c in children if c.restarts},
        engine=_engine(children),
        redis=RedisPlace(url=url, stream=config.stream),
    )


def status(
    config: Config,
    children: list[NodeProcess],
    accounts: dict[str, Account],
    duration_s: float,
    rate_s: float,
    url: str,
    phase: Phase,
    awake_ns: int,
) -> LineStatus:
    """The status of a run as ``linepipe status`` shows it; arguments as for ``summary``. ``awake_ns``: time of an ``AwakeClock``."""
    publish = _publish(children)
    return LineStatus(
        line=config.line,
        phase=phase,
        duration_s=round(duration_s, 1),
        nodes={c.name: _node(c, awake_ns) for c in children},
        cameras=accounts,
        events=publish.facts.events,
        spool=SpoolStatus(backlog=publish.facts.backlog, redis=publish.facts.redis),
        sinks=_sinks(config, publish),
        throughput=Throughput(frames_per_s=_rate(sum(a.inspected for a in accounts.values()), rate_s)),
        latency_ms=_latency(publish),
        engine=_engine(children),
        redis=RedisPlace(url=url, stream=config.stream),
    )


def _publish(children: list[NodeProcess]) -> NodeProcess:
    return next(c for c in children if c.name == PUBLISH)


def _engine(children: list[NodeProcess]) -> str | None:
    return next((c.facts.engine for c in children if c.facts.engine is not None), None)


def _node(child: NodeProcess, awake_ns: int) -> NodeStatus:
    retry_s = child.retry_in_s(awake_ns)
    return NodeStatus(
        state=child.state,
        pid=child.pid,
        restarts=child.restarts,
        reason=child.reason or None,
        retry_in_s=None if retry_s is None else round(retry_s, 1),
        refused=sum(life.refused for life in child.lives.values()),
    )


def shortcoming(config: Config, children: list[NodeProcess], accounts: dict[str, Account], url: str, *, told: bool) -> str | None:
    """What a run has not done, a sentence for the summary's ``error``; None if it has done everything.

    Processes that did not end in order and frames that were not finished come first. If there are none, these are events that wait
    for Redis or another sink; they count only if the run ended by itself, not if it was asked to stop (``told``).
    """
    failed = [c.name for c in children if c.exit_code != 0]
    left = sum(account.in_flight for account in accounts.values())
    if failed or left:
        who = f"{', '.join(failed)} did not end in order; " if failed else ""
        return f"{who}{left} frames were not finished; see the messages above"
    publish = _publish(children)
    waiting = {f"Redis at {url}": (publish.facts.backlog, publish.facts.redis)}
    waiting |= {f"sink {name}": (sink.backlog, sink.state) for name, sink in _sinks(config, publish).items()}
    found = [f"{'?' if n is None else n} for {where} ({state})" for where, (n, state) in waiting.items() if n != 0]
    if told or not found:
        return None
    return f"events wait in {config.state / 'spool'}: {', '.join(found)}; they are sent when the line runs again"


def _sinks(config: Config, publish: NodeProcess) -> dict[str, SinkFacts]:
    """State and backlog of each sink other than Redis, by name, as publish reported them; None in both if it has not."""
    return {name: publish.facts.sinks.get(name, SinkFacts(state=None, backlog=None)) for name in config.publish.sinks}


def _latency(publish: NodeProcess) -> dict[str, Latency]:
    found = {}
    for stage in STAGES:
        histogram = Histogram()
        for life in publish.lives.values():
            histogram.merge(life.latency.get(stage, {}))
        found[stage] = Latency(p50=_rounded(histogram.quantile_ms(0.5)), p99=_rounded(histogram.quantile_ms(0.99)))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 else 0.0


class RunTime:
    """When a run had its first frame, began to stop, and finished its last frame. ``now_ns`` is monotonic."""

    def __init__(self) -> None:
        self.first_ns = 0
        """When the first frame was acquired; 0 before that."""
        self._stop_ns = 0
        self._finished, self._finished_ns = 0, 0

    def note(self, now_ns: int, acquired: int, finished: int) -> None:
        """Take the number of frames acquired and finished so far; to be called in each turn."""
        if acquired and not self.first_ns:
            self.first_ns = now_ns
        if finished != self._finished:
            self._finished, self._finished_ns = finished, now_ns

    def stop(self, now_ns: int) -> None:
        """Note that the line begins to stop now."""
        self._stop_ns = now_ns

    def duration_s(self, now_ns: int) -> float:
        """Seconds from the first frame until the line began to stop, or until now; 0 before the first frame."""
        return self._since_first_s(self._stop_ns or now_ns)

    def rate_s(self, now_ns: int) -> float:
        """Seconds in which the frames were finished: until now, or until the last one was finished while the line drained."""
        return self._since_first_s(max(self._stop_ns, self._finished_ns) if self._stop_ns else now_ns)

    def _since_first_s(self, end_ns: int) -> float:
        return (end_ns - self.first_ns) / 1e9 if self.first_ns else 0.0


SUMMARY = "summary.json"
"""Name of the summary's file under ``state_dir``, which is always written."""
READER_MS = 1000.0
"""How long the reader of a pipe may take nothing before writing the summary fails."""
_MOST_LINKS = 40


def prepare_summary(path: Path) -> None:
    """Remove an earlier run's summary at ``path``, and check that one can be written there, before the run and not after it.

    A descriptor, device or pipe is left as it is. Raises ``ConfigError`` if nothing can be written there.
    """
    with told_as(ConfigError, f"the summary {path} cannot be written", "choose another --summary or state_dir"):
        if _is_descriptor(path):  # its file may be a log, and is the user's
            os.close(_open_descriptor(path))
            return
        if path.is_dir():
            raise ConfigError(f"the summary {path} cannot be written: it is a folder; choose another --summary or move it away")
        if path.exists() and not path.is_file():  # /dev/null, a pipe
            return
        target = _target(path)
        part = part_of(target)
        part.touch()
        part.unlink()
        target.unlink(missing_ok=True)


def write_summary(path: Path, found: object, *, mode: int) -> None:
    """Write the summary ``found`` as indented JSON: durable and in one step, with ``mode`` less the umask.

    A descriptor (/dev/stdout), device or pipe is written to, not replaced, with up to 1 s for a reader that takes nothing. Raises
    ``OSError`` if it cannot be written.
    """
    data = msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n"
    if _is_descriptor(path):
        _write_through(_open_descriptor(path), data)
    elif path.exists() and not path.is_file():  # a device or a pipe must not be replaced
        _write_through(_open_reader(path), data)
    else:
        write_durable(_target(path), data, mode=mode)


def _is_descriptor(path: Path) -> bool:
    """Whether it names a descriptor of a process, as /dev/stdout does: the file to which it leads must not be replaced."""
    return re.fullmatch(r"/proc/\d+/(task/\d+/)?fd/\d+", str(_entry(path))) is not None


def _entry(path: Path) -> Path:
    """Where symbolic links lead, followed up to the first entry of a process's list of descriptors."""
    for _ in range(_MOST_LINKS):
        path = Path(os.path.realpath(path.parent), path.name)
        if path.parent.name == "fd" or not path.is_symlink():
            break
        path = path.parent / os.readlink(path)
    return path


def _open_descriptor(path: Path) -> int:
    """A duplicate of a descriptor that we were given; for one of another process, its file, opened to append. Raises ``OSError``."""
    entry = _entry(path)
    if entry.parts[2] != str(os.getpid()):
        return os.open(entry, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
    fd = int(entry.name)
    if not os.get_inheritable(fd) or fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # not inheritable: linepipe's own
        raise OSError(errno.EBADF, "it is not open for writing")
    return os.dup(fd)


def _open_reader(path: Path) -> int:
    """Open a device or pipe for writing. Raises ``OSError``, also if no process reads it: the end of a run waits for no reader."""
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads it; start the reader before the line, or name a file") from exc
        raise


def _write_through(fd: int, data: bytes) -> None:
    """Write all and close. Raises ``OSError``, also if the reader takes nothing for ``READER_MS``."""
    try:
        ready = select.poll()
        ready.register(fd, select.POLLOUT)
        while data:
            if not ready.poll(READER_MS):
                raise TimeoutError(errno.ETIMEDOUT, "nobody reads it")
            data = data[os.write(fd, data[: select.PIPE_BUF]) :]  # a pipe that is ready has room for so much
    finally:
        os.close(fd)


def _target(path: Path) -> Path:
    """The path with symbolic links resolved."""
    return Path(os.path.realpath(path))
