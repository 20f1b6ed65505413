"""Credits, dead workers, poison: what the giving side of the frame hop promises."""

import os
import subprocess

import pytest

from pipeline.core.errors import ProtocolError
from pipeline.transport.dispatch import LOST_NS, SILENT_NS, Dispatcher, process_lives
from pipeline.transport.leases import LeaseTable, Row, Slot
from pipeline.transport.messages import VERSION, Ack, Frame, Held, Message, Ready, held
from tests.unit.frames import meta


class Desk:
    """A dispatcher with what it sent and which frames ended."""

    def __init__(self, frames: int, slots: int = 16) -> None:
        self.table = LeaseTable(slots)
        self.sent: list[Frame] = []
        self.ended: list[tuple[int, str]] = []
        self.dispatcher = Dispatcher(self.table, self._send, self._done)
        for k in range(frames):
            slot = self.table.write()
            assert slot is not None
            self.table.ready(slot, meta(k))

    def _send(self, address: bytes, message: Message) -> None:
        assert isinstance(message, Frame)
        self.sent.append(message)

    def _done(self, slot: Slot, invalid: str) -> None:
        assert slot.meta is not None
        self.ended.append((slot.meta.frame, invalid))
        self.table.release(slot)

    def next_life(self) -> "Desk":
        """The desk of the capture process that adopts this one's ring."""
        after = Desk(frames=0, slots=len(self.table.slots))
        after.table.adopt([Row(s.generation, s.attempt, s.holder, s.leased, s.meta) for s in self.table.slots])
        after.dispatcher.expire(0)
        return after

    def ready(self, worker: str = "w", boot: str = "1", credits: int = 4, holds: tuple[Held, ...] = (), now: int = 0, pid: int = 0) -> None:
        message = Ready(version=VERSION, worker=worker, boot=boot, credits=credits, model=None, held=holds, pid=pid)
        self.dispatcher.receive(worker.encode(), message, now)
        self.dispatcher.grant(now)

    def ack(self, frame: Frame, invalid: str = "") -> None:
        self.dispatcher.receive(b"w", Ack(held=held(frame.ref), boot="1", invalid=invalid), 0)
        self.dispatcher.grant(0)

    def take(self) -> list[tuple[int, int]]:
        """(frame, attempt) of what was sent since the last call."""
        found = [(m.ref.meta.frame, m.ref.attempt) for m in self.sent]
        self.sent.clear()
        return found


def test_a_worker_gets_no_more_frames_than_it_has_credits() -> None:
    desk = Desk(frames=10)
    desk.ready(credits=3)

    assert desk.take() == [(0, 1), (1, 1), (2, 1)]


def test_an_acknowledged_frame_gives_its_credit_back() -> None:
    desk = Desk(frames=10)
    desk.ready(credits=2)
    first = desk.sent[0]
    desk.take()

    desk.ack(first)

    assert desk.ended == [(0, "")]
    assert desk.take() == [(2, 1)]


def test_an_acknowledgement_that_comes_twice_counts_once() -> None:
    desk = Desk(frames=3)
    desk.ready(credits=1)
    first = desk.sent[0]

    desk.ack(first)
    desk.ack(first)

    assert desk.ended == [(0, "")]
    assert desk.table.stale == 1


def test_a_restarted_worker_gets_its_frames_again_one_by_one() -> None:
    """A new life under a known name means that the old one is dead; a frame somebody died over travels alone."""
    desk = Desk(frames=6)
    desk.ready(boot="1", credits=3)
    desk.take()

    desk.ready(boot="2", credits=3)

    assert desk.take() == [(0, 2)]
    for expected in ([(1, 2)], [(2, 2)], [(3, 1), (4, 1), (5, 1)]):
        desk.ack(Frame(ref=desk.table.leased_to("w")[0].ref()))
        assert desk.take() == expected


def test_a_frame_over_which_two_workers_died_is_poison_and_the_others_are_not() -> None:
    desk = Desk(frames=3)
    for boot in "123":
        desk.ready(boot=boot, credits=3)

    assert desk.ended == [(0, "poison")]
    assert desk.take()[-1] == (1, 2)


def test_a_lease_that_the_worker_never_got_is_given_again_without_blame() -> None:
    """A message lost on the way heals itself: the heartbeat names what the worker holds."""
    desk = Desk(frames=1)
    desk.ready()
    assert desk.take() == [(0, 1)]

    desk.ready(holds=(), now=LOST_NS + 1)

    assert desk.take() == [(0, 1)]


def test_a_silent_worker_loses_its_frames_to_another() -> None:
    desk = Desk(frames=1)
    desk.ready(worker="silent")
    desk.take()

    desk.dispatcher.expire(SILENT_NS + 1)
    desk.ready(worker="other", now=SILENT_NS + 1)

    assert desk.take() == [(0, 2)]


def test_an_invalid_frame_ends_with_its_reason() -> None:
    desk = Desk(frames=1)
    desk.ready()

    desk.ack(desk.sent[0], invalid="truncated")

    assert desk.ended == [(0, "truncated")]


def test_after_capture_died_a_worker_goes_on_with_what_it_has_and_nobody_is_blamed() -> None:
    desk = Desk(frames=3)
    desk.ready(credits=2)
    having = tuple(held(m.ref) for m in desk.sent)

    after = desk.next_life()
    after.ready(credits=2, holds=having)

    assert after.take() == []
    after.dispatcher.receive(b"w", Ack(held=having[0], boot="1"), 0)
    after.dispatcher.grant(0)
    assert after.ended == [(0, "")]
    assert after.take() == [(2, 1)]


def test_a_frame_that_was_on_its_way_when_capture_died_is_given_again_without_blame() -> None:
    desk = Desk(frames=1)
    desk.ready()

    after = desk.next_life()
    after.ready(now=0)
    after.ready(now=LOST_NS + 1)

    assert after.take() == [(0, 1)]


def test_a_worker_that_died_with_capture_is_counted_as_dead() -> None:
    desk = Desk(frames=2)
    desk.ready(boot="1", credits=2)

    after = desk.next_life()
    after.ready(worker="other", now=0)
    assert after.take() == []
    after.ready(boot="2", credits=2)

    assert after.take() == [(0, 2), (1, 2)]  # each alone: one went to the other worker


def test_the_second_death_poisons_a_frame_though_capture_died_between_the_two() -> None:
    desk = Desk(frames=1)
    desk.ready(boot="1")
    after = desk.next_life()
    after.ready(boot="2")

    later = after.next_life()
    later.ready(boot="3")

    assert later.ended == [(0, "poison")]


def test_a_worker_that_never_comes_back_after_capture_died_loses_its_frames() -> None:
    desk = Desk(frames=1)
    desk.ready(worker="gone")

    after = desk.next_life()
    after.dispatcher.expire(SILENT_NS + 1)
    after.ready(worker="other", now=SILENT_NS + 1)

    assert after.take() == [(0, 2)]


def test_a_worker_that_lives_is_not_replaced_by_whoever_takes_its_name() -> None:
    """Its frames stay its own, and none of them counts a death."""
    desk = Desk(frames=3)
    desk.ready(boot="1", credits=2, pid=os.getpid())
    assert desk.take() == [(0, 1), (1, 1)]

    for _ in range(3):
        with pytest.raises(ProtocolError, match="another process uses its name"):
            desk.ready(boot="impostor", credits=16)

    assert desk.take() == []
    assert [slot.attempt for slot in desk.table.leased_to("w")] == [1, 1]


def test_a_process_that_has_ended_does_not_live() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: it has ended, nobody has asked for it
    assert not process_lives(process.pid)
    process.wait()
    assert not process_lives(process.pid)
    assert process_lives(os.getpid())
