"""What a run says of itself: the summary (a public contract) and the live status. Pure."""

from typing import Any

import msgspec

from pipeline.child import Child
from pipeline.config import Config
from pipeline.events import TYPES
from pipeline.ledger import Account
from pipeline.metrics import Histogram
from pipeline.topology import PUBLISH

STAGES = ("total", "capture", "preprocess", "infer", "publish")


def summary(
    config: Config, children: list[Child], accounts: dict[str, Account], epochs: dict[str, list[str]], duration_s: float, url: str
) -> dict[str, Any]:
    """The summary of a run, as ``--summary`` writes it."""
    publish = next(c for c in children if c.name == PUBLISH)
    tiles = sum(life.get("tiles", 0) for life in publish.lives.values())
    inspected = sum(a.inspected for a in accounts.values())
    return {
        "line": config.line,
        "duration_s": round(duration_s, 3),
        "cameras": {name: {"epochs": epochs.get(name, []), **msgspec.to_builtins(account)} for name, account in accounts.items()},
        "events": {kind: publish.facts.get("events", {}).get(kind, 0) for kind in TYPES},
        "throughput": {"frames_per_s": _rate(inspected, duration_s), "tiles_per_s": _rate(tiles, duration_s)},
        "latency_ms": _latency(publish),
        "restarts": {c.name: c.restarts for c in children if c.restarts},
        "engine": next((c.facts["engine"] for c in children if "engine" in c.facts), None),
        "redis": {"url": url, "stream": config.stream},
    }


def status(
    config: Config, children: list[Child], accounts: dict[str, Account], duration_s: float, url: str, phase: str, awake_ns: int
) -> dict[str, Any]:
    """What ``linepipe status`` shows."""
    publish = next(c for c in children if c.name == PUBLISH)
    return {
        "line": config.line,
        "phase": phase,
        "duration_s": round(duration_s, 1),
        "nodes": {c.name: _node(c, awake_ns) for c in children},
        "cameras": {name: msgspec.to_builtins(account) for name, account in accounts.items()},
        "events": publish.facts.get("events", {}),
        "spool": {"backlog": publish.facts.get("backlog"), "redis": publish.facts.get("redis")},
        "throughput": {"frames_per_s": _rate(sum(a.inspected for a in accounts.values()), duration_s)},
        "latency_ms": _latency(publish),
        "engine": next((c.facts["engine"] for c in children if "engine" in c.facts), None),
        "redis": {"url": url, "stream": config.stream},
    }


def _node(child: Child, awake_ns: int) -> dict[str, Any]:
    retry_s = child.retry_in_s(awake_ns)
    return {
        "state": child.state,
        "pid": child.pid,
        "restarts": child.restarts,
        "reason": child.reason or None,
        "retry_in_s": None if retry_s is None else round(retry_s, 1),
        "refused": sum(life.get("refused", 0) for life in child.lives.values()),
    }


def _latency(publish: Child) -> dict[str, dict[str, float | None]]:
    found = {}
    for stage in STAGES:
        histogram = Histogram()
        for life in publish.lives.values():
            histogram.merge(life.get("latency", {}).get(stage, {}))
        found[stage] = {"p50": _rounded(histogram.quantile_ms(0.5)), "p99": _rounded(histogram.quantile_ms(0.99))}
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 2) if seconds > 0 else 0.0
