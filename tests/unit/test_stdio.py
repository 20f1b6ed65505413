"""Standard error of a command: nobody who does not read it holds the command up."""

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from select import PIPE_BUF

import pytest

from pipeline.system.stdio import complain


@contextlib.contextmanager
def stderr() -> Iterator[tuple[int, int]]:
    """A pipe in place of standard error: its reading end and its writing end."""
    ours, pipe = os.dup(2), os.pipe()
    os.dup2(pipe[1], 2)
    try:
        yield pipe
    finally:
        os.dup2(ours, 2)
        for fd in (ours, *pipe):
            os.close(fd)


@pytest.mark.parametrize("room", [0, PIPE_BUF, 2 * PIPE_BUF])
def test_an_error_that_nobody_reads_holds_nobody_up(room: int) -> None:
    """The reader of stderr hangs, and its pipe has less room than the text is long."""
    with stderr() as (_, writing):
        size = fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)
        os.write(writing, b"x" * (size - room))
        talker = threading.Thread(target=complain, args=("y" * 100_000,), daemon=True)

        talker.start()
        talker.join(30)

        assert not talker.is_alive()


def test_a_long_error_is_printed_whole() -> None:
    text = "".join(f"{k}\n" for k in range(20_000))
    wanted, seen = f"linepipe: {text}\n".encode(), b""
    with stderr() as (reading, _):
        talker = threading.Thread(target=complain, args=(text,), daemon=True)
        talker.start()
        while len(seen) < len(wanted):
            seen += os.read(reading, 1 << 16)
        talker.join()

    assert seen == wanted
