"""Text for people never blocks, never raises, and never takes more memory than it may."""

import os
import socket
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.redis.replies
from pipeline.console.event_feed import event_line
from pipeline.console.output import MOST_CHARS, MOST_LINES, Output, printable
from pipeline.redis.replies import LONGEST, RefusedError, Replies, TooLong
from pipeline.runtime.summary import RunTime, prepare_summary, write_summary

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = ["camera", "source", "position_m", "frame", "label", "score", "box_px", "first", "last", "reason", "name", "text"]


@given(kind=st.sampled_from(["defect", "gap", "alarm"]) | JSON, event=st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_event_gives_a_line(kind: object, event: dict[str, object]) -> None:
    assert event_line({**event, "type": kind})


@given(st.text())
def test_no_text_moves_the_cursor(text: str) -> None:
    assert printable(text).isprintable()


def test_a_long_text_is_cut() -> None:
    assert len(printable("\x1b" * 10_000_000)) == MOST_CHARS


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    source, target = os.pipe()
    yield source, target
    for fd in (source, target):
        try:
            os.close(fd)
        except OSError:  # the test has closed it
            continue


def test_what_a_slow_reader_misses_is_counted(pipe: tuple[int, int]) -> None:
    source, target = pipe
    output = Output(target, "utf-8")
    count = 5 * MOST_LINES
    for k in range(count):
        output.line(f"{k:0100}")  # far more than the pipe holds, and nobody reads: this must come to an end
    output.close(0.01)

    def read() -> None:
        with open(source, "rb", closefd=False) as file:
            lines.extend(file.read().decode().splitlines())

    lines: list[str] = []
    reader = threading.Thread(target=read)
    reader.start()
    output.close(30)
    os.close(target)
    reader.join()

    lost = sum(int(line.split()[1]) for line in lines if line.startswith("..."))
    assert lost > count // 2
    assert lost + sum(not line.startswith("...") for line in lines) == count


def test_a_broken_pipe_is_told_once(pipe: tuple[int, int]) -> None:
    source, target = pipe
    os.close(source)
    told: list[str] = []
    output = Output(target, "utf-8", told.append)
    for _ in range(3):
        output.line("x")
    output.close(10)

    assert told == ["Broken pipe"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(pipe: tuple[int, int], encoding: str) -> None:
    output = Output(pipe[1], encoding)
    output.line("\u92fc \udcff \x1b[31m")
    output.close(10)

    text = os.read(pipe[0], 1000).decode(encoding)
    assert text == ("\u92fc" if encoding == "utf-8" else r"\u92fc") + " \\udcff \\x1b[31m\n"


def replies(data: bytes) -> Replies:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)

    def send() -> None:
        with theirs:
            theirs.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    with ours:
        return Replies(ours)


def test_replies_of_both_protocols_are_read() -> None:
    assert replies(b"*2\r\n$1\r\na\r\n*-1\r\n").read() == [b"a", None]
    assert replies(b"%1\r\n$1\r\ns\r\n*1\r\n:5\r\n").read() == [[b"s", [5]]]
    assert replies(b"_\r\n").read() is None
    assert replies(b"+OK\r\n").read() == b"OK"
    with pytest.raises(RefusedError, match="NOAUTH"):
        replies(b"-NOAUTH x\r\n").read()


def test_a_long_string_is_read_past_and_a_long_reply_is_cut() -> None:
    long = b"$%d\r\n" % (LONGEST + 1) + b"x" * (LONGEST + 1) + b"\r\n"
    full = b"$%d\r\n" % LONGEST + b"x" * LONGEST + b"\r\n"

    first, second = replies(b"*2\r\n" + long + b"$1\r\na\r\n").read()
    assert isinstance(first, TooLong)
    assert second == b"a"
    cut = replies(b"*80\r\n" + 80 * full + b"$1\r\na\r\n")
    many = cut.read()
    assert 50 < len(many) < 70 and cut.was_cut
    assert isinstance(many[-1], TooLong) and not any(isinstance(part, TooLong) for part in many[:-1])
    assert cut.read() == b"a" and not cut.was_cut


@pytest.mark.parametrize("small", [b"$1\r\na\r\n", b"$101\r\n" + b"x" * 101 + b"\r\n", b"*0\r\n", b"+" + b"x" * 90 + b"\r\n"])
@pytest.mark.parametrize("map_of", [False, True])
def test_a_reply_of_any_number_of_parts_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch, small: bytes, map_of: bool) -> None:
    """What whoever writes to the stream may send: many small parts cost more than their bytes."""
    monkeypatch.setattr(pipeline.redis.replies, "MOST", 1 << 20)
    monkeypatch.setattr(pipeline.redis.replies, "LONGEST", 100)
    many = 20_000
    data = (b"%%%d\r\n" if map_of else b"*%d\r\n") % many + many * (1 + map_of) * small
    reader = replies(b"*3\r\n" + 3 * data + b"+behind\r\n")

    tracemalloc.start()
    try:
        reader.read()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2 << 20
    assert reader.read() == b"behind"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 400\r\n", b"*x\r\n", b"*1\r\n" * 1000, b"$5\r\nab", b"x" * (LONGEST + 1), b"$x\r\n"])
def test_what_is_no_reply_is_an_error_that_readers_take(data: bytes) -> None:
    with pytest.raises((OSError, ValueError)):
        replies(data).read()


def test_rates_count_the_time_of_the_drain_with_its_frames() -> None:
    """Stopped after 1 s, when 10 of 40 frames were finished; the last was finished after 4 s: 10 frames a second, not 40."""
    time = RunTime()
    second = 1_000_000_000
    time.note(second, 1, 0)
    time.note(2 * second, 40, 10)
    time.stop(2 * second)
    time.note(5 * second, 40, 40)
    time.note(9 * second, 40, 40)

    assert time.duration_s(9 * second) == 1.0
    assert time.rate_s(9 * second) == 4.0


def test_a_summary_replaces_what_a_link_points_to_and_no_device(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.json"
    link.symlink_to("there/real.json")
    os.mkfifo(tmp_path / "pipe")

    prepare_summary(link)
    write_summary(link, {"a": 1}, mode=0o600)
    prepare_summary(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_summary(tmp_path / "pipe", {"a": 1}, mode=0o600)

    assert link.is_symlink()
    assert (tmp_path / "there" / "real.json").read_text() == os.read(reader, 100).decode() == '{\n  "a": 1\n}\n'
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == ["real.json"]
    os.close(reader)
