"""How much of the stream stays in Redis: what is younger than ``keep_ms``, and what a consumer group has not read.

Trimming is by the age that the spool counts, never by the wall clock, and stops behind every consumer group. A group
that stands still for ``GROUP_IDLE_MS`` holds nothing back any more. ``keep_bytes`` bounds the stream whatever groups do.
"""

from typing import Any

from nodes.publish.sinks.redis.reconcile import StreamId, StreamIds, parse_id
from nodes.publish.sinks.sink import Feed
from pipeline.core.events import AlarmKind
from pipeline.runtime.supervisor import Alarms

GROUP_IDLE_MS = 86_400_000
_ROOM = 0.9  # of keep_bytes: how much is left after trimming for size


class Retention:
    """Trims one stream, about once a minute."""

    def __init__(self, stream: str, feed: Feed, ids: StreamIds, *, keep_ms: int, keep_bytes: int | None, alarms: Alarms) -> None:
        self._feed, self._spool, self._ids = feed, feed.spool, ids
        self._stream, self._keep_ms, self._keep_bytes, self._alarms = stream, keep_ms, keep_bytes, alarms

    def trim(self, client: Any) -> None:
        """Trim what is old, then what is too much. Raises what redis-py raises."""
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
        """Which groups have lost entries, and which are gone."""
        for name, place in groups.items():
            lost = place < (self._spool.fact(f"lost:{name}/ms"), self._spool.fact(f"lost:{name}/n"))  # up to where it was trimmed unread
            slow = "reads too slowly: entries were trimmed unread, as the stream had grown to publish.keep_mib"
            self._alarms.set(
                AlarmKind.GROUP_LOST.of(name), lost, f"consumer group {name} {slow if lost else 'has passed what was trimmed'}"
            )
        for alarm in self._alarms.named("group_"):
            if (group := alarm.split(":", 1)[1]) not in groups:
                self._alarms.set(alarm, False, f"consumer group {group} is gone")

    def _trim(self, client: Any, place: StreamId) -> None:
        client.xtrim(self._stream, minid=f"{place[0]}-{place[1]}", approximate=True)

    def _position(self, client: Any, group: dict[str, Any]) -> StreamId:
        """First entry that a group still needs."""
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
        idle = "has read nothing for a day: it no longer keeps entries from being trimmed; delete it if nobody uses it"
        self._alarms.set(AlarmKind.GROUP_IDLE.of(name), still, f"consumer group {name} {idle if still else 'reads again'}")
        return still

    def _too_much(self, client: Any) -> StreamId | None:
        """The first entry that may stay where the stream takes more memory than it may; None: it does not."""
        if self._keep_bytes is None:
            return None
        used, length = client.memory_usage(self._stream) or 0, client.xlen(self._stream)
        if used <= self._keep_bytes:
            return None
        return self._ids.first_confirmed_behind(self._feed.sent - max(1, int(length * self._keep_bytes * _ROOM / used)))


def _text(name: bytes | str) -> str:
    return name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
