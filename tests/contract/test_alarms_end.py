"""What is on ends, and once: an alarm outlives the process that raised it, and its cause may outlive both."""

import multiprocessing
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.publish.node import publish
from nodes.publish.spool.database import Database
from nodes.publish.spool.open_alarms import ENDLESS, OWN
from nodes.publish.spool.salvage import flag_path
from nodes.publish.spool.salvage import open_spool as open_checked
from pipeline.config import Config, Publish
from pipeline.config.topology import find_process
from pipeline.core.events import AlarmEvent
from pipeline.core.frame import Alarm
from pipeline.runtime.node import NodeContext
from pipeline.runtime.supervisor import Alarms
from tests.conftest import ROOT, Server
from tests.contract.post import Post
from tests.contract.test_publish_trouble import Publisher, fill, gap, verdict
from tests.contract.test_spool import DAY_MS, Clock, open_spool, to_redis
from tests.unit.test_stitching import CONFIG

SPAWN = multiprocessing.get_context("spawn")


def run_node(config: Config, folder: Path) -> None:
    publish(NodeContext(config, find_process(config, "publish"), folder))


class Mortal(Publisher):
    """A publish node in a process of its own, which can be killed."""

    def start(self) -> None:
        self.node = NodeContext(self.config, find_process(self.config, "publish"), self._folder)
        self._process = SPAWN.Process(target=run_node, args=(self.config, self._folder), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.node.close()

    def end(self) -> None:
        if self._process.is_alive():
            self.kill()

    def spooled(self) -> list[tuple[str, bool]]:
        """Alarms that are durable, whether or not Redis has them."""
        with closing(sqlite3.connect(self.config.state / "spool" / "events.db")) as db:
            found = [msgspec.json.decode(data) for (data,) in db.execute("SELECT data FROM events WHERE type = 'alarm' ORDER BY seq")]
        return [(e["name"], e["active"]) for e in found]


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made: list[Publisher] = []

    def start(state: Path, kind: type[Publisher] = Mortal) -> Publisher:
        config = msgspec.structs.replace(CONFIG, state_dir=str(state), publish=Publish(redis=server.url))
        made.append(kind(config, tmp_path))
        return made[-1]

    yield start
    for publisher in made:
        publisher.close()


def alarm(name: str, active: bool, at_ns: int = 1) -> Alarm:
    return Alarm(name=name, active=active, text="because", at_ns=at_ns)


def begin_run(state: Path, run: int) -> None:
    """As the supervisor does."""
    (state / "run.json").write_bytes(msgspec.json.encode({"run": run, "first_id": None}))


def test_a_full_disk_is_one_alarm_although_publish_is_killed(make: Callable[..., Mortal], small_disk: Path) -> None:
    state = small_disk / "state"
    state.mkdir()
    begin_run(state, 1)
    publisher = make(state)
    publisher.submit(gap(1))
    publisher.wait_durable(gap(1))
    fill(small_disk)
    waiting = [verdict(k) for k in range(20)]
    publisher.submit(*waiting)
    publisher.wait(lambda: ("disk_full", True) in publisher.alarms(), "the alarm")

    publisher.kill()
    publisher.start()
    gaps = [gap(k) for k in range(10, 20)]
    publisher.submit(*gaps)
    publisher.wait_durable(*gaps)
    assert publisher.spooled() == [("disk_full", True)]
    assert not {v.key for v in waiting} <= set(publisher.durable)
    (small_disk / "ballast").unlink()
    publisher.wait_durable(*waiting)
    publisher.wait(lambda: ("disk_full", False) in publisher.alarms(), "the alarm's end")

    assert publisher.spooled() == [("disk_full", True), ("disk_full", False)]


def test_an_outage_of_redis_is_one_alarm_although_publish_is_killed(make: Callable[..., Mortal], server: Server, tmp_path: Path) -> None:
    publisher = make(tmp_path / "state")
    publisher.submit(gap(1))
    publisher.wait(lambda: publisher.frames("gap") == [1], "an event in the stream")
    server.kill()
    publisher.wait(lambda: ("redis_away", True) in publisher.spooled(), "the alarm")

    for k in (3, 5):
        publisher.kill()
        publisher.start()
        publisher.submit(gap(k))
        publisher.wait_durable(gap(k))
    server.start()
    publisher.wait(lambda: ("redis_away", False) in publisher.alarms(), "the alarm's end")

    assert publisher.spooled() == [("redis_away", True), ("redis_away", False)]


def test_what_the_supervisor_raised_ends_when_the_next_run_begins(make: Callable[..., Publisher], tmp_path: Path) -> None:
    """The next supervisor does not know of it, and may raise the same at once."""
    state = tmp_path / "state"
    state.mkdir()
    begin_run(state, 1)
    publisher = make(state, Publisher)
    raised = [
        alarm("node_died:capture.left", True),
        alarm("redis_died", True),
        alarm("redis_damaged", True),
        alarm("sockets_removed", True),
    ]
    publisher.submit(*raised, alarm("sockets_removed", False, 2))
    publisher.wait_durable(*raised)
    publisher.end()

    publisher.start()  # in the same run: the supervisor, which lives, ends them
    publisher.submit(gap(1))
    publisher.wait_durable(gap(1))
    publisher.end()
    begun = [(a.name, True) for a in raised] + [("sockets_removed", False)]
    assert publisher.alarms() == begun

    begin_run(state, 2)
    publisher.submit(alarm("redis_died", True, 3))
    publisher.start()
    publisher.wait_durable(alarm("redis_died", True, 3))
    publisher.end()
    publisher.start()
    publisher.end()

    assert publisher.alarms() == [*begun, ("node_died:capture.left", False), ("redis_died", False), ("redis_died", True)]
    assert "run" in next(e["text"] for e in publisher.stream() if e["type"] == "alarm" and e["name"].startswith("node") and not e["active"])


def event(k: int, name: str, active: bool) -> AlarmEvent:
    return AlarmEvent(v=1, id=f"id{k}", line="l", name=name, active=active, text="t", at="now")


def test_alarms_of_sinks_go_on_with_the_next_run_also_those_of_other_packages(tmp_path: Path) -> None:
    """They end when their cause does, which publish sees again."""
    spool = open_spool(tmp_path)
    spool.append([(name, [event(k, name, True)]) for k, name in enumerate(("sink_away:plant", "sink_slow:mes", "node_died:x"))])

    assert spool.open_alarms.left_by(99) == ["node_died:x"]
    spool.close()


def test_whoever_sees_that_an_alarm_is_off_can_count_on_its_having_been_told() -> None:
    """Publish ends once none is on: its end must be on its way by then."""
    seen: list[bool] = []
    alarms = Alarms(lambda *_: seen.append("disk_full" in alarms), ["disk_full"])

    alarms.set("disk_full", False, "room")

    assert seen == [True] and "disk_full" not in alarms


def test_an_alarm_whose_beginning_was_purged_is_still_on(tmp_path: Path) -> None:
    clock = Clock()
    spool = open_spool(tmp_path, clock=clock)
    spool.append([("k1", [event(1, "redis_away", True)])])
    to_redis(spool).move(1)
    spool.ages.note()
    clock.ms += 8 * DAY_MS
    spool.ages.note()
    spool.ages.purge(7 * DAY_MS, to_redis(spool).sent)
    assert spool.present(["id1"]) == set()
    spool.close()

    again = open_spool(tmp_path)

    assert again.open_alarms.names() == {"redis_away"}
    again.append([("k2", [event(2, "redis_away", False)])])
    assert again.open_alarms.names() == set()
    again.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_spool_that_does_not_say_which_alarms_are_on_has_their_events(tmp_path: Path, damaged: bool) -> None:
    """One of the version before, or one that was damaged."""
    path = tmp_path / "events.db"
    spool, _ = open_checked(path)
    alarms = [("redis_away", True), ("disk_full", True), ("redis_lost", True), ("redis_away", False), ("node_died:publish", True)]
    spool.append([(f"k{k}", [event(k, *a)]) for k, a in enumerate(alarms)])
    spool.close()
    database = Database(path)
    database.change(f"DELETE FROM facts WHERE name GLOB '{'alarm/*' if damaged else 'alarm*'}'")
    database.close()
    if damaged:
        flag_path(path).touch()

    again, news = open_checked(path)

    assert ("damaged" in news) is damaged
    assert again.open_alarms.names() == {"disk_full", "node_died:publish"}
    assert again.open_alarms.left_by(3) == []
    assert again.open_alarms.left_by(5) == ["node_died:publish"]
    again.close()


def test_somebody_who_may_still_write_to_the_stream_is_no_news_to_the_next_sender(post: Post) -> None:
    post.stop()
    post.start(on={"foreign_entries"})
    for _ in range(2):
        post.add(1)
        post.wait_sent()

    assert post.alarms == []


def test_at_the_end_an_outage_that_is_over_needs_nothing_to_send(post: Post) -> None:
    """Else a publish node that is started to finish what a killed one left would wait for an event that never comes."""
    post.add(1)
    post.wait_sent()
    post.stop()
    post.start(on={"redis_away"})
    assert not post.sink.settled

    post.sink.ending = True
    post.wait(lambda: post.sink.settled)

    assert post.alarms == [("redis_away", False)]


def test_the_reference_says_which_alarms_have_no_end() -> None:
    rows = re.findall(r"^\| `([a-z_]+)(?::[A-Z]+)?` \| .* \| (.*) \|$", (ROOT / "docs/reference/events.md").read_text(), re.MULTILINE)
    alarms = {name: end for name, end in rows if name not in {"v", "name"}}

    assert {name for name, end in alarms.items() if end == "no"} == ENDLESS
    assert set(alarms) > OWN
