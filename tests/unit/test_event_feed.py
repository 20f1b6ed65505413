"""The feed of event lines: whatever its Redis makes reading raise costs lines, and is said once."""

from pipeline.client import Events
from pipeline.console.event_feed import EventFeed


def test_an_error_that_nobody_foresaw_is_said_once_and_ends_nothing() -> None:
    said: list[str] = []

    def connect() -> Events:
        raise OverflowError("a number too large")

    feed = EventFeed(connect, said.append)
    feed.finish(timeout_s=20)  # looks
    feed._look()

    assert said == ["events cannot be shown: OverflowError: a number too large; the line runs on"]
