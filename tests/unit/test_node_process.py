"""One process under watch: real processes, a clock that the test turns."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.config.topology import Process
from pipeline.core.errors import ConfigError
from pipeline.core.status import Facts, NodeState
from pipeline.runtime import node_process as module
from pipeline.runtime.node_process import MOST_S, SILENT_S, START_S, STOPPED_S, STORM, AwakeClock, NodeProcess, main_thread
from pipeline.runtime.supervisor import GONE_S, Alarms, NodeWatch, finished
from pipeline.system.launch import bound
from pipeline.transport.messages import Heartbeat

SECOND = 1_000_000_000
SLEEPS = ["/bin/sleep", "600"]
COMPUTES = [sys.executable, "-I", "-S", "-c", "while True: pass"]
FAILS = [sys.executable, "-I", "-S", "-c", "raise SystemExit(2)"]


class Watched:
    """A child, and the time that it is told."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.child = NodeProcess(Process(name="node", entry=""), command, **options)
        self.now = 1000 * SECOND
        self.child.start(self.now)
        self.pid = self.child.pid or 0

    def says(self, state: NodeState = NodeState.RUNNING, progress: int = 2, boot: str = "b", **facts: Any) -> None:
        self.child.hear(Heartbeat(node="node", pid=1, boot=boot, state=state, progress=progress, facts=Facts(**facts)), self.now)

    def wait(self, seconds: float, until: Callable[[], Any] = lambda: False) -> bool:
        """Let time pass for the supervisor's eyes, a turn after the other; whether ``until`` came true."""
        for _ in range(round(seconds / 0.05)):
            self.now += SECOND // 20
            self.child.check(self.now)
            if until():
                return True
        return False

    def end(self) -> None:
        """Wait, really, until the process is gone."""
        eventually(lambda: gone(self.pid))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def eventually(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    made: list[Watched] = []

    def make(command: list[str], **options: Any) -> Watched:
        made.append(Watched(command, **options))
        return made[-1]

    yield make
    for one in made:
        one.child.kill()
        one.child.wait()


def settle(node: Watched, state: str) -> None:
    """Wait until the command itself runs, and its main thread is in that state."""
    eventually(lambda: (found := main_thread(node.pid)) is not None and found[0] == state)


def test_a_stopped_node_is_killed_soon_also_while_it_loads(watch: Callable[..., Watched]) -> None:
    for loads in (False, True):
        node = watch(SLEEPS)
        if not loads:
            node.says()
        os.kill(node.pid, signal.SIGSTOP)
        settle(node, "T")

        node.wait(STOPPED_S + 0.1)

        node.end()


def test_a_start_that_takes_long_is_told_once(watch: Callable[..., Watched]) -> None:
    """A camera that does not answer while it is opened would be silent for ten minutes."""
    hangs, runs = watch(SLEEPS), watch(SLEEPS)
    runs.says()
    said: list[str] = []
    nodes = [NodeWatch([one.child], said.append, Alarms(lambda *_: None)) for one in (hangs, runs)]

    for turn in range(800):
        hangs.now = runs.now = hangs.now + SECOND // 20
        runs.says(progress=turn + 3)
        for watching in nodes:
            watching.turn(hangs.now, started=True)

    assert said == ["node has been starting for 30 s; it may take 600 s"]


def test_a_node_stuck_in_one_call_is_killed_soon_but_not_while_it_loads(watch: Callable[..., Watched]) -> None:
    loading, stuck = watch(SLEEPS), watch(SLEEPS)
    stuck.says()
    for node in (loading, stuck):
        eventually(lambda: psutil.Process(node.pid).name() == "sleep")  # noqa: B023
        settle(node, "S")

    stuck.wait(SILENT_S - 1)
    loading.wait(START_S / 2)

    stuck.end()
    assert not gone(loading.pid)


def test_a_node_that_has_said_its_last_word_may_take_its_time_to_end_but_not_for_ever(watch: Callable[..., Watched]) -> None:
    """It waits for a thread that is amid a call: a name that does not resolve, an inference."""
    node = watch(SLEEPS)
    node.says()
    node.says(NodeState.ENDED, progress=3)
    settle(node, "S")

    node.wait(SILENT_S - 1)
    assert not gone(node.pid)
    node.wait(1.5)

    node.end()


def test_a_node_that_computes_for_long_is_left_in_peace(watch: Callable[..., Watched]) -> None:
    """A large image on a busy machine: silent, not dead. Without end it is hung."""
    node = watch(COMPUTES)
    node.says()
    settle(node, "R")

    node.wait(SILENT_S - 0.5)
    assert not gone(node.pid)
    node.wait(1.0)

    node.end()


def test_time_in_which_the_supervisor_stood_still_is_nobodys_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5 * SECOND]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    clock = AwakeClock()
    begin = clock.turn()
    for step in (50_000_000, 300 * SECOND, 50_000_000):
        now[0] += step
        clock.turn()

    assert clock.turn() - begin <= SECOND


def test_the_last_words_of_a_node_are_the_reason_that_is_shown(watch: Callable[..., Watched]) -> None:
    node = watch(FAILS)
    node.says()
    node.end()
    node.wait(0.05)  # not yet: they may be on their way
    node.says(NodeState.FAILED, error="folder:x: no such folder")

    assert node.wait(1.0, lambda: node.child.state == "restarting")

    assert node.child.reason == "failed: folder:x: no such folder"
    assert node.child.retry_in_s(node.now) is not None
    node.says(boot="b", progress=3)  # sent by the dead one, late
    assert node.child.reason
    node.child.start(node.now)
    node.says(boot="c")
    assert node.child.reason == ""


def test_only_a_node_that_never_ran_is_refused(watch: Callable[..., Watched]) -> None:
    for ran in (False, True):
        node = watch(FAILS)
        if ran:
            node.says()
        node.end()
        node.wait(1.0, lambda: node.child.state == "restarting")  # noqa: B023

        assert node.child.refused is not ran
        assert node.child.exit_code is None


def test_a_node_that_keeps_dying_is_tried_for_ever_with_one_alarm_and_one_for_the_storm(watch: Callable[..., Watched]) -> None:
    node = watch(FAILS)
    node.says()
    sent: list[tuple[str, bool]] = []
    nodes = NodeWatch([node.child], lambda _: None, Alarms(lambda name, active, _: sent.append((name, active))))
    waits = []
    for _ in range(STORM + 7):
        pid = node.child.pid
        assert pid is not None
        eventually(lambda: gone(pid))  # noqa: B023
        for _ in range(5):
            node.now += SECOND // 20
            nodes.turn(node.now, started=True)
        waits.append(node.child.retry_in_s(node.now))
        node.now += int(MOST_S * SECOND)
        nodes.turn(node.now, started=True)

    assert sent == [("node_died:node", True), ("node_storm:node", True)]
    assert waits[-1] is not None
    assert waits[-1] > MOST_S - 1

    nodes.hear(Heartbeat(node="node", pid=1, boot="new", state=NodeState.RUNNING, progress=2, facts=Facts()), node.now)

    assert sent[2:] == [("node_died:node", False)]
    nodes.hear(Heartbeat(node="node", pid=1, boot="new", state=NodeState.RUNNING, progress=3, facts=Facts()), node.now + 61 * SECOND)
    assert not node.child.storm(node.now + 61 * SECOND)


@pytest.mark.parametrize("started", [False, True], ids=["before the first frame", "another node was faster"])
def test_a_configuration_that_never_worked_ends_the_line(watch: Callable[..., Watched], started: bool) -> None:
    node = watch(FAILS)
    node.end()
    nodes = NodeWatch([node.child], lambda _: None, Alarms(lambda *_: None))
    nodes.turn(node.now, started=started)

    with pytest.raises(ConfigError, match="node cannot run"):
        nodes.turn(node.now + SECOND, started=started)


def test_a_node_that_died_before_it_ran_and_then_is_refused_ends_no_line_that_has_started(watch: Callable[..., Watched]) -> None:
    """It was killed while it loaded, and its folder went away meanwhile."""
    node = watch([sys.executable, "-I", "-S", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
    nodes = NodeWatch([node.child], lambda _: None, Alarms(lambda *_: None))
    node.end()
    node.wait(1.0, lambda: node.child.pid is None)
    node.child._command = FAILS
    node.wait(1.0, lambda: node.child.pid is not None)
    assert node.child.pid is not None
    node.pid = node.child.pid
    node.end()

    for _ in range(20):
        node.now += SECOND // 20
        nodes.turn(node.now, started=True)

    assert node.child.refused
    with pytest.raises(ConfigError):
        nodes.turn(node.now, started=False)


def test_a_program_that_cannot_be_started_is_tried_again(watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bound", lambda command: ["/nowhere/python"])

    node = watch(SLEEPS)

    assert (node.child.state, node.child.exit_code) == ("restarting", None)
    assert "No such file" in node.child.reason


def test_a_dead_node_that_left_nothing_does_not_hold_up_the_stop(watch: Callable[..., Watched]) -> None:
    for left in (False, True):
        node = watch(FAILS, left=lambda: left)  # noqa: B023
        node.says()
        node.end()
        node.wait(1.0, lambda: node.child.pid is None)  # noqa: B023

        node.child.stop(node.now)

        assert node.child.exit_code == (None if left else 0)
        if left:
            assert node.child.retry_in_s(node.now) == 0.0


def test_a_replay_ends_without_a_finite_source_that_is_gone_for_good(watch: Callable[..., Watched]) -> None:
    ended, gone_one = watch(FAILS), watch(FAILS)
    ended.child.give_up()
    ended.end()
    assert ended.wait(1.0, lambda: ended.child.exit_code is not None)
    both, later = [ended.child, gone_one.child], int((GONE_S + 1) * SECOND)
    gone_one.says()
    gone_one.end()
    gone_one.wait(1.0, lambda: gone_one.child.pid is None)

    assert not finished(both, lambda _: True, gone_one.now)
    assert finished(both, lambda _: True, gone_one.now + later)
    assert not finished(both, lambda _: False, gone_one.now + later)
    assert not finished([gone_one.child], lambda _: True, gone_one.now + later)


def test_a_process_is_not_started_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    command = bound(["/bin/touch", str(tmp_path / "mark")])
    stranger = [str(os.getpid() + 1) if part == str(os.getpid()) else part for part in command]

    assert subprocess.run(command, timeout=60).returncode == 0
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").unlink()
    done = subprocess.run(stranger, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "has ended; not started" in done.stderr
    assert not (tmp_path / "mark").exists()


def test_a_bound_process_dies_with_its_parent() -> None:
    program = (
        "import subprocess; from pipeline.system.launch import bound;"
        " p = subprocess.Popen(bound(['/bin/sleep', '600'])); print(p.pid, flush=True); p.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    eventually(lambda: gone(pid))
