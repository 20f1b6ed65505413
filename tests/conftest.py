"""What tests share: the real images, small images, servers. A test that needs something missing skips."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.redis.server import server_program

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """Programs that tests start find the package in ``tests/installed``, as pytest itself does (``pythonpath``)."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT / "tests" / "installed"), os.environ.get("PYTHONPATH"))))
    if hasattr(config, "workerinput"):  # tests run side by side: threads of OpenMP would spin while they wait for each other
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the variants of a test that runs whole lines or commands, all but the first are ``long``: put the strongest first."""
    seen: set[str] = set()
    for item in items:
        name, _, variant = item.nodeid.partition("[")
        if name in seen and name.startswith(("tests/system/", "tests/chaos/")) and "other" not in variant:  # a server asked for by name
            item.add_marker(pytest.mark.long)
        seen.add(name if variant else "")


@pytest.fixture(scope="session", autouse=True)
def no_nohup_for_lines() -> None:
    """Lines that tests start do not inherit the ignored SIGHUP of a suite started by ``nohup``, which they would respect."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # programs that are started get the default


@pytest.fixture(scope="session")
def neu_dir() -> Path:
    """Folder of the NEU images; tests that need them skip where they are missing."""
    path = Path(os.environ.get("LINEPIPE_NEU_DIR", ROOT.parent / "shared" / "data" / "neu-det"))
    if not (path / "split.csv").is_file():
        pytest.skip("needs the NEU images: put them at ../shared/data/neu-det or name their folder in LINEPIPE_NEU_DIR")
    return path


@pytest.fixture
def make_images() -> Callable[..., list[Path]]:
    """Writes ``count`` grey JPEGs of noise into a folder: make_images(folder, count, size=64)."""

    def make(folder: Path, count: int, size: int = 64) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(1)
        paths = [folder / f"image_{k:04}.jpg" for k in range(count)]
        for path in paths:
            cv2.imwrite(str(path), rng.integers(0, 256, (size, size), np.uint8))
        return paths

    return make


class Server:
    """A real Redis-compatible server on 127.0.0.1 that tests may kill and start again with the same port and data."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        """Start and wait until it answers. Raises ``AssertionError`` with its log if it ends instead."""
        args = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--appendonly", "yes", "--save", ""]
        log = ["--logfile", str(self._folder / "server.log")]
        self._process = subprocess.Popen([self._program, *args, *log, *options], stdout=subprocess.DEVNULL)
        while self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=0.2) as peer:
                    peer.sendall(b"PING\r\n")
                    if peer.recv(16).startswith((b"+PONG", b"-NOAUTH")):
                        return
            except OSError:
                continue
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone; nothing happens if it was never started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self, seconds: float) -> None:
        """Stop the server for ``seconds`` by SIGSTOP: it is alive and answers nothing. Blocks for that time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove what the server has on disk."""
        shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        (self._folder / "appendonly.aof").unlink(missing_ok=True)  # where Redis 6.2 keeps it


@pytest.fixture(
    params=["valkey", pytest.param("redis", marks=pytest.mark.long), *(["other"] if "LINEPIPE_REDIS_SERVER" in os.environ else [])]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """The embedded Valkey and Debian's Redis 7.0, one after the other, and what LINEPIPE_REDIS_SERVER names (6.2, say)."""
    if request.param == "valkey":
        program: str | None = str(server_program())
    elif request.param == "other":
        program = os.environ["LINEPIPE_REDIS_SERVER"]
    else:
        program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server: apt-get install redis-server")
    folder = tmp_path / "redis"
    folder.mkdir()
    found = Server(program, folder)
    found.start()
    yield found
    found.kill()
