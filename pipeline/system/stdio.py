"""Standard input, output and error of a command: always open, able to print any name, and never the reason for a traceback."""

import errno
import io
import os
import select
import sys
from typing import Any


class StdoutError(Exception):
    """Stdout cannot be written. It is no ``OSError``, so that it is not taken for an error of a file that the command works on."""


class _Descriptor(io.FileIO):
    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as exc:
            self.error = exc
            raise StdoutError from exc


def prepare_output() -> None:
    """Prepare standard streams, once, at the start of a command.

    Descriptors 0 to 2 that are closed are opened on /dev/null, so that no file of ours gets their number. Characters that the
    encoding does not have are printed as escapes. From then on printing raises ``StdoutError`` where stdout cannot be written.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    out = sys.stdout
    if out is sys.__stdout__ and out is not None:  # else a test or a caller captures what is printed
        raw, at_once = _Descriptor(1, "w", closefd=False), out.isatty() or getattr(out, "write_through", False)
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), out.encoding, "backslashreplace", line_buffering=at_once)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")


def finish_output(code: int) -> int:
    """Flush stdout and stderr, once, at the end of a command; returns the exit code, ``code`` or 1 if stdout could not be written.

    A reader that has closed the pipe, such as ``head``, is no error.
    """
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
    """Print one message on stderr, after ``linepipe: ``. Like ``to_stderr`` it never raises."""
    to_stderr(f"linepipe: {text}\n")


def to_stderr(text: str) -> None:
    """Print a text on stderr as it is. Never raises for what stderr does.

    If stderr is closed or full, or its reader takes nothing for 1 s, the rest of the text is lost.
    """
    data = text.encode(getattr(sys.stderr, "encoding", None) or "utf-8", "backslashreplace")
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    try:
        while data and ready.poll(1000):
            data = data[os.write(2, data[: select.PIPE_BUF]) :]  # a pipe that is ready has room for so much
    except OSError:
        return
