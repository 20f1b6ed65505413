"""Reading a line's events from Redis: for the command line, for plant systems, for tests."""

from collections.abc import Iterator
from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.config import Config
from pipeline.core.errors import LinepipeError
from pipeline.core.events import FIELDS
from pipeline.redis.login import reader_login
from pipeline.redis.replies import RefusedError, Replies, TooLong

PAGE = 1000
TIMEOUT_S = 3.0


class RedisUnreachableError(LinepipeError):
    """Redis does not answer, or refuses."""


class Events:
    """The events of one line's stream. Entries that are no events (anybody may write some) are passed over and counted."""

    def __init__(self, url: str, stream: str, password: str | None = None) -> None:
        self._url, self.name = url, stream
        self.odd = 0
        """Entries that were passed over, for they are no events."""
        self.last_odd = ""
        self.position: str | None = None
        """Id of the entry read last, an odd one too."""
        self._reading: tuple[Any, Replies] | None = None
        self._redis: Any = redis.Redis.from_url(
            url, password=password, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )

    @classmethod
    def of_line(cls, config: Config) -> "Events":
        """The events of the line that a configuration describes, with the password that its reader has.

        The embedded server answers while the line runs. Raises ``ConfigError`` where there is no password to be had.
        """
        login = reader_login(config)
        return cls(login.url, config.stream, login.password)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
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
        while page := self._whole(self._ask("XRANGE", self.name, first_id, last_id, "COUNT", PAGE)):
            yield from self._events(page)
            first_id = "(" + _id(page[-1])

    def follow(self, first_id: str = "$", block_ms: int = 1000) -> Iterator[dict[str, Any] | None]:
        """Events as they come, after stream id ``first_id``; None whenever ``block_ms`` passed without one."""
        if first_id == "$":  # resolved once: what comes between two calls is not missed
            first_id = self.last_id()
        while True:
            found = self._ask("XREAD", "COUNT", PAGE, "BLOCK", block_ms, "STREAMS", self.name, first_id)
            if not found:
                yield None
                continue
            yield from self._events(self._whole(found[0][1]))
            first_id = self.position or first_id

    def last_id(self) -> str:
        """Id of the newest entry; ``0-0`` for an empty stream."""
        newest = self._ask("XREVRANGE", self.name, "+", "-", "COUNT", 1)
        return _id(newest[0]) if newest else "0-0"

    def _whole(self, entries: list[Any]) -> list[Any]:
        """Without the last one of a reply that was cut: it is asked for again. One that fills a reply alone stays, to be passed over."""
        was_cut = self._reading is not None and self._reading[1].was_cut
        return entries[:-1] if was_cut and len(entries) > 1 else entries

    def _events(self, entries: list[Any]) -> Iterator[dict[str, Any]]:
        """Whoever may write to the stream decides what is in it: what is no event is counted."""
        for entry in entries:
            self.position = _id(entry)
            try:
                yield _decode(entry[1])
            except (ValueError, RecursionError) as exc:
                self.odd += 1
                self.last_odd = f"{self.position}: {exc}"

    def _ask(self, *command: str | int) -> Any:
        """The reply to a command that reads the stream, in bounded memory."""
        try:
            if self._reading is None:
                connection = self._redis.connection_pool.get_connection()
                self._reading = connection, Replies(connection._sock)
            connection, replies = self._reading
            connection.send_command(*command)
            return replies.read()
        except RefusedError as exc:
            raise RedisUnreachableError(f"Redis at {self._url}: {reason(exc)}") from exc
        except (redis.RedisError, OSError, ValueError) as exc:
            self._hang_up()
            raise RedisUnreachableError(f"Redis at {self._url}: {reason(exc)}") from exc

    def _hang_up(self) -> None:
        if self._reading is not None:
            self._reading[0].disconnect()
            self._reading = None

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(self._redis, name)(*args, **kwargs)
        except redis.RedisError as exc:
            raise RedisUnreachableError(f"Redis at {self._url}: {reason(exc)}") from exc


def reason(exc: Exception) -> str:
    """What an error means, for a person."""
    text = str(exc)
    if "HELLO must be called" in text or "NOAUTH" in text:
        return (
            "it wants a password: set LINEPIPE_REDIS_PASSWORD or publish.password_file; that of an embedded server's user `reader`"
            " is in STATE_DIR/redis/reader"
        )
    if "WRONGTYPE" in text:
        return "the key of that name holds no stream; delete it, or give the line another name (WRONGTYPE)"
    return text


def _id(entry: list[Any]) -> str:
    try:
        return str(entry[0].decode())
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise RedisUnreachableError("the reply is no entry of a stream") from exc


def _decode(fields: Any) -> dict[str, Any]:
    """The event of an entry's fields. Raises ``ValueError`` saying what is odd."""
    if not isinstance(fields, list) or b"data" not in fields[: len(fields) // 2 * 2 : 2]:
        raise ValueError("it has no field `data`")
    data = fields[2 * fields[::2].index(b"data") + 1]
    if isinstance(data, TooLong):
        raise ValueError("its field `data` is too long for an event")
    event = msgspec.json.decode(data)
    if not isinstance(event, dict) or not isinstance(event.get("id"), str):
        raise ValueError("its field `data` is JSON, but no event")
    if not event.keys() >= FIELDS.get(str(event.get("type")), frozenset({"no such type"})):  # a later version may add fields
        raise ValueError("its field `data` lacks fields of an event")
    return event
