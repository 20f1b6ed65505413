"""Alarms of a whole line: what is on ends, whoever was killed meanwhile."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system.line import Line

DIED = "node_died:capture.top"


def alarms(line: Line, name: str) -> list[bool]:
    return [e["active"] for e in line.events("--type", "alarm") if e["name"] == name]


def wait_alarm(line: Line, name: str) -> None:
    deadline = time.monotonic() + 60
    while alarms(line, name) != [True]:
        assert time.monotonic() < deadline, line.log


def test_an_alarm_ends_when_the_supervisor_that_raised_it_was_killed(make_line: Callable[..., Line], tmp_path: Path) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    for k in range(20):
        (images / f"bad_{k:02}.jpg").write_bytes(b"no image")
    line = make_line(cameras={"top": {"source": f"folder:{images}?fps=40&loop=true"}})
    line.start()
    line.wait_until(lambda s: s["cameras"]["top"]["acquired"] > 10, "frames")
    images.rename(tmp_path / "away")
    line.kill("capture.top")
    wait_alarm(line, DIED)
    assert line.process is not None
    line.process.kill()
    line.process.wait()

    (tmp_path / "away").rename(images)
    line.state.joinpath("status.json").unlink()
    line.start()
    line.wait_until(lambda s: s["cameras"]["top"]["acquired"] > 10, "frames of the next run")
    line.process.send_signal(signal.SIGTERM)
    line.finish()

    assert alarms(line, DIED) == [True, False]


@pytest.mark.parametrize("lost", [1, 10**9], ids=["a message is lost", "all are lost"])
def test_what_the_supervisor_says_at_the_end_arrives_unless_nothing_can(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path, lost: int
) -> None:
    """Publish is told to end only then, or after a few seconds."""
    make_images(tmp_path / "images", 3)
    line = make_line()
    program = f"""
from pathlib import Path
from pipeline.config import load
from pipeline.runtime.run_line import LineRun
run = LineRun(load(Path({str(line.config)!r})), say=print)
stop, send, sent = run._stop_next, run._outbox.dealer.send, []

def says_something(awake):
    if not sent:
        run._redis_damaged("it was mended")
    stop(awake)

def lossy(message):
    sent.append(message)
    if len(sent) > {lost}:
        send(message)

run._stop_next, run._outbox.dealer.send = says_something, lossy
run.run()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, cwd=ROOT)

    assert alarms(line, "redis_damaged") == ([True] if lost == 1 else [])
    assert len(line.defects()) == 3
