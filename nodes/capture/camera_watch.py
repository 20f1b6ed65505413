"""Whether a live camera is there, and which of its frames never came: told as gaps, an alarm, and a new epoch when it is back."""

import logging
import uuid
from collections.abc import Callable

from nodes.capture.frame_outcomes import FrameOutcomes
from nodes.capture.sources.source import Awaited
from pipeline.core.frame import Alarm
from pipeline.transport.outbox import Then
from pipeline.transport.ring_state import RingState


class CameraWatch:
    """The ring's memory says what has been told, so a capture process that comes after tells each thing once."""

    def __init__(
        self, camera: str, state: RingState, outcomes: FrameOutcomes, submit: Callable[[Alarm, Then | None], None], log: logging.Logger
    ) -> None:
        self._camera, self._state, self._outcomes, self._submit, self._log = camera, state, outcomes, submit, log
        self._number: int | None = None  # the device's own, of the last frame
        lost_ns, back_ns = state.camera_lost
        if lost_ns:
            self._alarm(lost_ns, "an earlier capture process lost it")
        if back_ns:
            self._tell_back(back_ns)

    def comes(self, awaited: Awaited) -> bool:
        """Whether a frame can be taken now; counts those that were lost before it."""
        lost_ns, back_ns = self._state.camera_lost
        gone = bool(lost_ns and not back_ns)
        if awaited.lost:
            if not lost_ns and not self._outcomes.gaps_full:
                self._lose(awaited.lost)
            return False
        if not awaited.ready or (gone and not self._return()):
            return False
        return self._no_frame_missing(awaited.number)

    def _lose(self, why: str) -> None:
        self._outcomes.camera_lost()
        self._number = None
        self._log.warning("camera %s is lost: %s", self._camera, why)
        self._alarm(self._state.camera_lost[0], why)

    def _return(self) -> bool:
        self._outcomes.camera_back(uuid.uuid4().hex)
        self._log.info("camera %s is back", self._camera)
        self._tell_back(self._state.camera_lost[1])
        return True

    def _alarm(self, at_ns: int, why: str) -> None:
        self._submit(
            Alarm(name=f"camera_lost:{self._camera}", active=True, text=f"camera {self._camera} is lost: {why}", at_ns=at_ns), None
        )

    def _tell_back(self, at_ns: int) -> None:
        alarm = Alarm(name=f"camera_lost:{self._camera}", active=False, text=f"camera {self._camera} is back", at_ns=at_ns)
        self._submit(alarm, lambda _: self._state.commit(self._state.set_camera_lost(0, 0)))

    def _no_frame_missing(self, number: int | None) -> bool:
        """Count what is missing before a frame with the device's ``number``; False while there is no place for that gap."""
        before, missing = self._number, 0
        if number is not None and before is not None:
            missing = max(0, number - before - 1)
        if missing:
            if self._outcomes.gaps_full:
                return False
            self._outcomes.never_came(missing)
            assert number is not None
            self._number = number - 1  # the caller asks again, by the frame's new number
        else:
            self._number = number
        return True
