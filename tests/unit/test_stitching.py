"""Parts of one defect in several frames become one event; whatever never comes holds nothing back for ever."""

import msgspec
import pytest

from nodes.publish.join_frames import HOLD_NS, MOST_FRAMES, Stitched, Stitcher
from nodes.publish.make_events import events_of
from pipeline.config import Camera, Config, Infer
from pipeline.core.events import DefectEvent
from pipeline.core.frame import Defect, ModelId, Verdict
from tests.unit.frames import meta

CAMERA = Camera(source="sim:strip", frame_px=(900, 300), pixel_mm=(0.25, 0.5), speed_mps=1.0)
CONFIG = Config(line="line1", cameras={"top": CAMERA}, infer=Infer(model="m"), state_dir="x")
Box = tuple[int, int, int, int]
END, START, MIDDLE = (100, 280, 40, 20), (110, 0, 40, 60), (300, 100, 50, 50)


def part(frame: int, box: Box, label: str = "scratches", score: float = 0.9) -> DefectEvent:
    defect = Defect(label=label, score=score, scores={label: score}, box_px=box, png=b"")
    verdict = Verdict(meta=meta(frame), attempt=1, model=ModelId(name="m", digest="d"), tiles=4, defects=(defect,))
    ((event, _),) = events_of(verdict, CONFIG)
    assert isinstance(event, DefectEvent)
    return event


def feed(parts: list[DefectEvent], known: list[int], *, now_ns: int = 0) -> list[Stitched]:
    stitcher = Stitcher(CONFIG)
    for p in parts:
        stitcher.add(p, 0)
    stitcher.know("top", "e1", known)
    return stitcher.take(now_ns, everything=False)


@pytest.mark.parametrize(("box", "waits"), [(MIDDLE, False), (END, True), (START, True), ((5, 260, 9, 8), True), ((5, 33, 9, 9), False)])
def test_only_what_touches_a_frame_border_waits(box: Box, waits: bool) -> None:
    assert Stitcher(CONFIG).waits(part(5, box)) is waits


@pytest.mark.parametrize(
    "config",
    [
        msgspec.structs.replace(CONFIG, cameras={"top": msgspec.structs.replace(CAMERA, speed_mps=None)}),
        msgspec.structs.replace(CONFIG, preprocess=msgspec.structs.replace(CONFIG.preprocess, layout="whole")),
    ],
)
def test_single_images_are_no_strip_and_nothing_waits(config: Config) -> None:
    assert not Stitcher(config).waits(part(5, END))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_parts_across_a_border_are_one_event(order: tuple[int, int]) -> None:
    parts = [part(5, END, score=0.7), part(6, START, score=0.9)]

    (joined,) = feed([parts[k] for k in order], [4, 5, 6, 7])

    assert joined.event.id == parts[0].id
    assert joined.event.frame == 5
    assert joined.event.box_px == (100, 280, 50, 80)
    assert joined.event.box_mm == (25.0, 140.0, 12.5, 40.0)
    assert joined.event.position_m == pytest.approx((5 * 300 + 320) * 0.5 / 1000)
    assert (joined.event.score, joined.event.image) == (0.9, parts[1].image)
    assert {p.id for p in joined.parts} == {p.id for p in parts}


@pytest.mark.parametrize(
    "other",
    [part(6, START, "patches"), part(7, START), part(6, (400, 0, 40, 60)), part(6, (110, 33, 40, 60))],
    ids=["another label", "a frame between", "elsewhere across", "too far along"],
)
def test_what_does_not_go_on_stays_apart(other: DefectEvent) -> None:
    found = feed([part(5, END), other], [4, 5, 6, 7, 8])

    assert sorted(j.event.frame for j in found) == sorted([5, other.frame])


def test_a_piece_waits_for_the_frame_beyond_the_border_but_not_for_ever() -> None:
    assert feed([part(5, END)], [4, 5]) == []
    assert feed([part(5, START)], [5, 6]) == []
    assert len(feed([part(5, END)], [6])) == 1
    assert len(feed([part(5, START)], [4])) == 1
    assert len(feed([part(0, START)], [0])) == 1
    assert len(feed([part(5, END)], [], now_ns=HOLD_NS + 1)) == 1


def test_three_frames_join_when_the_middle_one_comes_last() -> None:
    through = (100, 0, 40, 300)

    (joined,) = feed([part(4, END), part(6, START), part(5, through)], [3, 4, 5, 6, 7])

    assert joined.event.box_px == (100, 280, 50, 20 + 300 + 60)


def test_a_defect_without_end_is_cut_into_events() -> None:
    through = (100, 0, 40, 300)

    (joined,) = feed([part(k, through) for k in range(1, MOST_FRAMES + 1)], list(range(MOST_FRAMES + 1)))

    assert joined.event.box_px[3] == MOST_FRAMES * 300


def test_at_the_end_everything_goes_and_nothing_twice() -> None:
    stitcher = Stitcher(CONFIG)
    stitcher.add(part(5, END), 0)

    assert len(stitcher.take(0, everything=True)) == 1
    assert stitcher.take(0, everything=True) == []


def test_parts_of_a_camera_that_is_no_longer_configured_go_out_as_they_are() -> None:
    """Left in the spool by an earlier run, whose configuration had another name for it."""
    stitcher = Stitcher(msgspec.structs.replace(CONFIG, cameras={"renamed": CAMERA}))
    for left in (part(5, END), part(6, START)):
        stitcher.add(left, 0)

    assert [len(j.parts) for j in stitcher.take(0, everything=False)] == [1, 1]
