"""What is done to a running line and to its Redis. Each fault is over when its function returns."""

import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import redis

from tests.conftest import Server
from tests.system.line import Line

Fault = Callable[[Line, Server, random.Random], None]
STREAM = "linepipe:test:events"
DELETE = """
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 3)) do redis.call('XDEL', KEYS[1], entry[1]) end
"""


def client(server: Server) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=20)


def _signal(line: Line, node: str, number: int) -> int | None:
    """Send a signal to a node; None if it is being restarted, or the line has ended."""
    try:
        pid = line.pid(node)
        os.kill(pid, number)
    except (AssertionError, ProcessLookupError, psutil.NoSuchProcess):
        return None
    return pid


def kill_capture(line: Line, server: Server, rng: random.Random) -> None:
    _signal(line, "capture.top", signal.SIGKILL)


def kill_inspect(line: Line, server: Server, rng: random.Random) -> None:
    _signal(line, "inspect", signal.SIGKILL)


def kill_publish(line: Line, server: Server, rng: random.Random) -> None:
    _signal(line, "publish", signal.SIGKILL)


def kill_two(line: Line, server: Server, rng: random.Random) -> None:
    for node in rng.sample(["capture.top", "inspect", "publish"], 2):
        _signal(line, node, signal.SIGKILL)


def pause_a_node(line: Line, server: Server, rng: random.Random) -> None:
    pid = _signal(line, rng.choice(["capture.top", "inspect", "publish"]), signal.SIGSTOP)
    time.sleep(rng.uniform(0.2, 4.0))
    if pid is None:
        return
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:  # it was taken for hung, and killed
        pass


def kill_redis(line: Line, server: Server, rng: random.Random) -> None:
    server.kill()
    time.sleep(rng.uniform(0.1, 3.0))
    server.start()


def redis_restarts_empty(line: Line, server: Server, rng: random.Random) -> None:
    server.kill()
    server.wipe()
    time.sleep(rng.uniform(0.1, 2.0))
    server.start()


def hang_redis(line: Line, server: Server, rng: random.Random) -> None:
    server.pause(rng.uniform(0.5, 4.0))


def flush(line: Line, server: Server, rng: random.Random) -> None:
    client(server).flushall()


def delete_stream(line: Line, server: Server, rng: random.Random) -> None:
    client(server).delete(STREAM)


def delete_newest(line: Line, server: Server, rng: random.Random) -> None:
    """In one step: an entry deleted amid others, behind which the line has written meanwhile, is taken for a person's wish."""
    client(server).eval(DELETE, 1, STREAM)


def empty_and_somebody_writes(line: Line, server: Server, rng: random.Random) -> None:
    client(server).flushall()
    client(server).xadd(STREAM, {"hello": "world"})


def odd_entry(line: Line, server: Server, rng: random.Random) -> None:
    client(server).xadd(STREAM, {"hello": "world"})


def refuse_for_memory(line: Line, server: Server, rng: random.Random) -> None:
    asked = client(server)
    asked.config_set("maxmemory", "1")
    time.sleep(rng.uniform(0.5, 3.0))
    asked.config_set("maxmemory", "0")


def refuse_at_the_edge(line: Line, server: Server, rng: random.Random) -> None:
    """Memory ends within a group of entries, again and again."""
    asked = client(server)
    for _ in range(rng.randint(3, 12)):
        asked.config_set("maxmemory", str(asked.info("memory")["used_memory"] + rng.randint(0, 30_000)))
        time.sleep(rng.uniform(0.05, 0.4))
    asked.config_set("maxmemory", "0")


def refuse_as_replica(line: Line, server: Server, rng: random.Random) -> None:
    asked = client(server)
    for _ in range(rng.randint(1, 6)):
        asked.execute_command("REPLICAOF", "127.0.0.1", "1")
        time.sleep(rng.uniform(0.05, 0.5))
        asked.execute_command("REPLICAOF", "NO", "ONE")
        time.sleep(rng.uniform(0.0, 0.3))


def refuse_without_replicas(line: Line, server: Server, rng: random.Random) -> None:
    asked = client(server)
    asked.config_set("min-replicas-to-write", "1")
    time.sleep(rng.uniform(0.2, 3.0))
    asked.config_set("min-replicas-to-write", "0")


def cut_connections(line: Line, server: Server, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 5)):
        client(server).execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(rng.uniform(0.0, 0.5))


def lock_spool(line: Line, server: Server, rng: random.Random) -> None:
    """Somebody opens the spool with another program and keeps it locked."""
    held = sqlite3.connect(line.state / "spool" / "events.db", isolation_level=None, timeout=20.0)
    held.execute("BEGIN IMMEDIATE")
    time.sleep(rng.uniform(0.5, 3.0))
    held.execute("ROLLBACK")
    held.close()


def remove_notes(line: Line, server: Server, rng: random.Random) -> None:
    """Somebody tidies up: what the line wrote for others to read is gone."""
    Path(line.state, "status.json").unlink(missing_ok=True)


LOSING = (kill_redis, redis_restarts_empty, flush, delete_stream, delete_newest, empty_and_somebody_writes)
"""After these Redis may have less than it confirmed."""
FAULTS: tuple[Fault, ...] = (
    kill_capture,
    kill_inspect,
    kill_publish,
    kill_two,
    pause_a_node,
    kill_redis,
    redis_restarts_empty,
    hang_redis,
    flush,
    delete_stream,
    delete_newest,
    empty_and_somebody_writes,
    odd_entry,
    refuse_for_memory,
    refuse_at_the_edge,
    refuse_as_replica,
    refuse_without_replicas,
    cut_connections,
    lock_spool,
    remove_notes,
)
