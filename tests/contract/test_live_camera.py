"""A camera that lives: it may send nothing yet, lose frames, fall silent, die and come back, and capture's heart beats on."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.capture.camera_watch import MOST_LOSSES
from nodes.capture.node import _Capture
from nodes.capture.sources.source import NOTHING, Awaited
from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import find_process
from pipeline.core.frame import Alarm, FrameMeta, FrameRef, Gap, Publishable
from pipeline.runtime.node import NodeContext
from pipeline.transport.frame_receiver import FrameReceiver
from pipeline.transport.messages import Durable, Submit
from pipeline.transport.ring import Ring, new_memfd
from pipeline.transport.sockets import Router
from tests.contract.live_camera import BYTES, LiveCamera, SocketSource


class Line:
    """A capture node on the socket ``camera``, a worker that takes all it gets, and a publish that takes all."""

    def __init__(self, folder: Path, fd: int | None = None, frames: int | None = None, **more: Any) -> None:
        camera = Camera(source="folder:x", slots=8, **more)
        config = Config(line="l", cameras={"top": camera}, infer=Infer(model="m"), state_dir=str(folder))
        self.node = NodeContext(config, find_process(config, "capture.top"), folder, frames=frames)
        self.publish = Router(self.node.endpoints.publish)
        self.fd = new_memfd("test") if fd is None else fd
        ring = Ring.create(self.fd, camera.slots, BYTES) if fd is None else Ring.adopt(fd)
        assert ring is not None
        self.ring = ring
        self.capture = _Capture(self.node, SocketSource(folder / "camera"), self.ring, f"{time.monotonic_ns():032x}")
        self.worker = FrameReceiver(self.node.endpoints.frames("top"), "inspect", 4, lambda message, _: self._take(message.ref))
        self.frames: list[tuple[FrameMeta, int]] = []
        self.records: list[Publishable] = []
        self.slowest_s = 0.0
        self.takes = True
        self.held: list[FrameRef] = []
        self.slow_turns = 0
        """Waits that lasted longer than a look at the sockets."""

    def _take(self, ref: FrameRef) -> None:
        self.frames.append((ref.meta, int(self.ring.slot(ref.slot)[0])))
        self.held.append(ref)
        if self.takes:
            self.give_back()

    def give_back(self) -> None:
        for ref in self.held:
            self.worker.ack(ref)
        self.held.clear()

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not until():
            assert time.monotonic() < deadline
            began = time.monotonic()
            assert self.capture.turn()
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.worker.turn(time.monotonic_ns())
            for address, message, _ in self.publish.receive():
                assert isinstance(message, Submit)
                self.records.append(message.record)
                self.publish.send(address, Durable(keys=(message.record.key,)))
            began = time.monotonic()
            self.capture.wait()
            self.slow_turns += time.monotonic() - began > 0.003

    def gaps(self) -> list[tuple[int, int | None, str]]:
        return [(r.first, r.last, r.reason) for r in self.records if isinstance(r, Gap)]

    def alarms(self) -> list[tuple[str, bool]]:
        return [(r.name, r.active) for r in self.records if isinstance(r, Alarm)]

    def close(self) -> None:
        self.capture.close()
        self.publish.close()
        self.worker.dealer.close()
        self.node.close()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    found = Line(tmp_path)
    yield found
    found.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., LiveCamera]]:
    made: list[LiveCamera] = []

    def begin(**how: Any) -> LiveCamera:
        made.append(LiveCamera(tmp_path / "camera", **how))
        return made[-1]

    yield begin
    for camera in made:
        camera.die()


def test_frames_come_as_the_camera_sends_them(line: Line, start: Callable[..., LiveCamera]) -> None:
    start(first=100)

    line.wait(lambda: len(line.frames) >= 20)

    assert [meta.frame for meta, _ in line.frames[:20]] == list(range(20))
    first = line.frames[0][1]
    assert [value for _, value in line.frames[:20]] == [(first + k) % 256 for k in range(20)]
    assert line.gaps() == []


def test_frames_that_never_came_are_a_gap_and_counted(line: Line, start: Callable[..., LiveCamera]) -> None:
    start(skipped=(10, 11, 12, 20))

    line.wait(lambda: len([g for g in line.gaps() if g[2] == "lost"]) == 2)

    assert [g for g in line.gaps() if g[2] == "lost"] == [(10, 12, "lost"), (20, 20, "lost")]
    account = line.ring.state.account()
    assert account.dropped == {"lost": 4}
    assert account.acquired == account.inspected + account.in_flight + 4
    assert all(meta.frame % 256 == value for meta, value in line.frames), "a frame has the place that the camera gave it"


@pytest.mark.parametrize("how", ["die", "stall"])
def test_a_camera_that_is_lost_is_told_once_and_begins_an_epoch_when_it_is_back(
    line: Line, start: Callable[..., LiveCamera], how: str
) -> None:
    camera = start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    getattr(camera, how)()
    line.wait(lambda: line.alarms() and any(g[2] == "camera_lost" for g in line.gaps()))
    before = len(line.frames)

    start() if how == "die" else camera.go_on()
    line.wait(lambda: len(line.frames) >= before + 5 and len(line.alarms()) == 2)

    assert line.alarms() == [("camera_lost:top", True), ("camera_lost:top", False)]
    assert [(g[1], g[2]) for g in line.gaps() if g[2] != "lost"] == [(None, "camera_lost")]
    epochs = [meta.epoch for meta, _ in line.frames]
    assert len(set(epochs)) == 2
    assert [meta.frame for meta, _ in line.frames] == list(range(len(line.frames)))
    assert line.slowest_s < 1, "no turn waits for the camera"


def test_what_is_told_of_a_lost_camera_is_told_once_though_capture_dies(
    tmp_path: Path, line: Line, start: Callable[..., LiveCamera]
) -> None:
    """The next capture process tells the same again, which publish knows by its key, and then that the camera is back."""
    camera = start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    camera.die()
    line.wait(line.alarms)
    (begun,) = [r.key for r in line.records if isinstance(r, Alarm)]
    line.close()

    again = Line(tmp_path, line.fd)
    try:
        again.wait(lambda: again.alarms())
        start()
        again.wait(lambda: len(again.frames) >= 5 and len(again.alarms()) >= 2)
        assert [r.key for r in again.records if isinstance(r, Alarm) and r.active] == [begun]
        assert again.alarms()[-1] == ("camera_lost:top", False)
        assert again.ring.state.camera_lost == (0, 0)
    finally:
        again.close()
        line.close = lambda: None  # type: ignore[method-assign]


def test_a_loss_is_told_although_the_camera_is_back_before_there_is_room_for_it(
    line: Line, start: Callable[..., LiveCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No frame is taken until then, and the loop rests although the camera sends."""
    camera = start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    before = len(line.frames)
    with monkeypatch.context() as full:
        full.setattr("nodes.capture.frame_outcomes.FrameOutcomes.gaps_full", True)
        camera.die()
        line.wait(lambda: line.capture._watch._why)
        start()
        line.wait(lambda: line.capture._source.look(0).ready and line.capture._full)
        line.wait(lambda: len(line.frames) == line.ring.state.next_frame)
    assert line.alarms() == []
    told = len(line.frames)

    line.wait(lambda: len(line.frames) >= before + 10 and len(line.alarms()) == 2)

    assert [g for g in line.gaps() if g[2] == "camera_lost"] == [(told, None, "camera_lost")]


def test_a_second_loss_waits_until_the_end_of_the_first_is_durable(line: Line, start: Callable[..., LiveCamera]) -> None:
    camera = start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    for _ in range(3):
        epoch = line.ring.state.epoch
        camera.die()
        camera = start()
        line.wait(lambda e=epoch: line.ring.state.epoch != e)  # type: ignore[misc]
    line.wait(lambda: len(line.alarms()) == 6)

    assert line.alarms() == [("camera_lost:top", True), ("camera_lost:top", False)] * 3
    assert [g[1:] for g in line.gaps() if g[2] == "camera_lost"] == [(None, "camera_lost")] * 3


def test_numbers_of_a_device_that_count_again_are_a_loss_and_not_a_million_frames(line: Line, start: Callable[..., LiveCamera]) -> None:
    start(first=10)
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    line.capture._watch._number = 5_000_000

    line.wait(lambda: len(line.alarms()) == 2)

    assert [g[2] for g in line.gaps()] == ["camera_lost"]
    assert line.ring.state.account().dropped == {}


def test_lost_frames_beyond_those_that_were_asked_for_do_not_count(tmp_path: Path, start: Callable[..., LiveCamera]) -> None:
    line = Line(tmp_path, frames=8)
    start(skipped=tuple(range(5, 50)), every_s=0.001)
    try:
        line.wait(lambda: line.ring.state.ended)
        assert line.ring.state.account().acquired == 8
        assert line.ring.state.account().dropped == {"lost": 3}
    finally:
        line.close()


def test_the_loop_rests_while_the_camera_sends_nothing(line: Line, start: Callable[..., LiveCamera]) -> None:
    start(every_s=1000)
    line.wait(lambda: len(line.frames) >= 1)

    assert line.capture.turn()
    assert line.capture.wait_ms() > 0


def test_a_full_ring_that_waits_is_no_loss(tmp_path: Path, start: Callable[..., LiveCamera]) -> None:
    """The frame that waits is looked at again and again, and the loop rests although the camera sends."""
    line = Line(tmp_path, when_full="block")
    line.takes = False
    start()
    try:
        line.wait(lambda: line.capture._table.free == 0)
        for _ in range(50):
            line.capture.turn()
        assert line.capture.wait_ms() > 0
        assert line.alarms() == []

        line.takes = True
        line.give_back()
        line.wait(lambda: len(line.frames) >= 30)
        assert {g[2] for g in line.gaps()} <= {"lost"}
        assert line.alarms() == []
    finally:
        line.close()


def test_what_a_live_camera_sent_while_capture_was_dead_is_a_gap_also_where_the_ring_may_block(
    tmp_path: Path, start: Callable[..., LiveCamera]
) -> None:
    line = Line(tmp_path, when_full="block")
    start()
    line.wait(lambda: len(line.frames) >= 5)
    line.close()

    again = Line(tmp_path, line.fd, when_full="block")
    try:
        start()
        again.wait(lambda: len(again.frames) >= 5 and again.gaps())
        assert again.gaps()[0][1:] == (None, "capture_died")
    finally:
        again.close()


def test_a_line_that_stops_does_not_listen_to_the_camera_any_more(line: Line, start: Callable[..., LiveCamera]) -> None:
    start()
    line.takes = False
    line.wait(lambda: len(line.held) >= 4)
    line.node.stop()
    assert line.capture.turn()

    line.slow_turns = 0
    line.wait(lambda: line.slow_turns >= 5)


def test_a_camera_that_flaps_is_no_storm(line: Line, start: Callable[..., LiveCamera], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers are random: five losses are told, then it is not believed until the minute is over; the loop goes on."""
    start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()
    real = line.capture._source.look

    def garbled(frame: int) -> Awaited:
        found = real(frame)
        return Awaited(ready=True, number=time.monotonic_ns() % (1 << 60)) if found.ready else found

    with monkeypatch.context() as wrong:
        wrong.setattr(line.capture._source, "look", garbled)
        line.wait(lambda: line.capture._watch.resting)
        turns = 0

        def some_turns() -> bool:
            nonlocal turns
            turns += 1
            return turns > 200

        line.wait(some_turns)
    assert len(line.alarms()) == 2 * MOST_LOSSES - 1
    before = len(line.frames)

    monkeypatch.setattr("nodes.capture.camera_watch.CALM_S", 0)
    line.wait(lambda: len(line.frames) >= before + 5 and len(line.alarms()) == 2 * MOST_LOSSES)


def test_a_capture_process_that_stood_still_does_not_take_its_camera_for_silent(
    line: Line, start: Callable[..., LiveCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting on a loaded machine, or stopped for a while; its first look may find no connection yet."""
    monkeypatch.setattr("tests.contract.live_camera.SILENT_S", 1000)
    line.capture._watch._silent_s = 0.5
    start()
    for _ in range(2):
        time.sleep(1)
        assert not line.capture._watch.admit(NOTHING, None)
        before = len(line.frames)
        line.wait(lambda before=before: len(line.frames) >= before + 5)  # type: ignore[misc]

    assert line.alarms() == []


def test_a_camera_that_falls_silent_is_lost_where_its_source_leaves_that_to_capture(
    line: Line, start: Callable[..., LiveCamera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.contract.live_camera.SILENT_S", 1000)
    line.capture._watch._silent_s = 0.2
    camera = start()
    line.wait(lambda: len(line.frames) >= 5)
    line.records.clear()

    camera.stall()
    line.wait(lambda: len(line.alarms()) == 1)
    camera.go_on()
    line.wait(lambda: len(line.alarms()) == 2)

    assert line.alarms() == [("camera_lost:top", True), ("camera_lost:top", False)]
