"""Standard input, output and error of a command: open, able to print any name, and no reason for a traceback."""

import errno
import io
import os
import select
import sys
from typing import Any


class StdoutError(Exception):
    """Stdout cannot be written. No ``OSError``, for this is no error of what a command works on."""


class _Descriptor(io.FileIO):
    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            self.error = exc
            raise StdoutError from exc


def prepare_output() -> None:
    """Have descriptors 0 to 2 open, so that no file of ours takes their place, and print whatever the encoding cannot."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    out = sys.stdout
    if out is sys.__stdout__ and out is not None:  # else somebody catches what is printed
        raw, at_once = _Descriptor(1, "w", closefd=False), out.isatty() or getattr(out, "write_through", False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), out.encoding, "backslashreplace", line_buffering=at_once)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def finish_output(code: int) -> int:
    """Flush stdout and stderr; the exit code with what comes of it. A reader who has enough, as ``head``, is no error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (StdoutError, OSError):  # the interpreter would try again, and end with exit code 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    error = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "error", None)
    if error is None or error.errno == errno.EPIPE:
        return code
    complain(f"stdout cannot be written: {error.strerror}")
    return code or 1


def complain(text: str) -> None:
    """Say what is wrong on stderr."""
    to_stderr(f"linepipe: {text}\n")


def to_stderr(text: str) -> None:
    """Print as it is, without blocking or raising. Where stderr is closed, full or hangs for a second, the exit code alone must do."""
    data = text.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace")
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    try:
        while data and ready.poll(1000):
            data = data[os.write(2, data[: select.PIPE_BUF]) :]  # a pipe that is ready has room for so much
    except OSError:
        return
