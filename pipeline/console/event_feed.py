"""New events as lines of text, read from Redis in a thread of its own: trouble with Redis costs event lines, nothing else."""

import itertools
import threading
from collections.abc import Callable
from typing import Any

from pipeline.client import Events
from pipeline.core.errors import LinepipeError

LOOK_S = 0.5
RETRY_S = 5.0
EVENTS_PER_LOOK = 4  # shown; the rest is counted
EVENTS_LOOKED_AT = 1000  # per look


class EventFeed:
    """Passes new events of a line's stream to ``say``, as lines of text, from the first look on (``LOOK_S`` after the start).

    ``connect`` is called in the feed's thread, and again after an error; ``say`` is called there too. The constructor starts the thread.
    """

    def __init__(self, connect: Callable[[], Events], say: Callable[[str], None]) -> None:
        self._connect, self._say = connect, say
        self._events: Events | None = None
        self._last_id = ""
        self._odd = 0
        self._trouble = ""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Look once more and end the thread; waits up to ``timeout_s``. A thread that takes longer is left to itself."""
        self._ending.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        wait_s = LOOK_S
        while not self._ending.wait(wait_s):
            wait_s = LOOK_S if self._look() else RETRY_S
        self._look()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._events is not None:
            self._events.__exit__()
            self._events = None

    def _look(self) -> bool:
        """Show what came since the last look; False when that did not work."""
        try:
            if self._events is None:
                self._events, self._odd = self._connect(), 0
                self._last_id = self._last_id or self._events.last_id()
            for line in self._new_lines(self._events):
                self._say(line)
        except LinepipeError as exc:  # only that events are not shown: publish raises the alarm
            self._complain(str(exc))
        except Exception as exc:  # a line must not depend on what the server answers
            self._complain(f"{type(exc).__name__}: {exc}")
        else:
            self._trouble = ""
            return True
        return False

    def _complain(self, trouble: str) -> None:
        self._hang_up()  # the next server may have another address
        if not self._trouble:
            self._say(f"events cannot be shown: {trouble}; the line runs on")
        self._trouble = trouble

    def _new_lines(self, events: Events) -> list[str]:
        found = list(itertools.islice(events.read(f"({self._last_id}"), EVENTS_LOOKED_AT))
        self._last_id = events.last_id() if len(found) == EVENTS_LOOKED_AT else events.position or self._last_id
        lines = [event_line(event) for event in found if event["type"] != "coverage"]
        more = len(lines) - EVENTS_PER_LOOK
        shown = lines[:EVENTS_PER_LOOK] + ([f"  ... and {more} more events"] if more > 0 else [])
        if events.odd > self._odd:
            shown.append(f"  odd     {events.odd - self._odd} entries of the stream are no events; the last: {events.last_odd}")
            self._odd = events.odd
        return shown


def event_line(event: dict[str, Any]) -> str:
    """One event as a line of text. Never raises: other clients may write to the stream, and what cannot be shown is ``odd``."""
    try:
        return _LINES[event["type"]](event)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
        return f"  odd     {str(event)[:200]}"


def _defect(event: dict[str, Any]) -> str:
    where = event["source"] or (f"{event['position_m']:.3f} m" if event["position_m"] is not None else f"frame {event['frame']}")
    return f"  defect  {event['camera']}  {where}  {event['label']}  {event['score']:.3f}  box {event['box_px']} px"


def _gap(event: dict[str, Any]) -> str:
    last = "?" if event["last"] is None else event["last"]
    return f"  gap     {event['camera']}  frames {event['first']} to {last} not inspected: {event['reason']} {event['source'] or ''}"


def _alarm(event: dict[str, Any]) -> str:
    return f"  alarm   {event['name']}: {event['text']}"


_LINES: dict[Any, Callable[[dict[str, Any]], str]] = {"defect": _defect, "gap": _gap, "alarm": _alarm}
