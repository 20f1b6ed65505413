"""Reading a line's events from Redis: for the command line, for plant systems, for tests."""

from collections.abc import Iterator
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import LinepipeError
from pipeline.events import FIELDS

PAGE = 1000
TIMEOUT_S = 3.0


class RedisUnreachableError(LinepipeError):
    """Redis does not answer, or refuses."""


class Events:
    """The events of one line's stream. Entries that are no events (anybody may write some) are passed over and counted."""

    def __init__(self, url: str, stream: str, password: str | None = None) -> None:
        self._url, self._stream = url, stream
        self._redis: Any = redis.Redis.from_url(
            url, password=password, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self.passed_over = 0
        """Entries that were no events."""

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def ping(self) -> None:
        """Raises ``RedisUnreachableError`` unless the server answers."""
        self._call("ping")

    def server_info(self) -> dict[str, Any]:
        """What the server says of itself (INFO). Raises ``RedisUnreachableError`` also when it refuses to."""
        found: dict[str, Any] = self._call("info")
        return found

    def read(self, first_id: str = "-", last_id: str = "+") -> Iterator[dict[str, Any]]:
        """Every event from stream id ``first_id`` to ``last_id``, both included, oldest first."""
        while page := self._call("xrange", self._stream, min=first_id, max=last_id, count=PAGE):
            yield from self._events(page)
            first_id = "(" + page[-1][0].decode()

    def follow(self, first_id: str = "$", block_ms: int = 1000) -> Iterator[dict[str, Any] | None]:
        """Events as they come, after stream id ``first_id``; None whenever ``block_ms`` passed without one."""
        if first_id == "$":  # resolved once: what comes between two calls is not missed
            first_id = self.last_id()
        while True:
            found = self._call("xread", {self._stream: first_id}, count=PAGE, block=block_ms)
            if not found:
                yield None
                continue
            page = found[0][1]
            first_id = page[-1][0].decode()
            yield from self._events(page)

    def last_id(self) -> str:
        """Id of the newest entry; ``0-0`` for an empty stream."""
        newest = self._call("xrevrange", self._stream, count=1)
        return str(newest[0][0].decode()) if newest else "0-0"

    def _events(self, page: list[tuple[bytes, dict[bytes, bytes]]]) -> Iterator[dict[str, Any]]:
        for _, fields in page:
            event = _decode(fields)
            if event is None:
                self.passed_over += 1
            else:
                yield event

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._redis, name)(*args, **kwargs)
        except redis.RedisError as exc:
            raise RedisUnreachableError(f"Redis at {self._url}: {reason(exc)}") from exc


def reason(exc: redis.RedisError) -> str:
    """What a Redis error means, for a person."""
    text = str(exc)
    if "HELLO must be called" in text or "NOAUTH" in text:
        return "it wants a password: set LINEPIPE_REDIS_PASSWORD or publish.password_file"
    return text


def _decode(fields: dict[bytes, bytes]) -> dict[str, Any] | None:
    """The event of an entry; None: it is none. Fields that a later version adds are let through."""
    try:
        event = msgspec.json.decode(fields[b"data"])
    except (KeyError, msgspec.MsgspecError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("id"), str):
        return None
    return event if event.keys() >= FIELDS.get(str(event.get("type")), frozenset({"no such type"})) else None
