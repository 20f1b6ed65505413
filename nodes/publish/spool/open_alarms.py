"""Which alarms are on, noted with the events that begin and end them: so what one process began another ends."""

from contextlib import suppress

import msgspec

from nodes.publish.spool.database import Database
from pipeline.core.events import AlarmEvent, AlarmKind

ENDLESS = frozenset(
    {AlarmKind.REDIS_LOST, AlarmKind.REDIS_DAMAGED, AlarmKind.ENTRIES_DELETED, AlarmKind.SPOOL_DAMAGED, AlarmKind.FRAMES_UNACCOUNTED}
)
"""They tell of what has happened and have no end."""
OWN = frozenset(
    {
        AlarmKind.REDIS_AWAY,
        AlarmKind.FOREIGN_ENTRIES,
        AlarmKind.CHANNEL_REFUSED,
        AlarmKind.STREAM_NOT_TRIMMED,
        AlarmKind.GROUP_IDLE,
        AlarmKind.GROUP_LOST,
        AlarmKind.DISK_FULL,
        AlarmKind.SPOOL_STUCK,
        AlarmKind.IMAGE_NOT_KEPT,
    }
)
"""Raised by publish: its next life goes on with them. All others are the supervisor's or capture's, and end with the run."""
SINK_ALARMS = "sink_"
"""So begin the kinds of alarms of sinks, also of other packages; the name of the sink follows the colon. Publish's own, too."""
_NOTED = "alarms"  # fact: what the events say is noted


class OpenAlarms:
    """The alarms that are on in a spool; the beginning of one may be long purged."""

    def __init__(self, database: Database) -> None:
        self._db = database
        if not database.fact(_NOTED):  # a spool of the version before, or one that was repaired
            with database.writing():
                for seq, data in database.rows("SELECT seq, data FROM events WHERE type = 'alarm' ORDER BY seq"):
                    with suppress(msgspec.MsgspecError, TypeError):  # damaged: that is told where it is sent
                        self.note(msgspec.json.decode(data, type=AlarmEvent), seq)
                database.set_fact(_NOTED, 1)

    def note(self, event: AlarmEvent, seq: int) -> None:
        """Part of the transaction in which the event is spooled."""
        if _kind(event.name) in ENDLESS:
            return
        if event.active:
            self._db.set_fact(f"alarm/{event.name}", seq)
        else:
            self._db.change("DELETE FROM facts WHERE name = ?", (f"alarm/{event.name}",))

    def names(self) -> set[str]:
        """Those that are on."""
        return set(self._on())

    def left_by(self, seq: int) -> list[str]:
        """Those of supervisors, begun up to ``seq``."""
        return [name for name, began in self._on().items() if began <= seq and not _is_own(_kind(name))]

    def _on(self) -> dict[str, int]:
        found = self._db.rows("SELECT name, value FROM facts WHERE name GLOB 'alarm/*' ORDER BY value")
        return {name.partition("/")[2]: began for name, began in found}


def read_again(database: Database) -> None:
    """Have the next opening look through the events: what was noted may be damaged."""
    database.change("DELETE FROM facts WHERE name = ?", (_NOTED,))


def _is_own(kind: str) -> bool:
    return kind in OWN or kind.startswith(SINK_ALARMS)


def _kind(name: str) -> str:
    return name.partition(":")[0]
