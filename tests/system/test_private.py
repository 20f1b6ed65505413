"""Another user of the machine, a real one: reads nothing of a line, forges nothing, and is told plainly."""

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Camera, Config, Infer, load
from pipeline.config.topology import Endpoints, runtime_dir
from pipeline.redis.server import running_url
from pipeline.runtime.folders import RunFolder
from pipeline.system.files import private_folder
from pipeline.transport.sockets import Router
from tests.system.line import Line
from tests.system.other_user import become, command

LIVE = {"source": "sim:strip?seed=1&fps=20", "frame_px": [300, 300], "when_full": "drop_oldest"}


@pytest.fixture
def line(open_folder: Path, shared: Path) -> Iterator[Line]:
    """A live line whose ``state_dir`` is there already, readable by all, as an earlier version left it."""
    found = Line(open_folder, shared, cameras={"top": LIVE}, preprocess={"layout": "grid"})
    found.state.chmod(0o755)
    (found.state / "images").mkdir(mode=0o755)
    for path in (found.state / "images" / "old.png", found.state / "mine.txt"):
        path.write_text("x")
        path.chmod(0o644)
    yield found
    found.close()


def say(port: int, command: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
        peer.sendall(command.encode() + b"\r\n")
        return peer.recv(200).decode()


def readable(paths: list[str]) -> list[str]:
    """Which of these files and folders can be opened."""
    found = []
    for path in paths:
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError:
            continue
        found.append(path)
    return found


def connectable(paths: list[str]) -> list[str]:
    found = []
    for path in paths:
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(path)
            except OSError:
                continue
            found.append(path)
    return found


def test_another_user_reads_nothing_and_forges_nothing(line: Line, other: pwd.struct_passwd) -> None:
    line.start()
    line.wait_until(lambda s: s["events"].get("defect", 0) >= 20, "events")
    sockets = runtime_dir(load(line.config))
    files = [str(p) for p in (line.state, sockets) for p in (p, *p.rglob("*"))]
    assert {"events.db", "events.db-wal", "top.jsonl", "server.log", "reader", "status.json"} <= {Path(p).name for p in files}
    assert any(p.endswith(".png") for p in files) and any(".aof" in p for p in files)
    port = int((running_url(line.state) or "").split(":")[2].split("/")[0])
    commands = ("PING", "INFO", "XADD linepipe:test:events * data {}", "FLUSHALL", "SHUTDOWN NOSAVE", "XRANGE linepipe:test:events - +")
    pids = [line.pid(node) for node in ("capture.top", "inspect", "publish")] + [line.server_pid()]
    kept = [f"/proc/{pid}/{what}" for pid in pids for what in ("environ", "fd")]

    def try_everything() -> dict[str, Any]:
        return {"files": readable([*files, *kept]), "sockets": connectable(files), "redis": [say(port, c) for c in commands]}

    told = become(other, try_everything)

    assert told == {"files": [], "sockets": [], "redis": ["-NOAUTH Authentication required.\r\n"] * len(commands)}
    before = line.status()["cameras"]["top"]["inspected"]
    line.wait_inspected(before + 10)
    os.kill(line.process.pid, signal.SIGTERM)  # type: ignore[union-attr]
    summary = line.finish()
    assert len(line.events("--run", "last")) == sum(summary["events"].values())


def test_everything_under_the_state_folder_is_private(line: Line) -> None:
    """Also what was there before, and what the nodes and the server write while it runs; and it is said once."""
    line.start()
    line.wait_until(lambda s: s["events"].get("defect", 0) >= 20, "events")
    mine = line.state / "mine.txt"
    found = [line.state, *line.state.rglob("*"), *runtime_dir(load(line.config)).rglob("*")]
    found.remove(mine)

    assert [str(p) for p in found if not p.is_symlink() and stat.S_IMODE(p.lstat().st_mode) & 0o077] == []
    assert stat.S_IMODE(mine.stat().st_mode) == 0o644  # nobody reaches it, and it is not the line's

    os.kill(line.process.pid, signal.SIGTERM)  # type: ignore[union-attr]
    line.finish()
    assert line.log.count(f"state_dir: {line.state} could be looked into by others (mode 0755); it is private now (0700)") == 1
    line.start("--frames", "5")
    line.finish()
    assert "could be looked into" not in line.log


def test_no_secret_is_on_a_command_line_or_in_an_environment(line: Line) -> None:
    """What every user may see of the processes (argv), and what children inherit."""
    line.start()
    line.wait_inspected(5)
    secrets = [(line.state / "redis" / name).read_bytes() for name in ("reader", "writer")]
    assert line.process is not None
    pids = [line.process.pid, line.server_pid(), *map(line.pid, ("capture.top", "inspect", "publish"))]

    seen = b"".join(Path(f"/proc/{pid}/{what}").read_bytes() for pid in pids for what in ("cmdline", "environ"))
    seen += line.log.encode() + (line.state / "status.json").read_bytes() + (line.state / "line.json").read_bytes()

    assert not any(secret in seen for secret in secrets)


def test_a_client_gets_the_reader_s_password_as_the_line_says(line: Line) -> None:
    """The command that is printed works in a shell, and warns of no password on its command line."""
    if shutil.which("redis-cli") is None:
        pytest.skip("needs redis-cli: apt-get install redis-tools")
    line.start()
    line.wait_until(lambda s: s["events"].get("defect", 0) >= 3, "events")
    (command,) = [text.removeprefix("to read them: ") for text in line.log.splitlines() if text.startswith("to read them: ")]

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)

    assert done.stdout.count("data\n") == 3
    assert done.stderr == ""


def test_a_runtime_folder_that_cannot_be_entered_any_more_ends_nothing(other: pwd.struct_passwd) -> None:
    """Not as root, who may enter everything."""
    config = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir="/nowhere")

    def call() -> list[Any]:
        folder = RunFolder(config)
        home = folder.path.parent
        router = Router(Endpoints(folder.path).supervisor)
        home.chmod(0)
        try:
            return [folder.turn(), list(router.receive())]
        finally:
            home.chmod(0o700)
            router.close()
            shutil.rmtree(home.parent)

    said, heard = become(other, call)

    assert "cannot be created again" in said and heard == []


def test_another_user_s_folder_or_a_shared_one_is_refused(line: Line, open_folder: Path, other: pwd.struct_passwd) -> None:
    os.chown(line.state, other.pw_uid, other.pw_gid)
    assert "belongs to another user" in line.cli("run", code=2).stderr

    shared = open_folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    assert "many share" in line.cli("run", "--set", f"state_dir={shared}", code=2).stderr
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_a_folder_of_other_things_that_others_use_stays_as_it_is(line: Line, open_folder: Path) -> None:
    """A whole machine was locked out once, by --set state_dir=/ as root."""
    place = open_folder / "place"
    (place / "etc").mkdir(parents=True)
    place.chmod(0o755)

    for word in ("validate", "run"):
        text = line.cli(word, "--set", f"state_dir={place}", code=2).stderr
        assert f"state_dir: {place} holds other things (etc)" in text
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert os.listdir(place) == ["etc"]
    assert "state_dir: / holds other things" in line.cli("validate", "--set", "state_dir=/", code=2).stderr


@pytest.mark.parametrize("words", ["status --json", "events", "validate", "run"])
def test_another_user_is_told_plainly_that_the_line_is_not_his(line: Line, other: pwd.struct_passwd, words: str) -> None:
    line.state.chmod(0o700)
    (line.folder / "images").mkdir()
    name, *options = words.split()

    code, text = become(other, command(name, line.config, *options))

    assert code in (1, 2)
    assert f"state_dir: {line.state} belongs to another user" in text


def test_what_a_link_leads_to_is_left_alone(tmp_path: Path) -> None:
    outside, state = tmp_path / "outside", tmp_path / "state"
    outside.mkdir(mode=0o755)
    (outside / "file").write_text("x")
    (outside / "file").chmod(0o644)
    state.mkdir()
    state.chmod(0o755)
    (state / "engines").symlink_to(outside)

    assert "could be looked into" in private_folder(state)

    assert [stat.S_IMODE(p.stat().st_mode) for p in (state, outside, outside / "file")] == [0o700, 0o755, 0o644]
    assert private_folder(state) == ""
