"""One event as a line for a person. Pure."""

from collections.abc import Callable
from typing import Any


def event_line(event: dict[str, Any]) -> str:
    """Never raises: whoever may write to the stream decides what an event holds."""
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
