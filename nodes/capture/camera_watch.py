"""Whether a live camera is there, and which of its frames never came: told as gaps, an alarm, and a new epoch when it is back."""

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable

from nodes.capture.frame_outcomes import FrameOutcomes
from nodes.capture.sources.source import Awaited
from pipeline.core.events import AlarmKind
from pipeline.core.frame import Alarm
from pipeline.transport.outbox import Then
from pipeline.transport.ring_state import RingState

MOST_MISSING = 1_000_000
"""Frames that can be missing between two. A larger step of a device's numbers is that of a device that counts anew."""


MOST_LOSSES, CALM_S = 5, 60.0
"""A camera that is lost so often within that time is taken back only when it is over: one that flaps is no storm of alarms."""
MOST_BETWEEN_LOOKS_S = 0.25


class CameraWatch:
    """The ring's memory says what has been told, so a capture process that comes after tells each thing once."""

    def __init__(
        self,
        camera: str,
        state: RingState,
        outcomes: FrameOutcomes,
        submit: Callable[[Alarm, Then | None], None],
        log: logging.Logger,
        silent_s: float | None = None,
    ) -> None:
        """``silent_s``: a camera that has sent nothing for so long is lost; None: its source tells."""
        self._silent_s, self._quiet_s, self._looked = silent_s, 0.0, time.monotonic()
        self._losses: deque[float] = deque(maxlen=MOST_LOSSES)  # when the last ones were told
        self._camera, self._state, self._outcomes, self._submit, self._log = camera, state, outcomes, submit, log
        self._number: int | None = None  # the device's own, of the last frame
        self._why = ""  # a loss that is not told yet
        lost_ns, back_ns = state.camera_lost
        if lost_ns:
            self._alarm(lost_ns, "an earlier capture process lost it")
        if back_ns:
            self._tell_back(back_ns)

    def admit(self, awaited: Awaited, most: int | None) -> bool:
        """Whether a frame can be taken now, and all that must be told before it is told.

        Counts frames that were lost before it, ``most`` at most: if there were any, the ring's next number has grown.
        """
        if not self._gone:
            self._why = self._why or awaited.lost or self._jump(awaited.number) or self._silence(awaited.ready)
        if self._why:
            if self._state.camera_lost != (0, 0) or self._outcomes.gaps_full:
                return False  # until what was told before is durable, and there is room
            self._lose(self._why)
            self._why = ""
        if not awaited.ready or self.resting:
            return False
        if self._gone:
            self._return()
        return self._count_missing(awaited.number, most)

    @property
    def _gone(self) -> bool:
        """Whether it was told that the camera is lost, and not yet that it is back."""
        lost_ns, back_ns = self._state.camera_lost
        return bool(lost_ns and not back_ns)

    @property
    def resting(self) -> bool:
        """Whether a camera that was lost again and again is not believed yet: its frames belong to the gap."""
        return self._gone and len(self._losses) == MOST_LOSSES and time.monotonic() - self._losses[0] < CALM_S

    def _silence(self, ready: bool) -> str:
        """Counted by looks: a process that itself stood still, or just began, has not looked in vain meanwhile."""
        now = time.monotonic()
        self._quiet_s = 0.0 if ready else self._quiet_s + min(now - self._looked, MOST_BETWEEN_LOOKS_S)
        self._looked = now
        quiet = self._silent_s is not None and self._quiet_s > self._silent_s
        return f"it has sent nothing for {self._silent_s:g} s" if quiet else ""

    def _jump(self, number: int | None) -> str:
        """Why a device's number cannot go on from the one before; empty: it can."""
        before = self._number
        if number is None or before is None or before <= number <= before + MOST_MISSING:
            return ""
        return f"its frame numbers go on with {number} after {before}"

    def _lose(self, why: str) -> None:
        self._outcomes.camera_lost()
        self._losses.append(time.monotonic())
        self._number = None
        self._log.warning("camera %s is lost: %s", self._camera, why)
        self._alarm(self._state.camera_lost[0], why)

    def _return(self) -> None:
        self._quiet_s = 0.0
        self._outcomes.camera_back(uuid.uuid4().hex)
        self._log.info("camera %s is back", self._camera)
        self._tell_back(self._state.camera_lost[1])

    def _count_missing(self, number: int | None, most: int | None) -> bool:
        """Count what is missing before a frame with the device's ``number``; False while there is no place for that gap."""
        missing = 0 if number is None or self._number is None else max(0, number - self._number - 1)
        if missing and most is not None:
            missing = min(missing, most)
        if missing and self._outcomes.gaps_full:
            return False
        if missing:
            self._outcomes.never_came(missing)
        # After lost frames the caller looks again, at the same frame by its new number.
        self._number = number - 1 if missing and number is not None else number
        return True

    def _alarm(self, at_ns: int, why: str) -> None:
        self._submit(
            Alarm(name=AlarmKind.CAMERA_LOST.of(self._camera), active=True, text=f"camera {self._camera} is lost: {why}", at_ns=at_ns), None
        )

    def _tell_back(self, at_ns: int) -> None:
        alarm = Alarm(name=AlarmKind.CAMERA_LOST.of(self._camera), active=False, text=f"camera {self._camera} is back", at_ns=at_ns)
        self._submit(alarm, lambda _: self._state.commit(self._state.set_camera_lost(0, 0)))
