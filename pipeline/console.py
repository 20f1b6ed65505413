"""What a person sees: events and news as lines, a progress line on a terminal, the ledger at the end, the status table."""

import itertools
import sys
import time
from typing import Any

from pipeline.client import Events
from pipeline.config import Config
from pipeline.errors import LinepipeError

EVENTS_PER_TICK = 4  # shown; the rest is counted
EVENTS_LOOKED_AT = 1000  # per tick


class Console:
    """Output of ``linepipe run``. A slow or absent Redis costs it its event lines, nothing else."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._terminal = sys.stderr.isatty()
        self._stream: Events | None = None
        self._last_id = ""
        self._retry_at = 0.0

    def say(self, text: str) -> None:
        """One line of news."""
        self._clear()
        print(text, flush=True)

    def tick(self, status: dict[str, Any]) -> None:
        """Show new events; on a terminal also where things stand."""
        for line in self._new_events():
            self.say(line)
        if self._terminal:
            sys.stderr.write("\r\x1b[K" + progress_line(status))
            sys.stderr.flush()

    def close(self, summary: dict[str, Any]) -> None:
        """Print the ledger."""
        if self._stream is not None:
            self._stream.__exit__()
        self._clear()
        for line in ledger_lines(summary):
            print(line)
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _new_events(self) -> list[str]:
        if time.monotonic() < self._retry_at:
            return []
        try:
            if self._stream is None:
                self._stream = Events.of_line(self._config)
                self._last_id = self._stream.last_id()
            newest = self._stream.last_id()
            found = itertools.islice(self._stream.read(f"({self._last_id}", newest), EVENTS_LOOKED_AT)
            lines = [printable(event_line(event)) for event in found if event["type"] != "coverage"]
            self._last_id = newest
            more = len(lines) - EVENTS_PER_TICK
            return lines[:EVENTS_PER_TICK] + ([f"  ... and {more} more events"] if more > 0 else [])
        except LinepipeError:
            self._retry_at = time.monotonic() + 5.0
            return []


def printable(text: str) -> str:
    """Control characters escaped: a file name may hold anything."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def event_line(event: dict[str, Any]) -> str:
    """One event for a person."""
    if event["type"] == "defect":
        where = event["source"] or (f"{event['position_m']:.3f} m" if event["position_m"] is not None else f"frame {event['frame']}")
        return f"  defect  {event['camera']}  {where}  {event['label']}  {event['score']:.3f}  box {event['box_px']} px"
    if event["type"] == "gap":
        last = "?" if event["last"] is None else event["last"]
        return f"  gap     {event['camera']}  frames {event['first']} to {last} not inspected: {event['reason']} {event['source'] or ''}"
    return f"  alarm   {event['name']}: {event['text']}"


def progress_line(status: dict[str, Any]) -> str:
    """Where a running line stands, in one line."""
    parts = [status["phase"]]
    for name, camera in status["cameras"].items():
        parts.append(f"{name}: {camera['acquired']} acquired, {camera['inspected']} inspected")
        parts += [f"{sum(camera[kind].values())} {kind}" for kind in ("dropped", "invalid") if camera[kind]]
    parts.append(f"{status['events'].get('defect', 0)} defects")
    if status["spool"]["backlog"]:
        parts.append(f"{status['spool']['backlog']} events wait for Redis")
    return " | ".join(parts)


def ledger_lines(summary: dict[str, Any]) -> list[str]:
    """The ledger and the main figures, at the end of a run."""
    lines = [f"line {summary['line']}: {summary['duration_s']:.1f} s, engine {summary['engine']}"]
    for name, c in summary["cameras"].items():
        dropped, invalid = _reasons(c["dropped"]), _reasons(c["invalid"])
        lines.append(
            f"  {name}: acquired {c['acquired']} = inspected {c['inspected']} + dropped {dropped} + invalid {invalid}"
            f" + in flight {c['in_flight']}"
        )
    lines.append("  events: " + ", ".join(f"{kind} {n}" for kind, n in summary["events"].items()))
    total, rate = summary["latency_ms"]["total"], summary["throughput"]
    latency = "" if total["p50"] is None else f"; frame to Redis p50 {total['p50']} ms, p99 {total['p99']} ms"
    lines.append(f"  {rate['frames_per_s']} frames/s, {rate['tiles_per_s']} tiles/s{latency}")
    if summary["restarts"]:
        lines.append("  restarts: " + ", ".join(f"{name} {n}" for name, n in summary["restarts"].items()))
    return lines


def status_table(status: dict[str, Any]) -> Any:
    """The status of a line as rich tables."""
    from rich.console import Group
    from rich.table import Table

    phase = status["phase"] if status["running"] else f"not running, last seen {status['phase']}"
    title = f"line {status['line']}: {phase}, {status['duration_s']} s"
    nodes = Table("node", "state", "pid", "restarts", "refused", "why it does not run")
    for name, node in status["nodes"].items():
        nodes.add_row(name, node["state"], str(node["pid"] or ""), str(node["restarts"]), str(node.get("refused", 0)), _why(node))
    ledger = Table("camera", "acquired", "inspected", "dropped", "invalid", "in flight")
    for name, c in status["cameras"].items():
        ledger.add_row(name, str(c["acquired"]), str(c["inspected"]), _reasons(c["dropped"]), _reasons(c["invalid"]), str(c["in_flight"]))
    latency = Table("latency, ms", "p50", "p99")
    for stage, quantiles in status["latency_ms"].items():
        latency.add_row(stage, str(quantiles["p50"] or "-"), str(quantiles["p99"] or "-"))
    events = ", ".join(f"{kind} {n}" for kind, n in status["events"].items()) or "none yet"
    text = (
        f"engine {status['engine'] or '-'}, {status['throughput']['frames_per_s']} frames/s; events: {events}\n"
        f"Redis {status['redis']['url']}: {status['spool']['redis'] or '-'}; {status['spool']['backlog'] or 0} events wait in the spool"
    )
    if refused := status.get("refused"):
        text += f"\nthe supervisor refused {refused} messages that no node of the line sends"
    return Group(title, nodes, ledger, latency, text)


def _why(node: dict[str, Any]) -> str:
    reason, retry_s = printable(node.get("reason") or ""), node.get("retry_in_s")
    return reason if retry_s is None or not reason else f"{reason} (next try in {retry_s:.0f} s)"


def _reasons(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return f"{total} ({', '.join(f'{reason} {n}' for reason, n in counts.items())})" if counts else "0"
