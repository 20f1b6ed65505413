"""The publish node at its end: what it holds becomes events, whenever it is told to stop."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from nodes.publish.node import _Publish, publish
from nodes.publish.record_store import Store
from nodes.publish.spool.salvage import open_spool
from nodes.publish.spool.spool import Spool
from pipeline.client import Events
from pipeline.config import Publish
from pipeline.config.topology import find_process
from pipeline.core.frame import ModelId, Verdict
from pipeline.core.status import Facts, NodeState
from pipeline.runtime.node import NodeContext
from pipeline.transport.outbox import Outbox
from tests.conftest import Server
from tests.unit.frames import meta
from tests.unit.test_stitching import CONFIG, END, START, part


class Stopped(NodeContext):
    """Told to stop as its first heartbeat goes out: the supervisor may act on it while the turn of the loop goes on."""

    def beat(self, state: NodeState, facts: Callable[[], Facts] = Facts, *, now: bool = False) -> None:
        super().beat(state, facts, now=now)
        if not self.stopping:
            self.stop()


@pytest.fixture
def node(server: Server, tmp_path: Path) -> Iterator[NodeContext]:
    config = msgspec.structs.replace(CONFIG, state_dir=str(tmp_path), publish=Publish(redis=server.url))
    node = Stopped(config, find_process(config, "publish"), tmp_path)
    yield node
    node.close()


def test_parts_become_events_whenever_the_node_is_told_to_stop(node: NodeContext, server: Server) -> None:
    spool = Spool(node.config.state / "spool" / "events.db", durable=True)
    spool.append([("verdict/5", []), ("verdict/6", [])], {"verdict/5": [part(5, END)], "verdict/6": [part(6, START)]})

    publish(node)

    assert spool.held() == []
    spool.close()
    with Events(server.url, node.config.stream) as stream:
        assert [e["frame"] for e in stream.read()] == [5]


def verdict(frame: int, invalid: str) -> Verdict:
    model = None if invalid else ModelId(name="m", digest="sha256:0")
    return Verdict(meta=meta(frame, camera="top"), attempt=1, model=model, invalid=invalid)


def submitted(node: NodeContext, *verdicts: Verdict) -> list[str]:
    """What publish says of these verdicts, given one after the other, each by a process of its own."""
    path = node.config.state / "spool" / "events.db"
    path.parent.mkdir()
    work, told = _Publish(node, path, *open_spool(path)), list[str]()
    try:
        for verdict in verdicts:
            outbox = Outbox(node.endpoints.publish)
            outbox.submit(verdict, 0, told.append)
            deadline = time.monotonic() + 20
            while len(outbox):
                assert time.monotonic() < deadline
                work.turn()
                outbox.turn(0)
            outbox.dealer.close()
    finally:
        work.close()
    return told


def test_the_first_verdict_of_a_frame_stands_and_later_ones_are_told_which_it_is(node: NodeContext) -> None:
    """Else a frame that was inspected would be counted as poison, when its worker died after it had said so."""

    said = [(1, ""), (1, "poison"), (2, "poison"), (2, ""), (3, "truncated"), (3, "shutdown"), (3, "truncated")]

    assert submitted(node, *[verdict(*s) for s in said]) == ["", "", "poison", "poison", "truncated", "truncated", "truncated"]


def test_two_verdicts_of_a_frame_that_come_at_once_are_told_which_stands(node: NodeContext) -> None:
    path = node.config.state / "spool" / "events.db"
    path.parent.mkdir()
    spool, _ = open_spool(path)
    store = Store(node.config, spool, path, node.log, lambda *_: None)
    store.offer(b"worker", verdict(1, ""))
    store.offer(b"capture", verdict(1, "poison"))

    durable = store.turn(time.monotonic_ns(), ending=False)
    spool.close()

    key = verdict(1, "").key
    assert durable == {b"worker": {key: ""}, b"capture": {key: ""}}
