"""The capture node at its end, over real sockets: no frame is given up while its verdict may become durable unseen."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodes.capture.node import _Capture, open_source
from nodes.capture.sources.video import VideoSource
from pipeline.config import Camera, Config, Infer
from pipeline.config.topology import find_process
from pipeline.core.frame import Coverage, FrameRef, Gap, Publishable, Verdict
from pipeline.runtime.node import NodeContext
from pipeline.transport.frame_receiver import FrameReceiver
from pipeline.transport.messages import Durable, Submit
from pipeline.transport.ring import Ring, new_memfd
from pipeline.transport.sockets import Router
from tests.videos import moving, write_video

EPOCH = "a" * 32


class Hasty(NodeContext):
    """A node whose time to finish is over as soon as it is told to stop."""

    @property
    def out_of_time(self) -> bool:
        return self.stopping


class Line:
    """A capture node with a worker that holds what it gets, and a publish that answers when the test wants."""

    def __init__(self, folder: Path, source_url: str, frames: int | None = None, **more: object) -> None:
        camera = Camera(source=source_url, slots=8, **more)  # type: ignore[arg-type]
        config = Config(line="l", cameras={"top": camera}, infer=Infer(model="m"), state_dir=str(folder))
        self.node = Hasty(config, find_process(config, "capture.top"), folder, frames=frames)
        self.publish = Router(self.node.endpoints.publish)
        source = open_source(self.node, camera, EPOCH, None)
        self.ring = Ring.create(new_memfd("test"), camera.slots, source.slot_bytes)
        self.capture = _Capture(self.node, source, self.ring, EPOCH)
        self.held: list[FrameRef] = []
        self.worker = FrameReceiver(self.node.endpoints.frames("top"), "inspect", 2, lambda message, _: self.held.append(message.ref))
        self.submitted: dict[str, tuple[bytes, Publishable]] = {}
        self.ledgers: dict[int, Coverage] = {}
        self.alive, self.worker_runs = True, True

    def wait(self, until: Callable[[], object], *, turns: int = 0) -> None:
        """Turn everything until it is so, and for some turns more."""
        deadline = time.monotonic() + 30
        while not until() or (turns := turns - 1) >= 0:
            assert time.monotonic() < deadline
            self.alive = self.alive and self.capture.turn()
            if self.worker_runs:
                self.worker.turn(time.monotonic_ns())
            for address, message, _ in self.publish.receive():
                assert isinstance(message, Submit)
                self.submitted[message.record.key] = address, message.record
                if isinstance(message.record, Coverage):
                    self.ledgers[message.record.number] = message.record
            time.sleep(0.001)

    def rests(self) -> bool:
        """Whether capture's loop waits for something to come."""
        return self.capture.wait_ms() > 0

    def ended(self) -> bool:
        """Confirm whatever comes; whether capture has ended over it."""
        self.confirm()
        return not self.alive

    def gaps(self) -> list[Gap]:
        """Those that wait for an answer."""
        return [r for _, r in self.submitted.values() if isinstance(r, Gap)]

    def confirm(self, **stands: str) -> None:
        """Everything that was submitted is durable; of these frames another verdict stands."""
        known = {f"verdict/top/{EPOCH}/{frame.removeprefix('f')}": s for frame, s in stands.items()}
        for key, (address, _) in self.submitted.items():
            self.publish.send(address, Durable(keys=(key,), stands={k: s for k, s in known.items() if k == key}))
        self.submitted.clear()

    def close(self) -> None:
        self.capture.close()
        self.publish.close()
        self.worker.dealer.close()
        self.node.close()


@pytest.fixture
def line(tmp_path: Path, make_images: Callable[..., list[Path]]) -> Iterator[Line]:
    make_images(tmp_path / "images", 6)
    found = Line(tmp_path, f"folder:{tmp_path / 'images'}", frames=6)
    yield found
    found.close()


@pytest.fixture
def endless(tmp_path: Path, make_images: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Line]]:
    """Makes a line whose camera never ends; its worker has got frames, and then is gone for so long that it is forgotten."""
    made: list[Line] = []

    def make(when_full: str) -> Line:
        make_images(tmp_path / "images", 6)
        line = Line(tmp_path, f"folder:{tmp_path / 'images'}?fps=100&loop=true", when_full=when_full)
        made.append(line)
        line.wait(lambda: line.held)
        line.worker_runs = False
        monkeypatch.setattr("pipeline.transport.dispatch.SILENT_NS", 100_000_000)
        line.wait(lambda: not line.capture._dispatcher.has_worker)
        return line

    yield make
    for line in made:
        line.close()


def test_out_of_time_it_asks_publish_what_became_of_the_frames_that_were_leased(line: Line) -> None:
    """Of six frames a worker has two; the verdict of one of them is durable already."""
    line.wait(lambda: len(line.held) == 2 and line.ring.state.ended)
    line.node.stop()
    line.wait(lambda: sum(isinstance(r, Verdict) for _, r in line.submitted.values()) == 2)
    verdicts = [r for _, r in line.submitted.values() if isinstance(r, Verdict)]
    assert sorted((v.meta.frame, v.invalid) for v in verdicts) == [(0, "shutdown"), (1, "shutdown")]

    line.confirm(f1="")
    line.wait(lambda: line.gaps() or not line.alive)
    assert [(g.first, g.last, g.reason) for g in line.gaps()] == [(2, 5, "shutdown")]
    line.wait(line.ended)

    account = line.ring.state.account()
    assert (account.inspected, account.dropped, account.in_flight) == (1, {"shutdown": 5}, 0)


def test_it_does_not_end_before_publish_has_its_gaps(line: Line) -> None:
    line.wait(lambda: len(line.held) == 2 and line.ring.state.ended)
    line.node.stop()

    line.wait(lambda: sum(isinstance(r, Verdict) for _, r in line.submitted.values()) == 2)
    line.confirm()
    line.wait(line.gaps, turns=50)
    assert line.alive

    line.wait(line.ended)


def test_a_live_camera_goes_on_and_says_what_it_drops_while_no_worker_is_known(endless: Callable[..., Line]) -> None:
    line = endless("drop_oldest")

    line.wait(lambda: line.ring.state.account().dropped.get("full", 0) > 20 and line.gaps())
    line.wait(line.rests)

    assert not line.capture._dispatcher.has_worker
    assert all(g.reason == "full" for g in line.gaps())


def test_a_replay_fills_its_ring_and_rests_while_no_worker_is_known(endless: Callable[..., Line]) -> None:
    line = endless("block")

    line.wait(lambda: line.ring.state.account().in_flight == 8)
    line.wait(line.rests)

    assert line.ring.state.account().dropped == {}


def test_while_publish_takes_nothing_one_ledger_waits_and_the_last_one_is_sent(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nodes.capture.node.COVERAGE_NS", 0)
    line.wait(lambda: line.ring.state.ended and line.ledgers, turns=20)
    line.node.stop()
    line.wait(lambda: line.submitted, turns=20)
    assert list(line.ledgers) == [0]

    line.wait(line.ended)

    assert line.ledgers[max(line.ledgers)].account == line.ring.state.account()
    assert line.ring.state.account().in_flight == 0


def test_it_rests_while_a_decoder_has_no_picture_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that asks again and again would take the processor from the decoder that it waits for."""
    go = threading.Event()
    frames = VideoSource._frames

    def slow(self: VideoSource, container: object, key: int) -> Iterator[object]:
        for at, frame in frames(self, container, key):
            if at >= 2:
                go.wait(30)
            yield at, frame

    monkeypatch.setattr(VideoSource, "_frames", slow)
    line = Line(tmp_path, f"video:{write_video(tmp_path / 'clip.mkv', moving(10))}", when_full="block")
    try:
        line.wait(lambda: line.ring.state.next_frame == 2, turns=3)
        assert line.rests()
    finally:
        go.set()
        line.close()
