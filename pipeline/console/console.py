"""What a person sees: events and news as lines, a progress line on a terminal, the ledger at the end, the status table."""

import os
import signal
import sys
from typing import Any

from pipeline.client import Events
from pipeline.config import Config
from pipeline.console.event_feed import EventFeed
from pipeline.console.output import Output, Relay, printable
from pipeline.core.status import LineStatus, NodeStatus, Phase, Summary

LAST_LOOK_S = 1.0
"""How long the last look at new events may take, at the end of a run."""
FLUSH_S = 1.0
"""How long each of stdout, stderr and the relay of stderr is waited for at the end, if it hangs."""


class Console:
    """Output of ``linepipe run``, as a context manager. Whatever stdout, stderr or Redis do, nothing here raises.

    Nothing blocks, except at the end: ``tick`` waits once for the last events, and leaving the context for what is not written yet.
    While it is open, it takes over descriptor 2 of this process, and ignores SIGTTOU from then on.
    """

    def __init__(self, config: Config) -> None:
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a terminal set to `tostop` would stop a line in the background
        self._config = config
        self._stderr = os.dup(2)
        self._terminal = os.isatty(self._stderr)
        self._err = Output(self._stderr, _encoding(sys.stderr))
        together = self._terminal and os.isatty(1)  # one terminal: lines and progress must not mix
        self._out = self._err if together else Output(1, _encoding(sys.stdout), self._note_broken)
        self._relay = Relay(self._err, self._stderr)
        self._feed: EventFeed | None = None

    def say(self, text: str) -> None:
        """Print a text on stdout, line by line; it is written by another thread."""
        for line in text.splitlines():
            self._out.line(line)

    def tick(self, status: LineStatus) -> None:
        """Take the status: on a terminal show it as a progress line. The first call begins to show events.

        With the phase ``ended`` or ``failed`` it shows the last events instead, and waits up to ``LAST_LOOK_S`` for Redis.
        """
        if self._feed is None:
            self._feed = EventFeed(lambda: Events.of_line(self._config), self.say)
        if status.phase in (Phase.ENDED, Phase.FAILED):
            self._feed.finish(LAST_LOOK_S)
        elif self._terminal:
            self._err.progress(progress_line(status))

    def ledger(self, summary: Summary | None) -> None:
        """Print the ledger and the main figures; nothing if the line never began and there is no summary."""
        for line in ledger_lines(summary) if summary is not None else []:
            self._out.line(line)

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        """Give stderr back, and wait for what is not written yet: up to ``FLUSH_S`` for each output and for the relay."""
        if self._terminal:
            self._err.progress("")
        self._relay.close(FLUSH_S)
        for output in {self._out, self._err}:
            output.close(FLUSH_S)

    def _note_broken(self, why: str) -> None:
        self._err.line(
            f"linepipe: stdout cannot be written ({why}); the line runs on, its summary goes to {self._config.state}/summary.json"
        )


def _encoding(stream: Any) -> str:
    """A stream is None where its descriptor was closed."""
    return getattr(stream, "encoding", None) or "utf-8"


def progress_line(status: LineStatus) -> str:
    """The main figures of a running line, in one line of text."""
    parts = [str(status.phase)]
    for name, camera in status.cameras.items():
        parts.append(f"{name}: {camera.acquired} acquired, {camera.inspected} inspected")
        parts += [f"{sum(n.values())} {kind}" for kind, n in (("dropped", camera.dropped), ("invalid", camera.invalid)) if n]
    parts.append(f"{status.events.get('defect', 0)} defects")
    if status.spool.backlog:
        parts.append(f"{status.spool.backlog} events wait for Redis")
    parts += [f"{sink.backlog} events wait for {name}" for name, sink in status.sinks.items() if sink.backlog]
    return " | ".join(parts)


def ledger_lines(summary: Summary) -> list[str]:
    """The ledger and the main figures of a run, as lines of text."""
    lines = [f"line {summary.line}: {summary.duration_s:.1f} s, engine {summary.engine}"]
    for name, c in summary.cameras.items():
        dropped, invalid = _reasons(c.dropped), _reasons(c.invalid)
        lines.append(
            f"  {name}: acquired {c.acquired} = inspected {c.inspected} + dropped {dropped} + invalid {invalid} + in flight {c.in_flight}"
        )
    lines.append("  events: " + ", ".join(f"{kind} {n}" for kind, n in summary.events.items()))
    total, rate = summary.latency_ms["total"], summary.throughput
    latency = "" if total.p50 is None else f"; frame to Redis p50 {total.p50} ms, p99 {total.p99} ms"
    lines.append(f"  {rate.frames_per_s} frames/s, {rate.tiles_per_s} tiles/s{latency}")
    if summary.restarts:
        lines.append("  restarts: " + ", ".join(f"{name} {n}" for name, n in summary.restarts.items()))
    if summary.spool.backlog:
        lines.append(f"  {summary.spool.backlog} events wait in the spool for Redis")
    lines += [f"  {sink.backlog} events wait in the spool for {name}" for name, sink in summary.sinks.items() if sink.backlog]
    return lines


def status_table(status: LineStatus) -> Any:
    """The status of a line as tables of rich, for ``rich.console.Console.print``; imports rich."""
    from rich.console import Group
    from rich.table import Table

    phase = status.phase if status.running else f"not running, last seen {status.phase}"
    title = f"line {status.line}: {phase}, {status.duration_s} s"
    nodes = Table("node", "state", "pid", "restarts", "refused", "why it does not run")
    for name, node in status.nodes.items():
        nodes.add_row(name, node.state, str(node.pid or ""), str(node.restarts), str(node.refused), _why(node))
    ledger = Table("camera", "acquired", "inspected", "dropped", "invalid", "in flight")
    for name, c in status.cameras.items():
        ledger.add_row(name, str(c.acquired), str(c.inspected), _reasons(c.dropped), _reasons(c.invalid), str(c.in_flight))
    latency = Table("latency, ms", "p50", "p99")
    for stage, quantiles in status.latency_ms.items():
        latency.add_row(stage, str(quantiles.p50 or "-"), str(quantiles.p99 or "-"))
    events = ", ".join(f"{kind} {n}" for kind, n in status.events.items()) or "none yet"
    text = (
        f"engine {status.engine or '-'}, {status.throughput.frames_per_s} frames/s; events: {events}\n"
        f"Redis {status.redis.url}: {status.spool.redis or '-'}; {status.spool.backlog or 0} events wait in the spool"
    )
    for name, sink in status.sinks.items():
        text += f"\nsink {name}: {sink.state}; {sink.backlog} events wait in the spool"
    if status.refused:
        text += f"\nthe supervisor refused {status.refused} messages that no node of the line sends"
    return Group(title, nodes, ledger, latency, text)


def _why(node: NodeStatus) -> str:
    reason, retry_s = printable(node.reason or ""), node.retry_in_s
    return reason if retry_s is None or not reason else f"{reason} (next try in {retry_s:.0f} s)"


def _reasons(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    return f"{total} ({', '.join(f'{reason} {n}' for reason, n in counts.items())})" if counts else "0"
