"""The publish node: one per line. Makes records durable, replies, and has a thread send the events to Redis."""

import os
import queue
import time
from collections import Counter
from pathlib import Path

import msgspec

from nodes.publish.images import ImageArchive
from nodes.publish.joiner import REMEMBERED, Joiner
from nodes.publish.record import events_of, invalid_ids
from nodes.publish.redis_sink import RedisSink
from nodes.publish.spool import Spool, Spooled, lock_spool
from pipeline.embedded import running_url
from pipeline.errors import ConfigError
from pipeline.events import DefectEvent, Event
from pipeline.frame import Alarm, Gap, Publishable, Verdict
from pipeline.metrics import Histogram
from pipeline.node_main import Node
from pipeline.secret import Login, writer_login
from pipeline.senders import from_client
from pipeline.transport import Router, Waiter
from pipeline.wire import Durable

IDLE_MS = 50.0
GROUP = 256  # records made durable by one fsync at most
PURGE_NS = 60_000_000_000
GIVE_UP_NS = 5_000_000_000  # at the end: how long Redis may be away before the rest stays in the spool
MEASURED = 10_000  # frames whose latency is being measured at a time; more only while Redis is away
STAGES = ("total", "capture", "preprocess", "infer", "publish")


def publish(node: Node) -> None:
    """Entry point: run until told to stop, then until Redis has everything or has been away for a while."""
    work = _Publish(node)
    try:
        while work.turn():
            work.waiter.wait(IDLE_MS)
        node.beat("ended", work.facts, now=True)
    finally:
        work.close()


class _Publish:
    def __init__(self, node: Node) -> None:
        self._node, self._config = node, node.config
        state = node.config.state
        self._images = ImageArchive(state / "images", int(node.config.publish.images_mb * 1_000_000))
        path = state / "spool" / "events.db"
        self._lock = lock_spool(path)
        self._spool = Spool(path, durable=True)
        self._alarms: queue.SimpleQueue[Alarm] = queue.SimpleQueue()
        self._lifted: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._arrived: dict[int, Verdict] = {}  # by seq of the verdict's last event, until Redis has it
        self._latency = {stage: Histogram() for stage in STAGES}
        self._counts: Counter[str] = Counter()
        self.frames = self.tiles = self.duplicates = 0
        self._joiner = Joiner(node.config)
        self._pieces: dict[str, Verdict] = {}  # by id of a held piece: whose latency is taken when it becomes an event
        for piece in self._spool.held():  # left by a publish node that was killed
            self._joiner.add(piece, time.monotonic_ns())
        self._begin_run(state / "run.json")
        self._router = Router(node.endpoints.publish)
        login = _login(node)
        self._sink = RedisSink(
            login.url,
            login.password,
            node.config.stream,
            path,
            keep_ms=int(node.config.publish.keep_days * 86_400_000),
            confirmed=self._confirm,
            alarm=self._alarm,
            lifted=lambda ms, n: self._lifted.put((ms, n)),
        )
        self.waiter = Waiter(self._router)
        self._next_purge_ns = 0
        self._away_since_ns = 0

    def _begin_run(self, path: Path) -> None:
        """Note where this run's events begin, for ``events --run last``."""
        try:
            run = int(msgspec.json.decode(path.read_bytes())["run"])
        except (OSError, ValueError, KeyError, TypeError):  # a node started by hand, or a damaged note: a run of its own
            run = time.time_ns()
        self._run_seq, first = self._spool.begin_run(run)
        self._counts.update(self._spool.counts_since(self._run_seq))
        path.write_bytes(msgspec.json.encode({"run": run, "first_id": first}))

    def turn(self) -> bool:
        """One pass; False when everything is done."""
        now, stopping = time.monotonic_ns(), self._node.stopping  # asked once: it may change at any moment
        if self._sink.failed is not None:
            raise self._sink.failed
        while not self._lifted.empty():
            self._spool.lift_floor(*self._lifted.get())
        busy = self._accept()
        self._settle(now, everything=stopping and not busy)
        if now >= self._next_purge_ns:
            self._next_purge_ns = now + PURGE_NS
            self._spool.purge(time.time_ns() // 1_000_000 - int(self._config.publish.keep_days * 86_400_000))
        self._node.beat("running", self.facts)
        return not stopping or busy or not self._finished(now)

    def _accept(self) -> bool:
        """Make what has arrived durable and say so; whether anything had."""
        waiting: list[tuple[bytes | None, Publishable]] = []
        self._router.deliver(lambda address, message: waiting.append((address, from_client(message, self._config))))
        while not self._alarms.empty():
            waiting.append((None, self._alarms.get()))
        for start in range(0, len(waiting), GROUP):
            self._store(waiting[start : start + GROUP])
        return bool(waiting)

    def _store(self, group: list[tuple[bytes | None, Publishable]]) -> None:
        found = {record.key: self._events(record) for _, record in group}
        held = {key: [e for e in events if isinstance(e, DefectEvent) and self._joiner.waits(e)] for key, events in found.items()}
        ready = [(record.key, [e for e in found[record.key] if e not in held[record.key]]) for _, record in group]
        results = self._spool.append(ready, held)
        replies: dict[bytes, list[str]] = {}
        stands: dict[str, str] = {}
        for (address, record), spooled in zip(group, results, strict=True):
            if address is not None:
                replies.setdefault(address, []).append(record.key)
            if spooled is None:
                self.duplicates += 1
                if isinstance(record, Verdict):
                    stands[record.key] = self._standing(record)
                continue
            self._counts.update(s.type for s in spooled)
            self._join(record, held[record.key])
            if isinstance(record, Verdict):
                self.frames += 1
                self.tiles += record.tiles
                if spooled and record.defects and len(self._arrived) < MEASURED:
                    self._arrived[spooled[-1].seq] = msgspec.structs.replace(record, defects=())
        self._sink.wake()
        for address, keys in replies.items():
            self._router.send(address, Durable(keys=tuple(keys), stands={k: stands[k] for k in keys if k in stands}))

    def _standing(self, verdict: Verdict) -> str:
        """Why the verdict that a frame has is invalid, or empty: its events say so. What is counted is what stands."""
        reasons = invalid_ids(verdict, self._config.line)
        return next((reasons[found] for found in self._spool.present(reasons)), "")

    def _join(self, record: Publishable, held: list[DefectEvent]) -> None:
        """Tell the joiner of a record that is durable now."""
        if isinstance(record, Verdict):
            self._joiner.know(record.meta.camera, record.meta.epoch, [record.meta.frame])
            for piece in held:
                self._joiner.add(piece, time.monotonic_ns())
                if len(self._pieces) < MEASURED:
                    self._pieces[piece.id] = msgspec.structs.replace(record, defects=())
        elif isinstance(record, Gap) and record.last is not None:
            self._joiner.know(record.camera, record.epoch, range(max(record.first, record.last - REMEMBERED), record.last + 1))

    def _settle(self, now: int, *, everything: bool) -> None:
        """Spool the defects whose pieces are complete."""
        done = self._joiner.take(now, everything=everything)
        if not done:
            return
        spooled = self._spool.settle((joined.event, [p.id for p in joined.pieces]) for joined in done)
        self._counts.update(s.type for s in spooled)
        for event, joined in zip(spooled, done, strict=True):
            verdicts = [v for p in joined.pieces if (v := self._pieces.pop(p.id, None)) is not None]
            if verdicts and len(self._arrived) < MEASURED:
                self._arrived[event.seq] = max(verdicts, key=lambda v: v.meta.frame)
        self._sink.wake()

    def _events(self, record: Publishable) -> list[Event]:
        """A record's events; a new defect's image is written first, so that no event names a file that never was."""
        found = events_of(record, self._config)
        if self._spool.known(record.key):
            return []
        return [self._with_image(event, png) for event, png in found]

    def _with_image(self, event: Event, png: bytes) -> Event:
        if not isinstance(event, DefectEvent) or event.image is None:
            return event
        try:
            self._images.keep(event.image, png)
        except OSError as exc:
            self._alarm("image_not_kept", True, f"images/{event.image}: {exc.strerror}; the event goes out without its image")
            return msgspec.structs.replace(event, image=None)
        return event

    def _confirm(self, events: list[Spooled]) -> None:
        """Redis has these (sender thread): take the latencies of the frames they complete."""
        now = time.monotonic_ns()
        for event in events:
            verdict = self._arrived.pop(event.seq, None)
            if verdict is not None:
                marks = (verdict.meta.arrived_ns, verdict.stamps.received_ns, verdict.stamps.tiled_ns, verdict.stamps.judged_ns, now)
                for stage, begin, end in zip(STAGES[1:], marks, marks[1:], strict=False):
                    self._latency[stage].add(end - begin)
                self._latency["total"].add(now - marks[0])

    def _alarm(self, name: str, active: bool, text: str) -> None:
        """Raise or clear an alarm (any thread)."""
        self._node.log.log(30 if active else 20, "%s", text)
        self._alarms.put(Alarm(name=name, active=active, text=text, at_ns=time.time_ns()))

    def _finished(self, now: int) -> bool:
        """At the end: whether Redis has everything, or there is no use in waiting."""
        left = self._spool.backlog
        if left == 0:
            return True
        if not self._sink.state.startswith("away"):
            self._away_since_ns = 0
        elif self._away_since_ns == 0:
            self._away_since_ns = now
        gone = self._away_since_ns and now - self._away_since_ns > GIVE_UP_NS
        if gone or self._node.out_of_time:
            self._node.log.warning("%d events stay in the spool; they are sent when the line runs again", left)
            return True
        return False

    def facts(self) -> dict[str, object]:
        return {
            "events": dict(self._counts),
            "frames": self.frames,
            "tiles": self.tiles,
            "duplicates": self.duplicates,
            "backlog": self._spool.backlog,
            "redis": self._sink.state,
            "url": self._sink.url,
            "latency": {stage: h.bins for stage, h in self._latency.items()},
            "refused": self._router.refused,
        }

    def close(self) -> None:
        self._sink.stop()
        self._router.close(flush_ms=200)
        self._spool.close()
        os.close(self._lock)


def _login(node: Node) -> Login:
    if node.config.publish.redis == "embedded" and running_url(node.config.state) is None:
        raise ConfigError(
            "publish.redis: embedded is started by `linepipe run`, which does not run; for a node of its own give a redis:// URL"
        )
    return writer_login(node.config)
