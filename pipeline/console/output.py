"""Text for people that never blocks or ends a line: a stdout that is closed, full or hangs costs text, nothing else."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MOST_LINES = 2000
"""The most lines that wait for a slow reader; further ones are counted and left out."""
MOST_CHARS = 2000
"""Longer lines are cut."""
CLEAR = "\r\x1b[K"


class Output:
    """Lines for one file descriptor, written by a thread of its own. No method raises, and only ``close`` waits.

    The constructor starts the thread. Methods may be called from any thread.
    """

    def __init__(self, fd: int, encoding: str, failed: Callable[[str], None] = lambda why: None) -> None:
        """``failed`` is called once, from the thread, with the reason if the descriptor cannot be written."""
        self._fd, self._encoding, self._failed = fd, encoding, failed
        self._lines: deque[str] = deque()
        self._progress: str | None = None
        self._shown = False  # whether the terminal shows a progress line
        self._lost = 0
        self._broken = self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"output-{fd}", daemon=True)
        self._thread.start()

    def line(self, text: str) -> None:
        """Write one line of text, soon; control characters are escaped and a long line is cut (``printable``)."""
        with self._changed:
            if len(self._lines) < MOST_LINES:
                self._lines.append(printable(text))
            else:
                self._lost += 1
            self._changed.notify()

    def progress(self, text: str) -> None:
        """Replace the line at the bottom of a terminal; an empty text removes it."""
        with self._changed:
            self._progress = printable(text)
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Wait up to ``timeout_s`` until what waits is written; the rest is lost when the process ends."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._progress is not None or self._closing)
                lines, progress, lost = list(self._lines), self._progress, self._lost
                self._lines.clear()
                self._progress, self._lost = None, 0
                done = self._closing and not lines and progress is None
            if done:
                return
            if lost:
                lines.append(f"... {lost} lines are left out here: they could not be written")
            try:
                self._write(self._composed(lines, progress).encode(self._encoding, "backslashreplace"))
            except OSError as exc:
                with self._changed:
                    self._lost += lost + len(lines) - bool(lost)
                if not self._broken:
                    self._broken = True
                    self._failed(exc.strerror or str(exc))

    def _composed(self, lines: list[str], progress: str | None) -> str:
        """The text to write: lines in place of the progress line, which is shown again with the next status."""
        text = (CLEAR if self._shown else "") + "".join(f"{line}\n" for line in lines)
        self._shown = False
        if progress:
            text, self._shown = text + progress[: self._columns()], True
        return text

    def _columns(self) -> int:
        try:
            return max(os.get_terminal_size(self._fd).columns - 1, 20)
        except OSError:  # no terminal any more
            return 79

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process that shares it made it non-blocking
                ready = select.poll()
                ready.register(self._fd, select.POLLOUT)
                ready.poll()


class Relay:
    """Takes over file descriptor 2 of this process and of those that it starts: what they write there goes to ``output``, line by line.

    So a stderr that hangs, is full or was closed blocks no node. The constructor starts a thread.
    """

    def __init__(self, output: Output, stderr: int) -> None:
        """``stderr``: a duplicate of descriptor 2, which ``close`` puts back."""
        self._output, self._stderr = output, stderr
        self._source, target = os.pipe()
        os.dup2(target, 2)
        os.close(target)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Put stderr back, and wait up to ``timeout_s`` until all that was written is passed on and no process has the pipe any more."""
        os.dup2(self._stderr, 2)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        rest = b""
        while data := os.read(self._source, 65536):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > MOST_CHARS:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._output.line(line.decode("utf-8", "backslashreplace"))
        if rest:
            self._output.line(rest.decode("utf-8", "backslashreplace"))
        os.close(self._source)


def printable(text: str) -> str:
    """The text with control characters escaped, because file names may contain any, and cut after ``MOST_CHARS`` characters."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[:MOST_CHARS].expandtabs(4))
    return text[:MOST_CHARS]
