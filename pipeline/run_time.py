"""How long a run took, for its duration and its rates. Pure: the caller brings the time."""


class RunTime:
    """Marks of one run on the monotonic clock."""

    def __init__(self) -> None:
        self.first_ns = 0
        """The first frame; 0 before."""
        self._stop_ns = 0
        self._finished, self._finished_ns = 0, 0

    def note(self, now_ns: int, acquired: int, finished: int) -> None:
        """Take the number of frames acquired and finished so far."""
        if acquired and not self.first_ns:
            self.first_ns = now_ns
        if finished != self._finished:
            self._finished, self._finished_ns = finished, now_ns

    def stop(self, now_ns: int) -> None:
        """The line begins to stop."""
        self._stop_ns = now_ns

    def duration_s(self, now_ns: int) -> float:
        """From the first frame until the line began to stop."""
        return self._since_first_s(self._stop_ns or now_ns)

    def rate_s(self, now_ns: int) -> float:
        """The time in which the frames were finished: those finished while draining count, and so does that time."""
        return self._since_first_s(max(self._stop_ns, self._finished_ns) if self._stop_ns else now_ns)

    def _since_first_s(self, end_ns: int) -> float:
        return (end_ns - self.first_ns) / 1e9 if self.first_ns else 0.0
