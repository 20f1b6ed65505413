"""Messages survive the wire; what no peer sends is refused, whatever the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ProtocolError
from pipeline.core.frame import Defect, FrameRef, ModelId, Verdict
from pipeline.core.status import Facts, NodeState
from pipeline.transport.messages import Ack, Durable, End, Frame, Heartbeat, Held, Message, Ready, Submit, decode, encode, held
from tests.unit.frames import meta

REF = FrameRef(meta=meta(3, source="a.jpg"), slot=1, generation=9, attempt=2)
DEFECT = Defect(label="l", score=0.5, scores={"l": 0.5}, box_px=(0, 0, 1, 1), png=b"\x89PNG")
MESSAGES: list[Message] = [
    Ready(version=1, worker="w", boot="b", credits=3, model=ModelId(name="m", digest="d"), held=(held(REF),), ended=("e",)),
    Frame(ref=REF),
    Ack(held=Held(epoch="e", frame=1, slot=2, generation=3), boot="b", invalid="empty"),
    End(epoch="e"),
    Submit(record=Verdict(meta=REF.meta, attempt=1, model=None, defects=(DEFECT,))),
    Durable(keys=("a", "b")),
    Heartbeat(node="n", pid=1, boot="b", state=NodeState.RUNNING, progress=1, facts=Facts(latency={"total": {3: 1}})),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_text_that_is_no_utf8_is_a_protocol_error(message: Message) -> None:
    """msgspec raises ``UnicodeDecodeError`` there, which is none of its own errors."""
    with pytest.raises(ProtocolError):
        decode(encode(message).replace(type(message).__name__[:2].lower().encode(), b"\xca\xca"))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_cut_short_is_a_protocol_error(message: Message) -> None:
    data = encode(message)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:length])
