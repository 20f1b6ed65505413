"""The life of a node's process: signals, the context its entry point gets, heartbeats, exit code."""

import errno
import logging
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pipeline.config import Config
from pipeline.config.topology import Endpoints, Process, make_private, runtime_dir
from pipeline.core.errors import LinepipeError
from pipeline.core.status import Facts, NodeState
from pipeline.system.files import keep_private
from pipeline.transport.messages import BOOT, Heartbeat
from pipeline.transport.sockets import Dealer

BEAT_NS = 250_000_000
MOST_WORDS = 10_000
DRAIN_S = 20.0
"""How long a node that was asked to stop may take to finish its frames or records."""


class NodeContext:
    """What an entry point works with: configuration, addresses, whether to stop, the heartbeat. ``folder`` is that of the sockets."""

    def __init__(
        self,
        config: Config,
        process: Process,
        folder: Path,
        *,
        ring_fd: int | None = None,
        frames: int | None = None,
        model: str | None = None,
    ) -> None:
        self.config, self.process = config, process
        self.endpoints = Endpoints(folder)
        self.ring_fd = ring_fd
        """Descriptor of the ring's memfd, empty or with the ring of an earlier capture process; None if the node makes its own."""
        self.frames = frames
        """Capture ends after this many frames; None for no such limit."""
        self.model = model
        """Digest of the model file with which the line began; None if any file will do."""
        self.log = logging.getLogger(process.name)
        self._stop_ns: int | None = None
        self._progress = 0
        self._next_ns = 0
        self._dealer = Dealer(self.endpoints.supervisor)

    @property
    def stopping(self) -> bool:
        """Whether this node has been asked to stop: it takes nothing new and finishes what it has."""
        return self._stop_ns is not None

    @property
    def out_of_time(self) -> bool:
        """Whether finishing has taken longer than ``DRAIN_S``."""
        return self._stop_ns is not None and time.monotonic_ns() - self._stop_ns > DRAIN_S * 1e9

    def stop(self) -> None:
        """Ask the node to stop; the second call ends the process at once, with exit code 130."""
        if self._stop_ns is not None:
            os._exit(130)
        self._stop_ns = time.monotonic_ns()

    def beat(self, state: NodeState, facts: Callable[[], Facts] = Facts, *, now: bool = False) -> None:
        """Send the heartbeat if it is due (every ``BEAT_NS``) or ``now`` is set; to be called in each turn of the work loop.

        ``facts`` is called only then. Never blocks; a heartbeat that finds the queue full is lost.
        """
        self._progress += 1
        stamp = time.monotonic_ns()
        if now or stamp >= self._next_ns:
            self._next_ns = stamp + BEAT_NS
            self._send(state, facts())

    def fail(self, error: str) -> None:
        """Send the last heartbeat of a node that cannot go on; the supervisor shows ``error``, of which 10 000 characters are sent."""
        self._send(NodeState.FAILED, Facts(error=error[:MOST_WORDS]))

    def _send(self, state: NodeState, facts: Facts) -> None:
        self._dealer.send(Heartbeat(node=self.process.name, pid=os.getpid(), boot=BOOT, state=state, progress=self._progress, facts=facts))

    def close(self) -> None:
        """Close the socket; the last heartbeat may take 0.5 s more, in the background."""
        self._dealer.close(flush_ms=500)


class Work(Protocol):
    """What a node does, turn by turn; ``run_loop`` calls it, from one thread."""

    @property
    def state(self) -> NodeState:
        """What the node does now, for its heartbeat."""
        ...

    def turn(self) -> bool:
        """One pass over all that has come and is due, without waiting; returns False when everything is done."""
        ...

    def wait(self) -> None:
        """Wait until something comes or is due; much less than a second, because the heartbeat is sent between two waits."""
        ...

    def facts(self) -> Facts:
        """What the node reports of itself in its heartbeat."""
        ...

    def close(self) -> None:
        """Close sockets and files, end threads. Called once, also after an error."""
        ...


def run_loop(node: NodeContext, work: Work) -> None:
    """The work loop of every node: turn, heartbeat, wait, until everything is done. Errors of ``work`` pass through, after its close."""
    try:
        while work.turn():
            node.beat(work.state, work.facts)
            work.wait()
        node.beat(NodeState.ENDED, work.facts, now=True)
    finally:
        work.close()


def run_node(
    config: Config,
    process: Process,
    *,
    sockets: Path | None = None,
    ring_fd: int | None = None,
    frames: int | None = None,
    model: str | None = None,
    drain: bool = False,
) -> int:
    """Run one node in this process until it ends; returns the exit code: 0, that of the ``LinepipeError`` that ended it, or 1.

    ``sockets`` is the folder of the run to which it belongs; None for a node that is run by itself. The next three are as in
    ``NodeContext``. With ``drain`` it only finishes what an earlier life left. Must be called from the main thread: it installs
    handlers for SIGTERM and SIGINT, sets the umask, and sets up logging to stderr. Raises ``ConfigError`` if the folder of the sockets
    cannot be used.
    """
    keep_private()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s {process.name} %(levelname)s %(message)s")
    folder = runtime_dir(config) if sockets is None else make_private(sockets)
    node = NodeContext(config, process, folder, ring_fd=ring_fd, frames=frames, model=model)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: node.stop())
    if drain:
        node.stop()
    try:
        node.beat(NodeState.STARTING, now=True)
        pkgutil.resolve_name(process.entry)(node)
    except LinepipeError as exc:
        node.log.error("%s", exc)
        node.fail(str(exc))
        return exc.exit_code
    except Exception as exc:
        if (shortage := _shortage(exc)) is not None:
            node.log.error("%s", shortage)
        else:
            node.log.exception("ended by an error that is linepipe's own; please report it")
        node.fail(shortage or f"{type(exc).__name__}: {exc}")
        return 1
    finally:
        node.close()
    return 0


def _shortage(exc: Exception) -> str | None:
    """What the machine has too little of, and what to do; None if the error is of another kind."""
    if isinstance(exc, MemoryError):
        return f"not enough memory: {exc}. Make frames or rings smaller"
    if getattr(exc, "errno", None) in (errno.EMFILE, errno.ENFILE):  # of the system or of ZeroMQ
        return "no file descriptors are left: raise the limit (ulimit -n)"
    return None
