"""Trims the stream in Redis: entries younger than ``keep_ms`` stay, and entries that a consumer group has not read.

Ages are those that the spool counts, never the wall clock's. Entries of a group that has not moved for ``GROUP_IDLE_MS`` are
trimmed all the same. ``keep_bytes`` limits the size of the stream whatever groups have read.
"""

from typing import Any

from nodes.publish.sinks.redis.reconcile import StreamId, StreamIds, parse_id
from nodes.publish.sinks.sink import Feed
from pipeline.core.events import AlarmKind
from pipeline.runtime.supervisor import Alarms

GROUP_IDLE_MS = 86_400_000
_ROOM = 0.9  # share of keep_bytes that is left after trimming for size


class Retention:
    """Trims one stream. ``keep_ms``: age in ms; ``keep_bytes``: memory that it may take, None: no limit."""

    def __init__(self, stream: str, feed: Feed, ids: StreamIds, *, keep_ms: int, keep_bytes: int | None, alarms: Alarms) -> None:
        self._feed, self._spool, self._ids = feed, feed.spool, ids
        self._stream, self._keep_ms, self._keep_bytes, self._alarms = stream, keep_ms, keep_bytes, alarms

    def trim(self, client: Any) -> None:
        """Trim old entries, then those over ``keep_bytes``, and set the alarms of consumer groups. Called about once a minute.

        Does nothing if there is no stream. Raises what redis-py raises, ``SpoolTroubleError`` and ``SpoolDamagedError``.
        """
        if not client.exists(self._stream):
            return
        groups = {_text(g["name"]): self._position(client, g) for g in client.xinfo_groups(self._stream)}
        waiting = {name: place for name, place in groups.items() if not self._stands_still(name, place)}
        older = self._spool.ages.older_than(self._keep_ms)
        old = self._ids.first_confirmed_behind(min(older, self._feed.sent - 1))  # the newest stays: it shows that nothing was lost
        if older and old is not None:
            self._trim(client, min([old, *waiting.values()]))
        full = self._too_much(client)
        if full is not None:
            self._trim(client, full)
            for name in [name for name, place in groups.items() if place < full]:
                self._spool.set_fact(f"lost:{name}/ms", full[0])
                self._spool.set_fact(f"lost:{name}/n", full[1])
        self._tell(groups)

    def _tell(self, groups: dict[str, StreamId]) -> None:
        """Set the alarms of groups that lost unread entries, and end those of groups that are gone."""
        for name, place in groups.items():
            lost = place < (
                self._spool.fact(f"lost:{name}/ms"),
                self._spool.fact(f"lost:{name}/n"),
            )  # where the last trimming of unread entries ended
            slow = "reads too slowly: entries were trimmed unread, as the stream had grown to publish.keep_mib"
            self._alarms.set(
                AlarmKind.GROUP_LOST.of(name), lost, f"consumer group {name} {slow if lost else 'has read past the trimmed entries'}"
            )
        for alarm in self._alarms.named("group_"):
            if (group := alarm.split(":", 1)[1]) not in groups:
                self._alarms.set(alarm, False, f"consumer group {group} is gone")

    def _trim(self, client: Any, place: StreamId) -> None:
        client.xtrim(self._stream, minid=f"{place[0]}-{place[1]}", approximate=True)

    def _position(self, client: Any, group: dict[str, Any]) -> StreamId:
        """Stream id of the first entry that a group still needs."""
        pending = client.xpending(self._stream, group["name"])
        if pending["pending"]:
            return parse_id(pending["min"])
        ms, n = parse_id(group["last-delivered-id"])
        return ms, n + 1

    def _stands_still(self, name: str, place: StreamId) -> bool:
        """Whether a group has had unread entries, and not moved, for ``GROUP_IDLE_MS``."""
        newest, now = self._feed.newest_sent(), self._spool.ages.now_ms
        waits = newest is not None and place <= newest.stamp
        still = self._spool.ages.unchanged_ms(f"group:{name}", (*place, 0 if waits else now)) >= GROUP_IDLE_MS
        idle = "has read nothing for a day: old entries are trimmed now though it has not read them; delete it if nobody uses it"
        self._alarms.set(AlarmKind.GROUP_IDLE.of(name), still, f"consumer group {name} {idle if still else 'reads again'}")
        return still

    def _too_much(self, client: Any) -> StreamId | None:
        """Stream id of the first entry that may stay if the stream takes more memory than allowed; None if it does not."""
        if self._keep_bytes is None:
            return None
        used, length = client.memory_usage(self._stream) or 0, client.xlen(self._stream)
        if used <= self._keep_bytes:
            return None
        return self._ids.first_confirmed_behind(self._feed.sent - max(1, int(length * self._keep_bytes * _ROOM / used)))


def _text(name: bytes | str) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
