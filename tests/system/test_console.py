"""What a person's terminal, pipe or disk does to the output of a line ends no line."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shlex
import signal
import sqlite3
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.line import Line, balanced

SUMMARY = "summary.json"


@pytest.fixture
def line(make_line: Callable[..., Line], tmp_path: Path) -> Line:
    """A camera whose images are no images: every frame is a gap event, and nothing is inferred."""
    folder = tmp_path / "images"
    folder.mkdir()
    for k in range(20):
        (folder / f"bad_{k:02}.jpg").write_bytes(b"no image")
    return make_line(cameras={"top": {"source": f"folder:{folder}?fps=40&loop=true"}})


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal: its own end and the program's, 100 columns wide."""
    own, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    yield own, theirs
    for fd in (own, theirs):
        try:
            os.close(fd)
        except OSError:  # the test has closed it
            continue


def fill(pipe: int) -> None:
    """Write until nothing more goes in."""
    try:
        while True:
            os.write(pipe, b"x" * 4096)
    except BlockingIOError:
        return


def check(line: Line, summary: dict[str, Any]) -> None:
    top = summary["cameras"]["top"]
    assert balanced(top)
    assert summary["error"] is None
    assert summary["restarts"] == {}
    assert summary["spool"] == {"backlog": 0, "delivered": True}
    assert summary["events"]["gap"] == top["acquired"] == top["invalid"]["format"]
    assert (line.state / SUMMARY).read_text() == (line.folder / SUMMARY).read_text()


def wait_finished(line: Line, count: int) -> None:
    line.wait_until(lambda s: s["cameras"]["top"]["acquired"] - s["cameras"]["top"]["in_flight"] >= count, f"{count} frames")


@pytest.mark.parametrize(
    "script",
    [
        "RUN >&- 2>&-",
        "RUN <&- >&- 2>err.txt",
        "RUN 2>&-",
        "RUN >/dev/full 2>/dev/full",
        "RUN 2>&1 | head -n 1; exit ${PIPESTATUS[0]}",
        "RUN 2>err.txt | true; exit ${PIPESTATUS[0]}",
        "exec 3<>fifo; RUN >&3 2>&3",  # a pipe that is full, and that nobody reads
    ],
)
def test_an_output_that_cannot_be_written_costs_no_frame(line: Line, script: str) -> None:
    os.mkfifo(line.folder / "fifo")
    full = os.open(line.folder / "fifo", os.O_RDWR | os.O_NONBLOCK)
    if "fifo" in script:
        fill(full)

    line.start_shell(script, "--frames", "80")
    summary = line.finish()
    os.close(full)

    check(line, summary)
    assert summary["cameras"]["top"]["acquired"] == 80
    if "err.txt |" in script:
        assert "stdout cannot be written (Broken pipe); the line runs on" in (line.folder / "err.txt").read_text()


def test_ctrl_c_drains_through_a_pipe(line: Line) -> None:
    """The whole foreground group gets it: ``tee`` dies, stdout breaks, and the line still finishes its work."""
    line.start_shell("trap '' INT; (trap - INT; RUN 2>&1; echo $? >code.txt) | (trap - INT; exec tee out.txt)")
    wait_finished(line, 20)
    assert line.process is not None

    os.killpg(line.process.pid, signal.SIGINT)
    line.process.wait(60)

    check(line, line.finish(code=line.process.returncode))


@pytest.mark.parametrize(
    "numbers",
    [[signal.SIGTERM, signal.SIGHUP], [signal.SIGHUP, signal.SIGHUP], [signal.SIGHUP], [signal.SIGHUP, signal.SIGINT]],
    ids=lambda numbers: "+".join(n.name for n in numbers),
)
def test_a_hang_up_drains_and_is_never_the_second_signal(line: Line, numbers: list[signal.Signals]) -> None:
    line.start()
    wait_finished(line, 20)
    assert line.process is not None

    for number in numbers:
        line.process.send_signal(number)
    check(line, line.finish())


def test_nohup_is_respected(line: Line) -> None:
    line.start_shell("exec nohup RUN >log.txt 2>&1", "--frames", "120")
    wait_finished(line, 20)

    line.supervisor().send_signal(signal.SIGHUP)
    summary = line.finish()

    check(line, summary)
    assert summary["cameras"]["top"]["acquired"] == 120


def test_a_second_signal_stops_at_once_and_the_summary_says_so(line: Line) -> None:
    line.start()
    wait_finished(line, 20)
    assert line.process is not None
    line.kill("publish", signal.SIGSTOP)  # so that the first one cannot be done with before the second comes

    line.process.send_signal(signal.SIGTERM)
    line.wait_until(lambda s: s["phase"] == "stopping", "a line that stops")
    line.process.send_signal(signal.SIGTERM)
    summary = line.finish(code=130)

    assert summary["error"] == "stopped at once by a second signal"
    assert summary["cameras"]["top"]["acquired"] >= 20
    assert not summary["spool"]["delivered"]


def start_on(line: Line, terminal: tuple[int, int], *options: str, stdout: Any = None) -> None:
    """Start the line in a session of its own whose controlling terminal is ``terminal``."""
    (line.folder / "log.txt").touch()
    line.process = subprocess.Popen(
        line.command(*options), stdin=terminal[1], stdout=stdout or terminal[1], stderr=terminal[1], text=True,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal[1])


def read_all(fd: int) -> str:
    data = b""
    try:
        while part := os.read(fd, 65536):
            data += part
    except OSError:  # a terminal whose other end is closed
        pass
    return data.decode()


def test_a_terminal_shows_progress_below_the_lines(line: Line, terminal: tuple[int, int]) -> None:
    start_on(line, terminal, "--frames", "80")

    shown = read_all(terminal[0])
    check(line, line.finish())

    assert re.search(r"running \| top: [0-9]+ acquired", shown)
    assert all(piece.startswith("\r\x1b[K") for piece in re.split(r"(?:starting|running|stopping) \| [^\r]*", shown)[1:])
    assert "acquired 80 = inspected 0 + dropped 0 + invalid 80" in shown


def test_a_terminal_that_hangs_holds_up_nothing(line: Line, terminal: tuple[int, int]) -> None:
    """Nobody reads its other end, as after Ctrl-S: output stops, the line does not, and it ends."""
    termios.tcflow(terminal[1], termios.TCOOFF)
    start_on(line, terminal, "--frames", "200")

    summary = line.finish()

    check(line, summary)
    assert summary["cameras"]["top"]["acquired"] == 200


def test_a_terminal_that_is_closed_drains_the_line(line: Line, terminal: tuple[int, int]) -> None:
    start_on(line, terminal)
    wait_finished(line, 20)

    os.close(terminal[0])

    check(line, line.finish())


def test_a_terminal_that_stops_who_writes_from_the_background_stops_no_line(line: Line, terminal: tuple[int, int]) -> None:
    (line.folder / "log.txt").touch()
    script = f"stty tostop; set -m; {shlex.join(line.command('--frames', '80'))} & wait $!"  # set -m: in a process group of its own
    line.process = subprocess.Popen(
        ["bash", "-c", script], stdin=terminal[1], stdout=terminal[1], stderr=terminal[1], text=True,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal[1])

    shown = read_all(terminal[0])
    assert "acquired 80" in shown
    check(line, line.finish())


def test_a_pipe_gets_no_control_codes(line: Line, terminal: tuple[int, int]) -> None:
    """Also when stderr is a terminal: the progress line stays there."""
    with (line.folder / "log.txt").open("w") as log:
        start_on(line, terminal, "--frames", "40", stdout=log)
    shown = read_all(terminal[0])

    check(line, line.finish())

    assert not {"\x1b", "\r"} & set(line.log)
    assert "acquired 40" in line.log
    assert "running | top" in shown


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}], ids=str)
def test_a_name_that_the_encoding_cannot_print_is_escaped(line: Line, environment: dict[str, str]) -> None:
    for path in (line.folder / "images").iterdir():
        path.unlink()
    for name in ("blech_\u00fc.jpg", "\u92fc\u677f.jpg", "\U0001f642.jpg", "b\x1b[31m.jpg"):
        (line.folder / "images" / name).write_bytes(b"no image")
    line.start_shell("RUN >log.txt 2>&1", "--frames", "40", **environment)

    check(line, line.finish())

    log = (line.folder / "log.txt").read_bytes()
    assert b"Traceback" not in log
    assert b"\x1b" not in log
    assert b"gap     top" in log


def test_rates_count_the_time_that_draining_took(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """Frames that publish makes durable only after the stop are not the work of the time before it."""
    make_images(tmp_path / "images", 400)
    line = make_line()
    line.start("--for", "1s")
    line.wait_until(lambda s: s["nodes"]["publish"]["state"] == "running", "a publish node that runs")
    with contextlib.closing(sqlite3.connect(line.state / "spool" / "events.db", isolation_level=None, timeout=20)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        line.wait_until(lambda s: s["phase"] == "stopping", "a line that stops")
        stopped = time.monotonic()
        line.wait_until(lambda s: time.monotonic() > stopped + 1.5, "a drain that takes its time")

    summary = line.finish()

    top = summary["cameras"]["top"]
    assert balanced(top)
    assert top["inspected"] > 0
    assert summary["duration_s"] < 1.5
    assert summary["throughput"]["frames_per_s"] <= top["inspected"] / (summary["duration_s"] + 1.4)
    assert summary["throughput"]["tiles_per_s"] == summary["throughput"]["frames_per_s"]


def test_a_node_that_cannot_run_leaves_a_summary_that_says_so(line: Line) -> None:
    (line.state / "spool").mkdir()
    (line.state / "spool" / "events.db").mkdir()

    line.start()
    summary = line.finish(code=2)

    assert "publish" in summary["error"]
    assert not summary["spool"]["delivered"]
    assert json.loads((line.state / SUMMARY).read_text()) == summary


def test_a_summary_that_cannot_be_written_is_told_at_the_start(line: Line) -> None:
    path = line.folder / "nowhere" / "s.json"

    done = subprocess.run([*line.command()[:-1], str(path)], capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert f"the summary {path} cannot be written: No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr
