"""Events: deterministic ids, places on the strip, a closed schema that every event fits."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import msgspec
import pytest

from nodes.publish.make_events import event_id, events_of
from pipeline.config import Camera, Config, Infer
from pipeline.core.events import Event, encode, timestamp
from pipeline.core.frame import Alarm, Coverage, Defect, Gap, ModelId, Publishable, Verdict
from pipeline.core.ledger import NOTHING_YET
from pipeline.core.status import json_schema
from tests.unit.frames import meta

CAMERA = Camera(source="sim:strip", frame_px=(900, 300), pixel_mm=(0.25, 0.5), speed_mps=1.0)
CONFIG = Config(line="line1", cameras={"top": CAMERA}, infer=Infer(model="m"), state_dir="x")
DEFECT = Defect(label="scratches", score=0.9, scores={"scratches": 0.9}, box_px=(600, 100, 300, 50), png=b"png")
MODEL = ModelId(name="m", digest="sha256:0")
VERDICT = Verdict(meta=meta(10), attempt=2, model=MODEL, tiles=4, defects=(DEFECT, DEFECT))
GAP = Gap(camera="top", epoch="e1", first=3, last=5, reason="full", at_ns=0)
GOLDEN = Path(__file__).resolve().parents[1] / "contract" / "golden"
SCHEMA = json_schema(Event, "linepipe event", closed=True)
RECORDS: list[Publishable] = [
    VERDICT,
    msgspec.structs.replace(VERDICT, defects=(), invalid="truncated", model=None),
    GAP,
    msgspec.structs.replace(GAP, last=None),
    Coverage(camera="top", epoch="e1", number=1, account=NOTHING_YET, at_ns=0),
    Alarm(name="redis_away", active=True, text="gone", at_ns=0),
]


def as_json(record: Publishable, config: Config = CONFIG) -> list[dict[str, object]]:
    return [msgspec.json.decode(encode(event)) for event, _ in events_of(record, config)]


@pytest.mark.parametrize("record", RECORDS)
def test_every_event_fits_the_published_schema(record: Publishable) -> None:
    events = as_json(record)

    assert events
    for event in events:
        jsonschema.validate(event, SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("more", [{}, {"of a later version": [1, {"x": None}]}], ids=["today", "later"])
def test_a_program_of_version_1_reads_every_event(record: Publishable, more: dict[str, object]) -> None:
    """Its schema and itself are kept as they were; a later version may add fields, and takes none away."""
    events = [{**event, **more} for event in as_json(record)]

    for event in events:
        jsonschema.validate(event, json.loads((GOLDEN / "events_v1.schema.json").read_text()), cls=jsonschema.Draft202012Validator)
        assert msgspec.json.decode(json.dumps(event), type=Event).id == event["id"]
    text = "".join(json.dumps(event) + "\n" for event in events)
    done = subprocess.run([sys.executable, GOLDEN / "consumer_v1.py"], input=text, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(events)
    assert "of a later version" not in done.stdout


def test_the_schema_for_writers_is_closed() -> None:
    """An unknown or a missing field is no event."""
    (event, _) = as_json(VERDICT)
    for wrong in ({**event, "extra": 1}, {k: v for k, v in event.items() if k != "piece"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, SCHEMA, cls=jsonschema.Draft202012Validator)


def test_the_same_frame_gives_the_same_ids_and_each_defect_its_own() -> None:
    """A frame that is judged twice (a worker died) makes no second event for a consumer that dedupes."""
    again = msgspec.structs.replace(VERDICT, attempt=1)

    ids = [e["id"] for e in as_json(VERDICT)]

    assert [e["id"] for e in as_json(again)] == ids
    assert len(set(ids)) == 2


def test_ids_do_not_run_into_each_other() -> None:
    assert event_id("a", "bc") != event_id("ab", "c")


def test_a_defect_says_where_it_lies_on_the_strip() -> None:
    """Frame 10 of 300 rows at 0.5 mm begins at 1.5 m; the defect's middle is 125 rows further."""
    event = as_json(VERDICT)[0]

    assert event["box_mm"] == [150.0, 50.0, 75.0, 25.0]
    assert event["position_m"] == pytest.approx(1.5625)


def test_without_pixel_size_places_are_null() -> None:
    config = msgspec.structs.replace(CONFIG, cameras={"top": Camera(source="folder:x")})

    event = as_json(VERDICT, config)[0]

    assert event["box_mm"] is None
    assert event["position_m"] is None


def test_a_gap_names_the_stretch_that_was_not_inspected() -> None:
    assert as_json(GAP)[0]["position_m"] == [0.45, 0.9]
    assert as_json(msgspec.structs.replace(GAP, last=None))[0]["position_m"] == [0.45, None]


def test_an_invalid_frame_is_a_gap_with_its_reason_and_file() -> None:
    record = Verdict(meta=meta(4, source="bad.jpg"), attempt=1, model=None, invalid="empty")

    (event,) = as_json(record)

    assert (event["type"], event["first"], event["last"], event["reason"], event["source"]) == ("gap", 4, 4, "empty", "bad.jpg")


def test_times_are_utc_with_microseconds() -> None:
    assert timestamp(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
