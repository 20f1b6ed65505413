"""What a source must not say ends the capture process with a sentence, before it reaches ring, publish or supervisor."""

import math
from typing import Any

import numpy as np
import pytest

from nodes.capture.sources.source import Awaited, CheckedSource, SourceFrame
from pipeline.core.errors import NodeError
from pipeline.core.tiles import Pixels

INTO = np.zeros(12, np.uint8)


class Told:
    """A source that says what it is told to, or raises it."""

    live = True

    def __init__(self, says: Any = None, slot_bytes: Any = 12) -> None:
        self.size: tuple[int, int] | None = None
        self.fps: float | None = None
        self.says, self.slot_bytes = says, slot_bytes

    def _say(self) -> Any:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def fileno(self) -> int | None:
        self._say()
        return None

    def look(self, frame: int) -> Awaited:
        found: Awaited = self._say()
        return found

    def read(self, frame: int, into: Pixels) -> SourceFrame | None:
        found: SourceFrame | None = self._say()
        return found

    def skip(self, frame: int) -> None:
        self._say()

    def close(self) -> None:
        self._say()


def checked(says: Any, **how: Any) -> CheckedSource:
    return CheckedSource(lambda: Told(says, **how), "the source told: of camera top")


@pytest.mark.parametrize(
    "frame",
    [
        {"shape": (3, 4), "length": 11},
        {"shape": (3, 5), "length": 15},
        {"shape": ("a", "b"), "length": 12},
        {"shape": (3,), "length": 3},
        {"shape": (-3, -4), "length": 12},
        {"shape": None, "length": -1},
        {"shape": None, "length": 13},
        {"shape": None, "length": "12"},
        {"shape": None, "length": 12, "reason": "tired"},
        {"shape": None, "length": 12, "reason": 7},
        {"shape": None, "length": 12, "arrived_ns": 10**30},
        {"shape": None, "length": 12, "source": 7},
    ],
)
def test_a_frame_that_cannot_be_is_refused(frame: dict[str, Any]) -> None:
    with pytest.raises(NodeError, match=r"the source told: of camera top failed in read: .*; mend or remove its package"):
        checked(SourceFrame(**frame)).read(0, INTO)


@pytest.mark.parametrize("says", [{}, 7, "frame"])
def test_what_is_no_frame_and_no_answer_is_refused(says: Any) -> None:
    with pytest.raises(NodeError, match="is no SourceFrame"):
        checked(says).read(0, INTO)
    with pytest.raises(NodeError, match="is no Awaited"):
        checked(says).look(0)


@pytest.mark.parametrize("number", ["seven", -1, 1 << 63, 1.5])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    with pytest.raises(NodeError, match="failed in look"):
        checked(Awaited(ready=True, number=number)).look(0)


@pytest.mark.parametrize("slot_bytes", [0, -5, 1 << 45, "many"])
def test_a_slot_that_cannot_be_is_refused(slot_bytes: Any) -> None:
    with pytest.raises(NodeError, match="failed in open"):
        checked(None, slot_bytes=slot_bytes)


def test_right_frames_pass_also_with_numbers_of_numpy_and_odd_texts() -> None:
    frame = SourceFrame(shape=(np.int64(3), np.int64(4)), length=np.int64(12), source="\udcff a  b\n.jpg ")  # type: ignore[arg-type]

    assert checked(frame).read(0, INTO) == SourceFrame(shape=(3, 4), length=12, source="? a  b\n.jpg "), "a file's name stays as it is"
    assert checked(Awaited(lost="x" * 5_000_000)).look(0) == Awaited(lost="x" * 500)
    assert checked(Awaited(ready=True, number=np.int64(7))).look(0) == Awaited(ready=True, number=7)  # type: ignore[arg-type]
    assert checked(None).read(0, INTO) is None


def test_an_error_of_another_package_is_told_as_its_own_and_one_of_ours_as_ours(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NodeError, match="failed in fileno: OSError: no driver"):
        checked(OSError("no driver")).fileno()
    with pytest.raises(OSError, match="no driver"):
        CheckedSource(lambda: Told(OSError("no driver")), "").fileno()
    checked(OSError("no driver")).close()
    assert "failed in close: OSError: no driver" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"), [("fps", "fast"), ("fps", math.nan), ("fps", -1), ("size", "big"), ("size", (0, 4)), ("slot_bytes", None)]
)
def test_what_a_source_says_of_itself_is_checked_as_it_opens(name: str, value: Any) -> None:
    told = Told()
    setattr(told, name, value)

    with pytest.raises(NodeError, match="the source told: of camera top failed in open"):
        CheckedSource(lambda: told, "the source told: of camera top")


@pytest.mark.parametrize("descriptor", ["x", 9999, -1])
def test_a_descriptor_that_is_none_is_refused(descriptor: Any) -> None:
    source = checked(None)
    source._source.fileno = lambda: descriptor  # type: ignore[method-assign]

    with pytest.raises(NodeError, match="failed in fileno"):
        source.fileno()
