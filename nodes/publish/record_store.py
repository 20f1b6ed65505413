"""Stores records in the spool: in order, and each confirmed only when the disk has it.

Records that the spool cannot take now (locked, disk full) wait here and are tried again. They are not confirmed, so their
senders keep them too. On a full disk verdicts wait, while gaps and alarms go into the room kept in reserve for them.
"""

import errno
import logging
import time
from collections import Counter
from pathlib import Path

import msgspec

from nodes.publish.image_archive import ImageArchive
from nodes.publish.join_frames import REMEMBERED, Stitcher
from nodes.publish.latency import Latency
from nodes.publish.make_events import events_of, invalid_ids
from nodes.publish.spool.database import SpoolTroubleError
from nodes.publish.spool.disk_reserve import DiskReserve
from nodes.publish.spool.progress_file import progress_path
from nodes.publish.spool.salvage import rescue
from nodes.publish.spool.spool import FIRST_SINK, Spool, Spooled
from pipeline.config import Config
from pipeline.core.errors import NodeError
from pipeline.core.events import AlarmKind, DefectEvent, Event
from pipeline.core.frame import Gap, Publishable, Verdict
from pipeline.runtime.supervisor import Alarm, Alarms

GROUP = 256  # records made durable by one fsync at most
MOST_WAITING = 20_000  # records beyond that stay with their senders, who send them again
RETRY_NS, LOOK_NS, MINUTE_NS = 250_000_000, 1_000_000_000, 60_000_000_000
STUCK_NS = 2_000_000_000  # trouble that lasts longer is an alarm


class Store:
    """The records that the publish node has accepted, and those that wait. Used from the thread that appends to the spool.

    ``path``: the spool's file. The constructor reads the held parts and the list of images, and takes the disk reserve. It raises
    ``SpoolTroubleError``, ``SpoolDamagedError`` and ``OSError``.
    """

    def __init__(self, config: Config, spool: Spool, path: Path, log: logging.Logger, alarm: Alarm) -> None:
        self._config, self._spool, self._path, self._log = config, spool, path, log
        self._keep_ms = int(config.publish.keep_days * 86_400_000)
        self._sinks = (FIRST_SINK, *config.publish.sinks)
        self._images = ImageArchive(config.state / "images", int(config.publish.images_mb * 1_000_000))
        self._stitcher = Stitcher(config)
        for part in spool.held():  # left by a publish node that was killed
            self._stitcher.add(part, time.monotonic_ns())
        self._reserve = DiskReserve(path.with_name("reserve"))
        self._waiting: dict[str, tuple[set[bytes], Publishable]] = {}
        self._durable: dict[bytes, dict[str, str | None]] = {}
        self.latency = Latency()
        self.counts: Counter[str] = Counter()
        self.frames = self.tiles = self.duplicates = self.offered = 0
        self.trouble = ""
        """Why no record, or no verdict, is accepted now; an empty string if all are."""
        # Also those of a publish node that was killed: each goes on until its cause ends.
        self._alarms = Alarms(alarm, spool.open_alarms.names())
        self._full = AlarmKind.DISK_FULL in self._alarms
        if self._full:
            self._reserve.release()
        elif not self._reserve.take():
            log.warning(
                "the disk of state_dir is too full to keep room for gaps: once it is full, they cannot be recorded either; make room"
            )
        self._since_ns = self._retry_ns = self._minute_ns = self._look_ns = self._room_ns = 0

    def offer(self, address: bytes | None, record: Publishable, after: str = "") -> None:
        """Take a record, to be made durable by ``turn``. ``address``: the sender to be notified; None if there is none.

        ``after``: key of the record before it; while that is unknown, this record is ignored. It is also ignored if
        ``MOST_WAITING`` records wait and it has an address. Its sender sends an ignored record again.
        """
        self.offered += 1
        if after and not self._has(after):
            return  # an earlier publish process had that one; its sender sends it again, and then this one
        if address is None or record.key in self._waiting or len(self._waiting) < MOST_WAITING:
            addresses, _ = self._waiting.setdefault(record.key, (set(), record))
            if address is not None:
                addresses.add(address)

    def _has(self, key: str) -> bool:
        try:
            return key in self._waiting or self._spool.known(key)
        except SpoolTroubleError:
            return False

    @property
    def waiting(self) -> int:
        """Number of records that are not durable yet, or are and have not been confirmed to their senders."""
        return len(self._waiting) + sum(map(len, self._durable.values()))

    @property
    def held(self) -> int:
        """Number of parts of defects that are durable and no events yet."""
        return self._stitcher.held

    def turn(self, now_ns: int, *, ending: bool) -> dict[bytes, dict[str, str | None]]:
        """Accept the records that can be accepted; returns by address the keys that are durable now. Trouble waits for a later turn.

        The value of a key is None, unless several verdicts were offered for the frame: then it is the reason why the verdict
        that stands is invalid, or an empty string. ``now_ns``: monotonic. ``ending``: also make events of all held parts. Raises
        ``NodeError`` if the spool is damaged, was deleted or was replaced.
        """
        durable: dict[bytes, dict[str, str | None]] = {}
        try:
            if now_ns >= self._retry_ns:
                self._make_room(now_ns)
                self._accept()
                self._look_after_file(now_ns)
                durable, self._durable = self._durable, {}
                self._settle(now_ns, everything=ending and not self._waiting)
                self._grow_old(now_ns)
                self._well()
        except SpoolTroubleError as exc:
            self._troubled(exc, now_ns)
        return durable

    def _accept(self) -> None:
        able = [key for key, (_, record) in self._waiting.items() if not (self._full and isinstance(record, Verdict))]
        for start in range(0, len(able), GROUP):
            self._store(able[start : start + GROUP])

    def _store(self, keys: list[str]) -> None:
        """One group, with one fsync."""
        records = [self._waiting[key][1] for key in keys]
        found = {record.key: self._events(record) for record in records}
        held = {key: [e for e in events if isinstance(e, DefectEvent) and self._stitcher.waits(e)] for key, events in found.items()}
        ready = [(key, [e for e in found[key] if e not in held[key]]) for key in keys]
        results = self._spool.append(ready, held)
        for record, spooled in zip(records, results, strict=True):  # all of them: at the next attempt they are duplicates
            if spooled is None:
                self.duplicates += 1
            else:
                self._note(record, spooled, held[record.key])
        for record, spooled in zip(records, results, strict=True):
            addresses = self._waiting[record.key][0]
            stands = self._standing(record) if spooled is None or len(addresses) > 1 else None
            del self._waiting[record.key]
            for address in addresses:
                self._durable.setdefault(address, {})[record.key] = stands

    def _standing(self, record: Publishable) -> str | None:
        """The reason why the verdict that a frame has is invalid, else an empty string, as its events say; None for other records."""
        if not isinstance(record, Verdict):
            return None
        reasons = invalid_ids(record, self._config.line)
        return next((reasons[found] for found in self._spool.present(reasons)), "")

    def _note(self, record: Publishable, spooled: list[Spooled], held: list[DefectEvent]) -> None:
        """Count a record that is durable now, and pass it on to the stitcher."""
        self.counts.update(s.type for s in spooled)
        if isinstance(record, Verdict):
            self.frames += 1
            self.tiles += record.tiles
            if spooled and record.defects:
                self.latency.spooled(spooled[-1].seq, record)
            self._stitcher.know(record.meta.camera, record.meta.epoch, [record.meta.frame])
            for part in held:
                self._stitcher.add(part, time.monotonic_ns())
                self.latency.held(part.id, record)
        elif isinstance(record, Gap) and record.last is not None:
            self._stitcher.know(record.camera, record.epoch, range(max(record.first, record.last - REMEMBERED), record.last + 1))

    def _settle(self, now_ns: int, *, everything: bool) -> None:
        """Spool the defects whose parts are complete; on a full disk only at the end, into the room kept in reserve."""
        done = [] if self._full and not everything else self._stitcher.take(now_ns, everything=everything)
        if not done:
            return
        try:
            spooled = self._spool.settle((joined.event, [p.id for p in joined.parts]) for joined in done)
        except SpoolTroubleError:
            for joined in done:
                for part in joined.parts:
                    self._stitcher.add(part, now_ns)
            raise
        for event, joined in zip(spooled, done, strict=True):
            if event is not None:
                self.counts.update([event.type])
                self.latency.joined(event.seq, [p.id for p in joined.parts])

    def _events(self, record: Publishable) -> list[Event]:
        """A record's events. A new defect's image is written first, so that no event names a file that never existed."""
        if self._spool.known(record.key):
            return []
        return [self._with_image(event, png) for event, png in events_of(record, self._config)]

    def _with_image(self, event: Event, png: bytes) -> Event:
        if not isinstance(event, DefectEvent) or event.image is None:
            return event
        try:
            self._images.keep(event.image, png)
        except OSError as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise SpoolTroubleError("the disk of state_dir is full", full=True) from exc
            text = f"images/{event.image}: {exc.strerror}; events go out without their images"
            self._alarms.set(AlarmKind.IMAGE_NOT_KEPT, True, text)
            return msgspec.structs.replace(event, image=None)
        self._alarms.set(AlarmKind.IMAGE_NOT_KEPT, False, "images of defects are kept again")
        return event

    def _look_after_file(self, now_ns: int) -> None:
        """If the spool's file is gone, save its content where the next start finds it; this connection still has all of it."""
        if not self._durable and now_ns < self._look_ns:
            return
        self._look_ns = now_ns + LOOK_NS
        try:
            if not self._spool.database.moved():
                return
            rescue(self._spool, self._path)
        except OSError as exc:
            text = f"{self._path} was deleted or replaced and cannot be written again: {exc.strerror}"
            raise SpoolTroubleError(text, full=exc.errno in (errno.ENOSPC, errno.EDQUOT)) from exc
        raise NodeError(
            f"{self._path}: the spool was deleted or replaced while the line ran; it was written again, the publish node restarts"
        )

    def _grow_old(self, now_ns: int) -> None:
        if now_ns >= self._minute_ns and not self._full:
            self._minute_ns = now_ns + MINUTE_NS
            if why := self._spool.progress_trouble:
                self._log.warning(
                    "%s cannot be written (%s): if the spool is damaged, fewer losses are found", progress_path(self._path), why
                )
            self._spool.ages.note()
            self._spool.ages.purge(self._keep_ms, min(map(self._spool.watermark, self._sinks)))

    def _make_room(self, now_ns: int) -> None:
        """On a full disk: once there is room for the reserve and as much again, the disk does not count as full any more."""
        if self._full and now_ns >= self._room_ns:
            self._room_ns = now_ns + LOOK_NS
            if self._reserve.take(spare=True):
                self._full = False
                self._alarms.set(AlarmKind.DISK_FULL, False, "the disk of state_dir has room again: verdicts are accepted")

    def _troubled(self, exc: SpoolTroubleError, now_ns: int) -> None:
        if not self.trouble:
            self._since_ns = now_ns
            self._log.warning("no record is accepted until this is over: %s", exc)
        self.trouble = str(exc)
        self._retry_ns = now_ns + RETRY_NS
        if exc.full and not self._full:
            self._full, self._retry_ns, self._room_ns = True, now_ns, now_ns + LOOK_NS
            self._reserve.release()
            text = "the disk of state_dir is full: frames wait, and frames of a live camera that find no room become gaps; make room"
            self._alarms.set(AlarmKind.DISK_FULL, True, text)
        elif not self._full and now_ns - self._since_ns > STUCK_NS:
            text = f"the spool cannot be written ({exc}): frames wait, and frames of a live camera that find no room become gaps"
            self._alarms.set(AlarmKind.SPOOL_STUCK, True, text)

    def _well(self) -> None:
        if self._full:
            self.trouble = "the disk of state_dir is full; verdicts wait"
            return
        self._alarms.set(AlarmKind.SPOOL_STUCK, False, "the spool can be written again")
        if self.trouble:
            self._log.warning("the spool accepts everything again")
        self.trouble = ""
