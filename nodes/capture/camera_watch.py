"""Notices that a live camera is lost or left out frames: records gaps, raises an alarm, begins a new epoch when it is back."""

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
"""Frames that can be missing between two. A larger step in a device's frame numbers means that it began to count again."""
MOST_LOSSES, CALM_S = 5, 60.0
"""A camera that was lost ``MOST_LOSSES`` times within ``CALM_S`` seconds counts as back only when that time is over.

So a loose plug does not raise an alarm every second.
"""
MOST_BETWEEN_LOOKS_S = 0.25


class CameraWatch:
    """Watches one camera. Which losses have been recorded is kept in the ring's memory, so a later capture process repeats none.

    An alarm ``camera_lost:NAME`` goes to ``submit`` when the camera is lost, and ends when it is back.
    """

    def __init__(
        self,
        camera: str,
        state: RingState,
        outcomes: FrameOutcomes,
        submit: Callable[[Alarm, Then | None], None],
        log: logging.Logger,
        silent_s: float | None = None,
    ) -> None:
        """``silent_s``: seconds without a frame after which the camera counts as lost; None: the source itself reports a loss."""
        self._silent_s, self._quiet_s, self._looked = silent_s, 0.0, time.monotonic()
        self._losses: deque[float] = deque(maxlen=MOST_LOSSES)  # when the last ones were recorded, monotonic
        self._camera, self._state, self._outcomes, self._submit, self._log = camera, state, outcomes, submit, log
        self._number: int | None = None  # the device's own, of the last frame
        self._why = ""  # a loss that is not recorded yet
        lost_ns, back_ns = state.camera_lost
        if lost_ns:
            self._alarm(lost_ns, "an earlier capture process lost it")
        if back_ns:
            self._tell_back(back_ns)

    def admit(self, awaited: Awaited, most: int | None) -> bool:
        """Whether the source's next frame can be taken now. Records first whatever has to be recorded before it.

        That is: the loss or return of the camera, and the frames that are missing before this one, ``most`` at most (None: any
        number). If frames were missing, the ring's ``next_frame`` has grown and the caller must look again.
        """
        if not self._gone:
            self._why = self._why or awaited.lost or self._jump(awaited.number) or self._silence(awaited.ready)
        if self._why:
            if self._state.camera_lost != (0, 0) or self._outcomes.gaps_full:
                return False  # until the alarm before is durable, and there is a place for the gap
            self._lose(self._why)
            self._why = ""
        if not awaited.ready or self.resting:
            return False
        if self._gone:
            self._return()
        return self._count_missing(awaited.number, most)

    @property
    def _gone(self) -> bool:
        """Whether the camera is recorded as lost, and not yet as back."""
        lost_ns, back_ns = self._state.camera_lost
        return bool(lost_ns and not back_ns)

    @property
    def resting(self) -> bool:
        """Whether a camera that was lost ``MOST_LOSSES`` times within ``CALM_S`` still counts as lost: its frames belong to the gap."""
        return len(self._losses) == MOST_LOSSES and self._gone and time.monotonic() - self._losses[0] < CALM_S

    def _silence(self, ready: bool) -> str:
        """Why the camera counts as lost if it has sent nothing for ``silent_s``; an empty string if it is not lost.

        A pause between two looks counts ``MOST_BETWEEN_LOOKS_S`` at most: if this process itself stood still, that is not the
        camera's silence.
        """
        now = time.monotonic()
        self._quiet_s = 0.0 if ready else self._quiet_s + min(now - self._looked, MOST_BETWEEN_LOOKS_S)
        self._looked = now
        quiet = self._silent_s is not None and self._quiet_s > self._silent_s
        return f"it has sent nothing for {self._silent_s:g} s" if quiet else ""

    def _jump(self, number: int | None) -> str:
        """Why a device's frame number cannot follow the one before; an empty string if it can."""
        before = self._number
        if number is None or before is None or before <= number <= before + MOST_MISSING:
            return ""
        return f"its frame number jumped from {before} to {number}"

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
        """Record the frames missing before the one with the device's ``number``; False while there is no place for that gap."""
        missing = 0 if number is None or self._number is None else max(0, number - self._number - 1)
        if missing and most is not None:
            missing = min(missing, most)
        if missing and self._outcomes.gaps_full:
            return False
        if missing:
            self._outcomes.never_came(missing)
        # After missing frames the caller looks again, at the same frame under its new number.
        self._number = number - 1 if missing and number is not None else number
        return True

    def _alarm(self, at_ns: int, why: str) -> None:
        self._submit(
            Alarm(name=AlarmKind.CAMERA_LOST.of(self._camera), active=True, text=f"camera {self._camera} is lost: {why}", at_ns=at_ns), None
        )

    def _tell_back(self, at_ns: int) -> None:
        alarm = Alarm(name=AlarmKind.CAMERA_LOST.of(self._camera), active=False, text=f"camera {self._camera} is back", at_ns=at_ns)
        self._submit(alarm, lambda _: self._state.commit(self._state.set_camera_lost(0, 0)))
