"""The publish node, one per line: makes records durable, confirms them, and sends the events to each sink in a thread of its own."""

import os
import queue
import time
from functools import partial
from pathlib import Path

import msgspec

from nodes.publish.record_store import Store
from nodes.publish.sinks.all_sinks import Sinks
from nodes.publish.spool.database import SpoolDamagedError, SpoolTroubleError
from nodes.publish.spool.salvage import flag_path, open_spool
from nodes.publish.spool.spool import FIRST_SINK, Spool, lock_spool
from pipeline.core.errors import ConfigError, NodeError
from pipeline.core.events import AlarmKind
from pipeline.core.frame import Alarm
from pipeline.core.status import Facts, NodeState
from pipeline.redis.login import Login, writer_login
from pipeline.redis.server import running_url
from pipeline.runtime.node import NodeContext, run_loop
from pipeline.system.files import read_plain, write_private
from pipeline.transport.messages import Durable, Message, Submit, from_client
from pipeline.transport.sockets import Router, Waiter

IDLE_MS = 50.0
OPEN_AGAIN_S = 0.5


def publish(node: NodeContext) -> None:
    """Entry point: runs until it is asked to stop, and then until the sinks have everything or have been away for some seconds.

    Raises ``NodeError`` if another publish node has the spool, the spool is damaged (the next start repairs it), was deleted, or
    could not be opened before the end; ``ConfigError`` for a spool of a later format, a folder in its place, or a Redis login
    that cannot be used.
    """
    path = node.config.state / "spool" / "events.db"
    lock = lock_spool(path)
    try:
        spool, news = _open(node, path)
        work = _Publish(node, path, spool, news)
        run_loop(node, work)
    except SpoolDamagedError as exc:
        _flag(node, path)
        raise NodeError(f"{exc}; it is repaired when the publish node starts again") from exc
    finally:
        os.close(lock)


def _open(node: NodeContext, path: Path) -> tuple[Spool, str]:
    """Open the spool as soon as disk and locks allow. Raises ``ConfigError`` if waiting does not help, ``NodeError`` out of time."""
    if path.is_dir():
        raise ConfigError(f"{path}: there is a folder in place of the spool's file; move it away")
    said = ""
    while True:
        try:
            return open_spool(path)
        except (SpoolTroubleError, OSError) as exc:
            trouble = str(exc)
        if trouble != said:
            node.log.warning("the spool cannot be opened (%s); trying again until it can", trouble)
        said = trouble
        node.beat(NodeState.WAITING, partial(Facts, spool=said), now=True)
        if node.out_of_time:
            raise NodeError(f"the spool could not be opened before this node had to end: {trouble}")
        time.sleep(OPEN_AGAIN_S)


def _flag(node: NodeContext, path: Path) -> None:
    try:
        flag_path(path).touch()
    except OSError as exc:
        node.log.warning(
            "%s cannot be written (%s): the next start repairs the spool only if its check finds damage", flag_path(path), exc.strerror
        )


class _Publish:
    def __init__(self, node: NodeContext, path: Path, spool: Spool, news: str) -> None:
        self._node, self._path, self._spool = node, path, spool
        self._alarms: queue.SimpleQueue[Alarm] = queue.SimpleQueue()
        self._store = Store(node.config, spool, path, node.log, self._alarm)
        if news:
            self._alarm(AlarmKind.SPOOL_DAMAGED, True, f"{path}: {news}")
        run_seq = self._begin_run(node.config.state / "run.json")
        for name in spool.open_alarms.left_by(run_seq):
            self._alarm(name, False, f"{name} ended with the run in which it began")
        self._router = Router(node.endpoints.publish)
        confirmed = self._store.latency.confirmed
        self._sinks = Sinks(node.config, _login(node), path, spool, confirmed=confirmed, alarm=self._alarm)
        self._waiter = Waiter(self._router)
        self._stored = 0

    def _begin_run(self, path: Path) -> int:
        """Store where this run's events begin, for ``events --run last``; returns the ``seq`` before them."""
        try:
            run = int(msgspec.json.decode(read_plain(path))["run"])
        except (OSError, ValueError, KeyError, TypeError):  # a node started by hand, or a damaged file: a run of its own
            run = time.time_ns()
        run_seq, first = self._spool.begin_run(run)
        self._store.counts.update(self._spool.counts_since(run_seq))
        try:
            write_private(path, msgspec.json.encode({"run": run, "first_id": first}))
        except OSError as exc:
            self._node.log.warning("%s cannot be written (%s): `events --run last` does not find this run", path, exc.strerror)
        return run_seq

    def turn(self) -> bool:
        """Do one pass; returns False when everything is done."""
        now, stopping = time.monotonic_ns(), self._node.stopping  # asked once: it may change at any moment
        self._sinks.turn(ending=stopping)
        busy = self._hear()
        for address, keys in self._store.turn(now, ending=stopping and not busy).items():
            self._router.send(address, Durable(keys=tuple(keys), stands={key: fate for key, fate in keys.items() if fate is not None}))
        if (stored := self._store.counts.total()) != self._stored:
            self._stored = stored
            self._sinks.wake()
        return not stopping or busy or not self._finished(now)

    @property
    def state(self) -> NodeState:
        return NodeState.RUNNING

    def wait(self) -> None:
        self._waiter.wait(IDLE_MS)

    def _hear(self) -> bool:
        """Take the records that have arrived; returns whether there were any."""
        found = self._store.offered
        while not self._alarms.empty():
            self._store.offer(None, self._alarms.get())
        self._router.deliver(self._submitted)
        return self._store.offered > found

    def _submitted(self, address: bytes, message: Message) -> None:
        record = from_client(message, self._node.config)
        self._store.offer(address, record, message.after if isinstance(message, Submit) else "")

    def _alarm(self, name: str, active: bool, text: str) -> None:
        """Raise or clear an alarm (any thread)."""
        self._node.log.log(30 if active else 20, "%s", text)
        self._alarms.put(Alarm(name=name, active=active, text=text, at_ns=time.time_ns()))

    def _finished(self, now: int) -> bool:
        """At the end: whether the sinks have everything, or it is no use waiting longer."""
        self._count_backlog()
        held, waiting, trouble = self._store.held, self._store.waiting, self._store.trouble
        if self._sinks.complete and not held and not waiting and self._alarms.empty():
            return True
        if (self._sinks.given_up(now) and not waiting and not trouble) or self._node.out_of_time:
            for sink, left in self._sinks.backlog.items():
                if left:
                    self._node.log.warning("%d events for %s stay in the spool; they are sent when the line runs again", left, sink)
            if trouble:
                self._node.log.warning("the spool cannot be used at the end: %s", trouble)
            if waiting:
                self._node.log.warning("%d records could not be made durable: %s", waiting, trouble or "no time was left")
            return True
        return False

    def _count_backlog(self) -> int:
        """Number of events, and held parts, that Redis does not have; the last count if the spool cannot be read now."""
        try:
            self._sinks.count()
        except SpoolTroubleError as exc:
            self._store.trouble = str(exc)
        return self._sinks.backlog[FIRST_SINK] + self._store.held

    def facts(self) -> Facts:
        store = self._store
        return Facts(
            events=dict(store.counts),
            frames=store.frames,
            tiles=store.tiles,
            duplicates=store.duplicates,
            backlog=self._count_backlog(),
            waiting=store.waiting,
            spool=store.trouble or self._sinks.trouble or "ok",
            redis=self._sinks.redis.state,
            url=self._sinks.url,
            sinks=self._sinks.facts(),
            latency=store.latency.facts,
            refused=self._router.refused,
        )

    def close(self) -> None:
        self._sinks.stop()
        self._router.close(flush_ms=200)
        self._spool.close()


def _login(node: NodeContext) -> Login:
    if node.config.publish.redis == "embedded" and running_url(node.config.state) is None:
        raise ConfigError(
            "publish.redis: embedded is started by `linepipe run`, which is not running; to run this node alone, give a redis:// URL"
        )
    return writer_login(node.config)
