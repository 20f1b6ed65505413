"""A spool with a sender to a file of JSON lines, and the alarms that it raised."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

from nodes.publish.sinks.json_lines import JSON_LINES
from nodes.publish.sinks.sender import Sender
from nodes.publish.sinks.sink import Feed
from nodes.publish.spool.spool import Spool
from pipeline.config.urls import SinkUrl
from tests.contract.test_spool import event


def json_lines(path: Path, spool: Path, alarm: Callable[[str, bool, str], None], options: str = "") -> Sender:
    url = SinkUrl.parse(f"jsonl:{path}{options}")
    return Sender("file", f"The sink file ({path})", spool, lambda opening: JSON_LINES.open(url, opening), alarm=alarm)


class FileSink:
    """A spool, a sender to ``out/events.jsonl``, and the alarms that it raised."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.path, self._options, self._folder = folder / "out" / "events.jsonl", options, folder
        self.path.parent.mkdir(exist_ok=True)
        self.spool = Spool(folder / "events.db", durable=True)
        self.feed = Feed(self.spool, "file")
        self.alarms: list[tuple[str, bool]] = []
        self._changed = threading.Event()
        self._next = 0
        self.start()

    def start(self) -> None:
        self.sender = json_lines(self.path, self._folder / "events.db", self._alarm, self._options)

    def stop(self) -> None:
        self.sender.stop()
        self.sender.join()
        assert self.sender.failed is None

    def _alarm(self, name: str, active: bool, text: str) -> None:
        self.alarms.append((name, active))
        self._changed.set()

    def add(self, count: int) -> None:
        self.spool.append([(f"k{k}", [event(k)]) for k in range(self._next, self._next + count)])
        self._next += count
        self.sender.wake()

    def wait(self, condition: Callable[[], bool]) -> None:
        for _ in range(400):
            if condition():
                return
            self._changed.wait(0.05)
            self._changed.clear()
        raise AssertionError((self.sender.state, self.sender.failed, self.alarms, self.feed.backlog))

    def wait_sent(self) -> None:
        self.wait(lambda: self.feed.backlog == 0)

    def ids(self, *names: str) -> list[str]:
        """Of the events in these files, in this order."""
        texts = [(self.path.parent / name).read_text() for name in names or ("events.jsonl",)]
        return [json.loads(line)["id"] for text in texts for line in text.splitlines()]

    @property
    def expected(self) -> list[str]:
        return [f"id{k}" for k in range(self._next)]
