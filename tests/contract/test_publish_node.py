"""The publish node at its end: what it holds becomes events, whenever it is told to stop."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.publish.node import publish
from nodes.publish.spool import Spool
from pipeline.client import Events
from pipeline.config import Publish
from pipeline.node_main import Node
from pipeline.topology import find_process
from tests.conftest import Server
from tests.unit.test_joiner import CONFIG, END, START, piece


class Stopped(Node):
    """Told to stop as its first heartbeat goes out: the supervisor may act on it while the turn of the loop goes on."""

    def beat(self, state: str, facts: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        super().beat(state, facts, now=now)
        if not self.stopping:
            self.stop()


@pytest.fixture
def node(server: Server, tmp_path: Path) -> Iterator[Node]:
    config = msgspec.structs.replace(CONFIG, state_dir=str(tmp_path), publish=Publish(redis=server.url))
    node = Stopped(config, find_process(config, "publish"), tmp_path)
    yield node
    node.close()


def test_pieces_become_events_whenever_the_node_is_told_to_stop(node: Node, server: Server) -> None:
    spool = Spool(node.config.state / "spool" / "events.db", durable=True)
    spool.append([("verdict/5", []), ("verdict/6", [])], {"verdict/5": [piece(5, END)], "verdict/6": [piece(6, START)]})

    publish(node)

    assert spool.held() == []
    spool.close()
    with Events(server.url, node.config.stream) as stream:
        assert [e["frame"] for e in stream.read()] == [5]
