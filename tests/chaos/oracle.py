"""What must hold after a disturbed run, told from outside: from the spool's file, the server's stream and the ledger."""

import json
import sqlite3
from collections import Counter, defaultdict
from typing import Any, cast

import psutil

from tests.chaos.faults import STREAM, client
from tests.conftest import Server
from tests.system.line import Line


def violations(line: Line, server: Server, summary: dict[str, Any], accepted: list[dict[str, Any]]) -> list[str]:
    """Everything that is wrong with a run that accepted these events; empty: every promise held."""
    stream = cast(list[tuple[bytes, dict[bytes, bytes]]], client(server).xrange(STREAM))
    entries = [json.loads(fields[b"data"]) for _, fields in stream if b"data" in fields]
    return [*_delivered(spooled(line), entries), *_accounted(accepted, summary), *_left(line), *_quiet(line)]


def spooled(line: Line) -> list[dict[str, Any]]:
    """Every event that was accepted, in order."""
    db = sqlite3.connect(line.state / "spool" / "events.db")
    try:
        return [json.loads(data) for (data,) in db.execute("SELECT data FROM events ORDER BY seq")]
    finally:
        db.close()


def _delivered(events: list[dict[str, Any]], entries: list[dict[str, Any]]) -> list[str]:
    """Nothing is missing, nothing is invented, and each camera's events come in order."""
    accepted, there = [e["id"] for e in events], {e["id"] for e in entries}
    found = []
    if missing := [event for event in accepted if event not in there]:
        kinds = Counter(e["type"] for e in events if e["id"] in set(missing))
        found.append(f"{len(missing)} of {len(accepted)} accepted events are not in the stream: {dict(kinds)}")
    if spurious := there - set(accepted):
        found.append(f"{len(spurious)} events are in the stream and were never accepted")
    # What Redis lost is sent again, so an event may be there twice. A reader that drops known ids sees the first, one
    # that came after the loss sees the last.
    first, last = list(dict.fromkeys(e["id"] for e in entries)), list(dict.fromkeys(e["id"] for e in reversed(entries)))[::-1]
    wanted = [event for event in accepted if event in there]
    if wanted not in (first, last):
        found.append("the stream is not in the spool's order")
    return found


def _accounted(events: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    """The ledger balances, and every acquired frame has exactly one fate."""
    camera = summary["cameras"]["top"]
    counted = {"inspected": camera["inspected"], **camera["dropped"], **camera["invalid"]}
    found = []
    if camera["in_flight"] or camera["acquired"] != sum(counted.values()) or min(counted.values()) < 0:
        found.append(f"the ledger does not balance: {camera}")
    fates: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event["type"] == "defect":
            fates[event["frame"]].append("inspected")
        elif event["type"] == "gap" and event["last"] is not None:
            for frame in range(event["first"], event["last"] + 1):
                fates[frame].append(event["reason"])
    if double := {frame: fate for frame, fate in fates.items() if len(fate) > 1}:
        found.append(f"{len(double)} frames have two fates: {dict(list(double.items())[:5])}")
    if none := [frame for frame in range(camera["acquired"]) if frame not in fates]:
        found.append(f"{len(none)} acquired frames have no fate: {none[:10]}")
    if beyond := [frame for frame in fates if frame >= camera["acquired"]]:
        found.append(f"frames that were never acquired have a fate: {beyond[:10]}")
    told = Counter(fate[0] for fate in fates.values() if len(fate) == 1)
    if not found and told != Counter({name: n for name, n in counted.items() if n}):
        found.append(f"events tell {dict(told)}, the ledger {counted}")
    return found


def _left(line: Line) -> list[str]:
    """No process of the line is left."""
    mine = [
        " ".join(process.info["cmdline"])
        for process in psutil.process_iter(["cmdline"])
        if str(line.state) in " ".join(process.info["cmdline"] or []) or str(line.config) in " ".join(process.info["cmdline"] or [])
    ]
    return [f"processes are left: {mine}"] if mine else []


def _quiet(line: Line) -> list[str]:
    return ["a traceback in the log"] if "Traceback" in line.log else []
