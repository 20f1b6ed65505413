"""What a sender may not say: well-formed messages with values that no node of this line sends."""

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pipeline.config import Camera, Config, Infer
from pipeline.core import ledger
from pipeline.core.errors import ProtocolError
from pipeline.core.frame import Alarm, Coverage, Defect, FrameMeta, FrameRef, Gap, ModelId, Verdict
from pipeline.core.status import Facts, NodeState
from pipeline.transport.messages import (
    VERSION,
    Ack,
    Durable,
    End,
    Frame,
    Heartbeat,
    Held,
    Message,
    Ready,
    Submit,
    decode,
    encode,
    from_child,
    from_client,
    from_worker,
)
from tests.unit.frames import meta

CONFIG = Config(line="line1", cameras={"top": Camera(source="folder:x")}, infer=Infer(model="m"), state_dir="x")
READY = Ready(version=VERSION, worker="inspect", boot="b", credits=3, model=None)
HELD = Held(epoch="e", frame=0, slot=0, generation=1)
ACK = Ack(held=HELD, boot="b")
STATUS = Heartbeat(node="publish", pid=7, boot="b", state=NodeState.RUNNING, progress=3, facts=Facts(events={"defect": 3}))
DEFECT = Defect(label="l", score=0.5, scores={"l": 0.5}, box_px=(0, 0, 1, 1), png=b"\x89PNG")
VERDICT = Verdict(meta=meta(0), attempt=1, model=ModelId(name="m", digest="d"), tiles=1, defects=(DEFECT,))
GAP = Gap(camera="top", epoch="e", first=3, last=5, reason="full", at_ns=1)
ACCOUNT = ledger.NOTHING_YET
COVERAGE = Coverage(camera="top", epoch="e", number=1, account=ACCOUNT, at_ns=1)
ALARM = Alarm(name="n", active=True, text="t", at_ns=1)
HUGE, LONG = 1 << 63, "x" * 100_000
NO_LIST, NO_MAP = list[object](), dict[str, object]()


def change(message: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(message, **fields)


def account(**fields: Any) -> Coverage:
    return change(COVERAGE, account=change(ACCOUNT, **fields))


def verdict(**fields: Any) -> Verdict:
    return change(VERDICT, meta=change(VERDICT.meta, **fields))


def defect(**fields: Any) -> Verdict:
    return change(VERDICT, defects=(change(DEFECT, **fields),))


def worker(message: Message) -> Any:
    return from_worker(decode(encode(message)), ("inspect",))


def client(message: Message) -> Any:
    return from_client(decode(encode(message)), CONFIG)


def child(message: Message) -> Any:
    return from_child(decode(encode(message)), {"publish": {7}, "inspect": {8}})


TO_DISPATCHER: list[Any] = [
    *(change(READY, version=v) for v in (0, VERSION + 1, -1, HUGE, "1")),
    *(change(READY, worker=w) for w in ("", "publish", "capture.top", "inspect ", LONG, 3)),
    *(change(READY, boot=b) for b in ("", LONG, None)),
    *(change(READY, pid=p) for p in (-1, HUGE, "1", None)),
    *(change(READY, credits=c) for c in (-1, HUGE, 1 << 31, 1.5, "3")),
    *(change(READY, held=h) for h in (("x",), (change(HELD, slot=-1),), (change(HELD, slot=HUGE),), (change(HELD, epoch=""),), NO_MAP)),
    *(change(READY, ended=e) for e in (("",), (1,), ("e",) * 70_000, "e")),
    *(change(ACK, held=change(HELD, **{name: value})) for name in ("frame", "slot", "generation") for value in (-1, HUGE, "0", None)),
    *(change(ACK, invalid=i) for i in ("because", LONG, 1)),
    change(ACK, boot=""),
    End(epoch="e"),
    Durable(keys=("k",)),
    Submit(record=ALARM),
    STATUS,
]
RECORDS: list[Any] = [
    *(verdict(camera=c) for c in ("bottom", "", "../top", LONG)),
    *(verdict(epoch=e) for e in ("", LONG, 3)),
    *(verdict(**{name: value}) for name in ("frame", "length", "arrived_ns", "captured_ns") for value in (-1, HUGE, "0", 1.5)),
    *(verdict(shape=s) for s in ((-1, 2), (HUGE, 1), (1,), "xy")),
    *(verdict(source=s) for s in (LONG, 1)),
    *(change(VERDICT, attempt=a) for a in (-1, HUGE)),
    *(change(VERDICT, tiles=t) for t in (-1, HUGE, 1 << 40)),
    *(change(VERDICT, invalid=i, defects=()) for i in ("because", LONG, 1)),
    change(VERDICT, invalid="poison"),
    change(VERDICT, model=None),
    *(defect(score=s) for s in (math.nan, math.inf, -math.inf, 7.0, None, "1")),
    *(defect(scores=s) for s in ({"l": math.nan}, {"l": None}, {"": 0.5}, [0.5])),
    *(defect(label=label) for label in ("", LONG, 3)),
    *(defect(box_px=b) for b in ((0, 0, 1), (-1, 0, 1, 1), (HUGE, 0, 1, 1), (0.5, 0, 1, 1), None)),
    defect(png="text"),
    *(change(GAP, camera=c) for c in ("bottom", "", LONG)),
    *(change(GAP, first=f) for f in (6, -1, HUGE)),
    *(change(GAP, last=v) for v in (2, -1, HUGE)),
    *(change(GAP, reason=r) for r in ("", LONG, None)),
    *(change(GAP, at_ns=t) for t in (-1, HUGE, None)),
    change(COVERAGE, camera="bottom"),
    *(change(COVERAGE, number=n) for n in (-1, HUGE)),
    *(change(COVERAGE, account=a) for a in ({}, {"acquired": 1}, None, "all fine", 5)),
    *(account(acquired=n) for n in (-1, 5, HUGE, "0", None)),
    *(account(dropped=d) for d in ({"full": -1}, {"full": 1}, {"because": 0}, {"full": "0"}, NO_LIST, 3)),
    *(account(invalid=i) for i in ({"nothing": 0}, {"empty": None})),
    account(in_flight=-1),
    account(inspected=1, in_flight=-1),
    *(change(ALARM, name=n) for n in ("", LONG)),
    *(change(ALARM, text=t) for t in (LONG, None)),
    *(change(ALARM, active=a) for a in (1, None)),
    *(change(ALARM, at_ns=t) for t in (-1, HUGE)),
]
TO_PUBLISH = [*(Submit(record=r) for r in RECORDS), READY, ACK, End(epoch="e"), Durable(keys=("k",)), STATUS]
TO_SUPERVISOR: list[Any] = [
    *(change(STATUS, node=n) for n in ("", "nobody", "capture.top", LONG, 1)),
    *(change(STATUS, pid=p) for p in (8, 0, -1, HUGE, "7")),
    *(change(STATUS, boot=b) for b in ("", LONG, 1)),
    *(change(STATUS, state=s) for s in ("", LONG, None, "tired")),
    *(change(STATUS, progress=p) for p in (-1, HUGE, "3", None)),
    *(change(STATUS, facts=f) for f in (NO_LIST, None, 5, "events", {1: 2})),
    *(change(STATUS, facts={"events": e}) for e in (5, None, NO_LIST, {"defect": -1}, {"defect": "many"}, {"defect": HUGE}, {3: 3})),
    *(change(STATUS, facts={"latency": v}) for v in (5, {"total": 5}, {"total": {"x": 1}}, {"total": {3: -1}}, {"total": {-3: 1}})),
    *(change(STATUS, facts={name: v}) for name in Facts.__struct_fields__ for v in (-1, NO_LIST, {"x": NO_LIST}, True)),
    READY,
    ACK,
    Submit(record=ALARM),
    Durable(keys=("k",)),
]


@pytest.mark.parametrize(
    ("receive", "messages"),
    [(worker, TO_DISPATCHER), (client, TO_PUBLISH), (child, TO_SUPERVISOR)],
    ids=["dispatcher", "publish", "supervisor"],
)
def test_a_wrong_message_is_refused(receive: Callable[[Message], Any], messages: list[Message]) -> None:
    for message in messages:
        with pytest.raises(ProtocolError):
            pytest.fail(f"accepted: {receive(message)!r}"[:300])


def test_what_nodes_say_is_taken() -> None:
    assert worker(READY) == READY and worker(change(READY, held=(HELD,) * 4096)).held
    assert worker(ACK) == ACK and worker(change(ACK, invalid="truncated")).invalid == "truncated"
    poison = change(VERDICT, model=None, defects=(), invalid="poison")
    for record in (VERDICT, poison, GAP, change(GAP, last=None, reason="capture_died"), COVERAGE, ALARM):
        assert client(Submit(record=record)) == record
    assert child(STATUS) == STATUS
    assert child(change(STATUS, facts={"of another time": {"x": [1]}})).facts == Facts()


def test_a_full_ledger_fits() -> None:
    """Every reason there is, at once."""
    found = ledger.account(1000, range(1, len(ledger.FATES) + 1))

    assert client(Submit(record=change(COVERAGE, account=found))).account == found


def test_bounds_are_checked_in_decoding_alone() -> None:
    """Making a message costs nothing more."""
    assert FrameMeta(camera="", epoch="", frame=-1, shape=None, length=-1, arrived_ns=0, captured_ns=0).frame == -1


def test_frames_go_down_only() -> None:
    frame = encode(Frame(ref=FrameRef(meta=VERDICT.meta, slot=0, generation=1, attempt=1)))
    for receive in (worker, client, child):
        with pytest.raises(ProtocolError):
            receive(decode(frame))
