"""Somebody of the same user sends a line what no node of it sends: it runs on, delivers everything, and counts."""

import contextlib
import random
import socket
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from pipeline.config import load
from pipeline.config.topology import runtime_dir
from pipeline.transport.messages import Submit, encode
from tests.system.line import Line, balanced
from tests.unit.test_message_checks import READY, TO_DISPATCHER, TO_PUBLISH, TO_SUPERVISOR, VERDICT, change

FRAMES = 800
IMPOSTORS = [change(READY, worker=name, credits=16) for name in ("inspect", "pre", "gpu")]


def garbage(rng: random.Random) -> list[list[bytes]]:
    """Bytes that are no message, messages cut short or with a byte changed, odd numbers of parts."""
    whole = [encode(m) for m in (READY, Submit(record=VERDICT), *TO_SUPERVISOR[:3])]
    found = [[rng.randbytes(rng.randrange(200))] for _ in range(30)]
    found += [[data[: rng.randrange(len(data))]] for data in whole for _ in range(5)]
    found += [[data] + [b"part"] * rng.choice([3, 4, 9, 50]) for data in whole]
    found += [[b""], [b"", b"", b""], [b"\xdd\xff\xff\xff\xff"], [b"\x81" * 5000], [b"x" * 1_000_000]]
    for data in whole[1:]:  # the message type is spelt wrong
        found.append([data.replace(b"type", b"tyqe")])
    return found


def attack(folder: Path, rng: random.Random) -> Counter[str]:
    """Send everything to every endpoint; returns how many messages went to each."""
    sent: Counter[str] = Counter()
    context = zmq.Context()
    for path in (p for p in folder.rglob("*") if stat.S_ISSOCK(p.lstat().st_mode)):
        with socket.socket(socket.AF_UNIX) as peer:  # not even ZeroMQ, and gone at once
            peer.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # capture's ring socket says what it has to say and hangs up
                peer.sendall(rng.randbytes(64))
        if path.name.startswith(("ring-", "redis")):
            continue
        wrong = {"supervisor": TO_SUPERVISOR, "publish": TO_PUBLISH}.get(path.name, TO_DISPATCHER + IMPOSTORS)
        messages = [[encode(m)] for m in wrong] + garbage(rng)
        rng.shuffle(messages)
        peer_socket = context.socket(zmq.DEALER)
        peer_socket.setsockopt(zmq.LINGER, 10_000)
        peer_socket.connect(f"ipc://{path}")
        for parts in messages:
            peer_socket.send_multipart(parts)
        peer_socket.close()
        sent[path.name] = len(messages)
    context.term()
    return sent


def refused(status: dict[str, Any]) -> dict[str, int]:
    return {name: node["refused"] for name, node in status["nodes"].items()} | {"supervisor": status["refused"]}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("apart", [False, True], ids=["inspect", "preprocess and infer apart"])
def test_wrong_messages_end_nothing_and_are_counted(
    make_line: Callable[..., Line], make_images: Callable[..., list[Path]], tmp_path: Path, apart: bool
) -> None:
    make_images(tmp_path / "images", FRAMES)
    line = make_line(placement={"pre": ["preprocess"], "gpu": ["infer"]}) if apart else make_line()
    line.start()
    line.wait_inspected(20)

    sent = attack(runtime_dir(load(line.config)), random.Random(1))

    receivers = {"frames-top": "capture.top", "publish": "publish", "supervisor": "supervisor"} | ({"tiles": "pre"} if apart else {})
    assert set(sent) == set(receivers)
    assert min(sent.values()) > 90
    wanted = {node: sent[endpoint] for endpoint, node in receivers.items()}
    status = line.wait_until(lambda s: all(refused(s)[node] >= n for node, n in wanted.items()), f"{wanted} refused")
    assert refused(status) == {**dict.fromkeys(refused(status), 0), **wanted}
    for node, endpoint in (("capture.top", "frames-top"), ("publish", "publish")):
        assert f"{endpoint}: refused a message" in line.log, node

    summary = line.finish()

    top = summary["cameras"]["top"]
    assert (top["inspected"], top["dropped"], top["invalid"]) == (FRAMES, {}, {}), line.log
    assert len(top["epochs"]) == 1
    assert summary["restarts"] == {}
    assert balanced(top)
    events = line.defects()
    assert sorted(str(e["source"]) for e in events) == [f"image_{k:04}.jpg" for k in range(FRAMES)]
    assert {e["attempt"] for e in events} == {1}
    everything = line.events("--run", "last")
    assert {kind: sum(e["type"] == kind for e in everything) for kind in summary["events"]} == summary["events"]
    assert summary["events"]["alarm"] == 0
    assert "refused" in line.cli("status").stdout
