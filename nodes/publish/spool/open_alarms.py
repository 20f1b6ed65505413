"""Which alarms are on, stored together with the events that begin and end them, so that another process can end them."""

from contextlib import suppress

import msgspec

from nodes.publish.spool.database import Database
from pipeline.core.events import AlarmEvent, AlarmKind

ENDLESS = frozenset(
    {AlarmKind.REDIS_LOST, AlarmKind.REDIS_DAMAGED, AlarmKind.ENTRIES_DELETED, AlarmKind.SPOOL_DAMAGED, AlarmKind.FRAMES_UNACCOUNTED}
)
"""They report something that has happened, and have no end."""
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
"""Raised by publish, whose next process goes on with them. All others are the supervisor's or capture's, and end with the run."""
SINK_ALARMS = "sink_"
"""Alarms of sinks begin so, also those of other packages; the sink's name follows the colon. They are publish's own, too."""
_NOTED = "alarms"  # fact: the alarms of all events have been stored


class OpenAlarms:
    """The alarms that are on in a spool, also those whose first event was purged long ago.

    The constructor reads through all alarm events if the spool has no such list yet. Constructor and methods raise
    ``SpoolTroubleError`` and ``SpoolDamagedError``.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        if not database.fact(_NOTED):  # a spool of the version before, or one that was repaired
            with database.writing():
                for seq, data in database.rows("SELECT seq, data FROM events WHERE type = 'alarm' ORDER BY seq"):
                    with suppress(msgspec.MsgspecError, TypeError):  # damaged: the sinks report that when they read it
                        self.note(msgspec.json.decode(data, type=AlarmEvent), seq)
                database.set_fact(_NOTED, 1)

    def note(self, event: AlarmEvent, seq: int) -> None:
        """Store that an alarm began or ended. Must be called in the transaction in which the event with number ``seq`` is spooled."""
        if _kind(event.name) in ENDLESS:
            return
        if event.active:
            self._db.set_fact(f"alarm/{event.name}", seq)
        else:
            self._db.change("DELETE FROM facts WHERE name = ?", (f"alarm/{event.name}",))

    def names(self) -> set[str]:
        """Names of the alarms that are on."""
        return set(self._on())

    def left_by(self, seq: int) -> list[str]:
        """Names of the alarms that are on, are not publish's own, and began up to ``seq``: earlier runs left them."""
        return [name for name, began in self._on().items() if began <= seq and not _is_own(_kind(name))]

    def _on(self) -> dict[str, int]:
        found = self._db.rows("SELECT name, value FROM facts WHERE name GLOB 'alarm/*' ORDER BY value")
        return {name.partition("/")[2]: began for name, began in found}


def read_again(database: Database) -> None:
    """Discard the list, which may be damaged: the next ``OpenAlarms`` makes it again from the events."""
    database.change("DELETE FROM facts WHERE name = ?", (_NOTED,))


def _is_own(kind: str) -> bool:
    return kind in OWN or kind.startswith(SINK_ALARMS)


def _kind(name: str) -> str:
    return name.partition(":")[0]
