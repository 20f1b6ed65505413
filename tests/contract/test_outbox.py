"""The publish hop's sending side, over real ZeroMQ: a frame has one verdict, and whoever gave another one is told which."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.core.frame import Verdict
from pipeline.transport.messages import Durable, Submit
from pipeline.transport.outbox import RESEND_NS, Outbox
from pipeline.transport.sockets import Router
from tests.unit.frames import meta


def verdict(frame: int, invalid: str = "") -> Verdict:
    return Verdict(meta=meta(frame), attempt=1, model=None, invalid=invalid)


class Hop:
    """An outbox and the socket that it sends to."""

    def __init__(self, endpoint: str) -> None:
        self.router, self.outbox = Router(endpoint), Outbox(endpoint)
        self.got: list[tuple[bytes, Submit]] = []

    def wait(self, until: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not until():
            assert time.monotonic() < deadline
            self.outbox.turn(0)
            self.got += [(a, m) for a, m, _ in self.router.receive() if isinstance(m, Submit)]
            time.sleep(0.001)

    def reply(self, stands: str | None = None) -> None:
        address, message = self.got.pop(0)
        key = message.record.key
        self.router.send(address, Durable(keys=(key,), stands={} if stands is None else {key: stands}))


@pytest.fixture
def hop(tmp_path: Path) -> Iterator[Hop]:
    found = Hop(f"ipc://{tmp_path}/publish")
    yield found
    found.router.close()
    found.outbox.dealer.close()


@pytest.mark.parametrize(("stands", "expected"), [(None, "poison"), ("truncated", "truncated"), ("", "")])
def test_a_sender_is_told_which_verdict_stands(hop: Hop, stands: str | None, expected: str) -> None:
    told: list[str] = []
    hop.outbox.submit(verdict(3, "poison"), 0, told.append)
    hop.wait(lambda: hop.got)

    hop.reply(stands)
    hop.wait(lambda: told)

    assert told == [expected]
    assert len(hop.outbox) == 0


def test_a_frame_that_came_by_two_ways_is_submitted_once_and_both_are_told(hop: Hop) -> None:
    told: list[tuple[str, str]] = []
    hop.outbox.submit(verdict(3), 0, lambda stands: told.append(("first", stands)))
    hop.outbox.submit(verdict(3, "model"), 0, lambda stands: told.append(("second", stands)))
    hop.wait(lambda: hop.got)

    hop.reply()
    hop.wait(lambda: told)

    assert told == [("first", ""), ("second", "")]
    assert hop.got == []


def test_what_is_not_confirmed_is_sent_again(hop: Hop) -> None:
    hop.outbox.submit(verdict(3), 0)
    hop.outbox.turn(RESEND_NS)

    hop.wait(lambda: len(hop.got) == 2)


def test_what_is_sent_again_goes_with_all_that_came_after_it(hop: Hop) -> None:
    """Publish takes nothing whose predecessor it lacks: each would be late by as much as the first one, for ever."""
    hop.outbox.submit(verdict(3), 0)
    hop.outbox.submit(verdict(4), RESEND_NS // 2)
    hop.outbox.turn(RESEND_NS)

    hop.wait(lambda: len(hop.got) == 4)
    assert [(m.record.key, m.after) for _, m in hop.got[2:]] == [(verdict(3).key, ""), (verdict(4).key, verdict(3).key)]


def test_while_publish_is_away_the_copies_that_pile_up_are_bounded(tmp_path: Path) -> None:
    outbox = Outbox(f"ipc://{tmp_path}/nobody")
    outbox.submit(verdict(3), 0)

    for k in range(1, 3000):
        outbox.turn(k * RESEND_NS)

    assert outbox.dealer.unsent >= 1500
    outbox.dealer.close()
