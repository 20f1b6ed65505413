"""A plant's program as it was written against events of version 1; never changed, so that it shows what old readers see.

It knows nothing of linepipe: lines of JSON come in, one sentence for each event goes out.
"""

import json
import sys
from typing import Any

MEANING = {"full": "the line was too slow", "shutdown": "the line was stopped", "capture_died": "capture died"}


def sentence(event: dict[str, Any]) -> str:
    if event["v"] != 1:
        raise SystemExit(f"version {event['v']}")
    kind = event["type"]
    if kind == "defect":
        x, y, width, height = event["box_px"]
        where = "" if event["position_m"] is None else f" at {event['position_m']:.2f} m"
        best = max(event["scores"], key=event["scores"].get)
        what = f"{event['label']} {event['score']:.2f} ({best}) {width}x{height}+{x}+{y}{where}"
        return f"{event['camera']} {event['frame']}: {what} by {event['model']['name']}"
    if kind == "gap":
        last = "?" if event["last"] is None else event["last"]
        return f"{event['camera']} {event['first']}-{last} not inspected: {MEANING.get(event['reason'], event['reason'])}"
    if kind == "coverage":
        lost = sum(event["dropped"].values()) + sum(event["invalid"].values())
        assert event["acquired"] == event["inspected"] + lost + event["in_flight"]
        return f"{event['camera']}: {event['inspected']} of {event['acquired']}"
    if kind == "alarm":
        return f"{event['name']} {'on' if event['active'] else 'off'}: {event['text']}"
    return f"of a later version: {kind}"


for line in sys.stdin:
    sys.stdout.write(sentence(json.loads(line)) + "\n")
