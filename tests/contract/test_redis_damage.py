"""Damaged data of the embedded server keep no line from starting: what can be read is kept, the rest is set aside and told."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from pipeline.core.errors import NodeError
from pipeline.redis import damage as redis_damage
from pipeline.redis import server as embedded
from pipeline.redis.damage import damage
from pipeline.redis.login import reader_login
from pipeline.redis.server import EmbeddedServer, server_program
from pipeline.system.launch import bound
from tests.conftest import Server
from tests.contract.test_embedded import CONFIG, client, config

BASE, INCR, MANIFEST = "appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"
Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server: 100 entries and a group in its base file, 100 entries more in the log behind that."""
    folder = tmp_path_factory.mktemp("whole")
    server = Server(str(server_program()), folder)
    server.start()
    try:
        with redis.Redis.from_url(server.url) as writer:
            for k in range(200):
                if k == 100:
                    writer.xgroup_create(CONFIG.stream, "plant", "0")
                    writer.bgrewriteaof()
                    _wait(lambda: not writer.info("persistence")["aof_rewrite_in_progress"])
                writer.xadd(CONFIG.stream, {"data": os.urandom(50).hex()})
            writer.shutdown()
    finally:
        server.kill()
    assert {path.name for path in (folder / "appendonlydir").iterdir()} == {BASE, INCR, MANIFEST}
    return folder / "appendonlydir"


def _wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Damaged:
    """That data, for an embedded server, and what this says of damage."""

    def __init__(self, folder: Path, whole: Path) -> None:
        self.news: list[str] = []
        self._config = config(folder)
        self.server = EmbeddedServer(self._config, self.news.append)
        self.data = self.server.folder / "appendonlydir"
        shutil.copytree(whole, self.data)

    @property
    def aside(self) -> list[Path]:
        return sorted(self.server.folder.glob("appendonlydir.damaged-*"))

    def found(self) -> tuple[int, list[bytes]]:
        """Entries of the stream, and its consumer groups."""
        with client(reader_login(self._config)) as reader:
            groups = reader.xinfo_groups(CONFIG.stream) if reader.exists(CONFIG.stream) else []
            return reader.xlen(CONFIG.stream), [group["name"] for group in groups]


@pytest.fixture
def damaged(tmp_path: Path, whole: Path) -> Iterator[Damaged]:
    found = Damaged(tmp_path, whole)
    yield found
    found.server.stop()


def content(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {"": folder.read_bytes()}
    return {path.name: path.read_bytes() if path.is_file() else b"a folder" for path in folder.iterdir()}


def append(name: str, data: bytes) -> Break:
    def change(folder: Path) -> None:
        with (folder / name).open("ab") as file:
            file.write(data)

    return change


def put(name: str, part: float, data: bytes) -> Break:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.seek(int(part * (folder / name).stat().st_size))
            file.write(data)

    return change


def cut(name: str, part: float) -> Break:
    return lambda folder: os.truncate(folder / name, int(part * (folder / name).stat().st_size))


def make_folder(name: str) -> Break:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return change


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize(
    ("harm", "least", "most"),
    [(append(INCR, bytes(3000)), 200, 200), (put(INCR, 0.5, bytes(3000)), 101, 199), (put(INCR, 0, bytes(50)), 100, 100)],
    ids=["zeroes at the end", "zeroes in the middle", "zeroes at the start"],
)
def test_what_lies_before_a_damaged_place_is_kept(damaged: Damaged, harm: Break, least: int, most: int) -> None:
    harm(damaged.data)
    before = content(damaged.data)

    damaged.server.start()

    entries, groups = damaged.found()
    assert least <= entries <= most
    assert groups == [b"plant"]
    (aside,) = damaged.aside
    assert content(aside) == before
    (text,) = damaged.news
    assert "Bad file format" in text and "up to the damage is kept" in text and str(aside) in text and "sends again what it keeps" in text


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / INCR).unlink(), lambda folder: (folder / BASE).unlink(), make_folder(INCR), make_folder(MANIFEST),
        put(INCR, 0, b"*2\r\n$6\r\nSELEXT\r\n$1\r\n0\r\n"),
        put(BASE, 0.5, bytes(300)), put(BASE, 0.5, b"\x55\xaa\x55"), cut(BASE, 0.5), cut(BASE, 0.01),
        put(BASE, 0, bytes(50)), append(BASE, bytes(3000)),
        cut(MANIFEST, 0), put(MANIFEST, 0, bytes(88)), put(MANIFEST, 0.5, b"garbage"), append(MANIFEST, bytes(3000)),
        put(MANIFEST, 0.1, b"\x0b"), put(MANIFEST, 0.1, b"\x1f"),
        no_folder,
    ],
    ids=[
        "no log", "no base", "a folder as log", "a folder as manifest", "unknown command",
        "zeroes in base", "changed base", "half of base", "head of base", "zeroes before base", "zeroes after base",
        "empty manifest", "zeroes as manifest", "changed manifest", "zeroes after manifest", "tab in a name", "control character in a name",
        "a file as folder",
    ],
)  # fmt: skip
def test_what_cannot_be_repaired_is_set_aside_and_told(damaged: Damaged, harm: Break) -> None:
    harm(damaged.data)
    before = content(damaged.data)

    damaged.server.start()

    assert damaged.found() == (0, [])
    (aside,) = damaged.aside
    assert before.items() <= content(aside).items()  # the server may have begun files of its own beside
    (text,) = damaged.news
    assert "it starts empty" in text and str(aside) in text and "sends again what it keeps" in text
    assert "consumer groups must be created again" in text


def test_whole_data_and_a_log_that_was_cut_short_are_left_alone(damaged: Damaged) -> None:
    """The server itself mends the latter."""
    cut(INCR, 0.55)(damaged.data)

    damaged.server.start()

    assert damaged.found()[1] == [b"plant"]
    assert damaged.aside == [] and damaged.news == []


def test_a_repair_that_is_none_is_followed_by_empty_data(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    append(INCR, bytes(3000))(damaged.data)
    monkeypatch.setattr(redis_damage, "_repair", lambda data, part, program: bool(shutil.copytree(data, part / data.name)))

    damaged.server.start()

    assert damaged.found() == (0, [])
    assert ["it starts empty" in text for text in damaged.news] == [False, True]


def test_a_disk_without_room_for_a_repair_costs_the_data_but_not_the_line(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    append(INCR, bytes(3000))(damaged.data)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    damaged.server.start()

    assert damaged.found() == (0, [])
    assert "it starts empty" in damaged.news[0]


def test_a_server_that_always_finds_damage_is_an_error_in_the_end(
    damaged: Damaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is set aside again and again."""
    stub, log = tmp_path / "stub", damaged.server.folder / "server.log"
    say = f'echo "Bad file format reading the append only file {INCR}" >> "{log}"'
    stub.write_text(f'#!/bin/sh\n{say}\nmkdir -p "{damaged.data}"\nexit 1\n')
    stub.chmod(0o755)
    monkeypatch.setattr(embedded, "server_program", lambda: stub)

    for _ in range(4):  # as often as its supervisor tries
        with pytest.raises(NodeError, match="did not start"):
            damaged.server.start()

    assert len(damaged.news) == len(damaged.aside) == 1


def test_a_folder_that_takes_the_place_of_the_damaged_one_is_not_touched(
    damaged: Damaged, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody puts a backup there while the damaged data is mended."""
    mending, moved = threading.Event(), threading.Event()

    def slow(*_: object) -> bool:
        mending.set()
        return not moved.wait(20)

    monkeypatch.setattr(redis_damage, "_repair", slow)
    cut(MANIFEST, 0)(damaged.data)
    (damaged.data / INCR).write_bytes(b"x")
    shutil.copy(whole / MANIFEST, damaged.data)
    server = damaged.server
    server.begin(time.monotonic_ns())
    _wait(lambda: server.is_up(time.monotonic_ns()) or mending.is_set())
    server.folder.rename(server.folder.with_name("moved"))
    server.folder.mkdir()
    shutil.copytree(whole, damaged.data)

    assert not server.in_place(up=False)
    server.leave_folder()
    with pytest.raises(NodeError, match="still being mended"):
        server.begin(time.monotonic_ns())
    moved.set()
    _wait(lambda: server._mending is not None and server._mending.done)
    server.start()

    assert damaged.news == [] and damaged.aside == []
    assert damaged.found()[0] > 0


def test_data_whose_mending_was_killed_at_its_last_step_is_found(damaged: Damaged) -> None:
    before = damaged.data
    before.rename(damaged.server.folder / "appendonlydir.mended")

    damaged.server.start()

    assert "what it held up to the damage is kept" in damaged.news[0]
    assert damaged.found()[0] > 0


def test_only_the_newest_two_of_damaged_data_are_kept(damaged: Damaged, whole: Path) -> None:
    for _ in range(3):
        shutil.rmtree(damaged.data)
        shutil.copytree(whole, damaged.data)
        cut(MANIFEST, 0)(damaged.data)
        damaged.server.start()
        damaged.server.stop()

    assert [str(path) in text for path, text in zip(damaged.aside, damaged.news[1:], strict=True)] == [True, True]


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit of util-linux")
def test_a_server_that_lacks_descriptors_keeps_its_data(damaged: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(damaged.data)
    limit = [str(shutil.which("prlimit")), "--nofile=16:16"]
    monkeypatch.setattr(embedded, "bound", lambda command: bound([*limit, *command]))

    with pytest.raises(NodeError, match="did not start"):
        damaged.server.start()

    assert content(damaged.data) == before
    assert damaged.aside == [] and damaged.news == []


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="as root it needs setpriv of util-linux")
@pytest.mark.parametrize("name", [".", BASE, INCR, MANIFEST])
def test_a_server_that_may_not_read_its_data_keeps_them(damaged: Damaged, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drop = [str(shutil.which("setpriv")), "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    monkeypatch.setattr(embedded, "bound", lambda command: bound([*drop, *command]))
    (damaged.data / name).chmod(0)
    try:
        with pytest.raises(NodeError, match="did not start"):
            damaged.server.start()
    finally:
        (damaged.data / name).chmod(0o700)

    assert damaged.aside == [] and damaged.news == []


@pytest.mark.parametrize(
    "line",
    [
        "Fatal error: can't open the append log file appendonly.aof.2.incr.aof for reading: Permission denied",
        "Fatal error: can't open the AOF manifest file appendonlydir/appendonly.aof.manifest for reading: Permission denied",
        "Error moving temp append only file on the final destination: Permission denied",
        "Unable to obtain the AOF file appendonly.aof.2.incr.aof length. stat: Permission denied",
        "Unrecoverable error reading the append only file appendonly.aof.2.incr.aof: Cannot allocate memory",
        "Can't handle RDB format version 80",
        "Fatal: Can't initialize Background Jobs. Error message: Resource temporarily unavailable",
        "Failed opening Unix socket: bind: Permission denied",
        "Failed listening on port 6380 (tcp), aborting.",
        "rdbGenericLoadStringObject failed allocating 4096 bytes\n"
        "Internal error in RDB reading offset 0, function at rdb.c:1 -> Unexpected EOF",
        "Out Of Memory allocating 1048576 bytes!\n=== VALKEY BUG REPORT START: Cut & paste starting from here ===",
    ],
)
def test_other_reasons_are_no_damage(line: str) -> None:
    """What the server writes where it lacks memory, rights or an address; it keeps its data then."""
    head = "7:M 26 Nov 2026 19:20:30.387 * Server initialized\n7:M 26 Nov 2026 19:20:30.387 "
    assert damage(f"{head}# {line}\n") == ""
