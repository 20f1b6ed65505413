"""Reading a line's events from Redis: for the command line, for plant systems, for tests.

A server that sends nothing for ``TIMEOUT_S`` counts as unreachable.
"""

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
"""The most entries that are read at once."""
TIMEOUT_S = 3.0


class RedisUnreachableError(LinepipeError):
    """Redis does not answer, refuses a command, or sends what is no reply; the text says where and why."""


class Events:
    """The events of the Redis stream ``stream`` at ``url``; to be used as a context manager, from one thread.

    Entries that are no events (other clients may write some) are left out and counted. The constructor does not connect; it raises
    ``ValueError`` for a URL that redis-py does not understand.
    """

    def __init__(self, url: str, stream: str, password: str | None = None) -> None:
        self._url, self.name = url, stream
        self.odd = 0
        """How many entries were left out, because they are no events."""
        self.last_odd = ""
        """Id of the last one of these, and what is wrong with it."""
        self.position: str | None = None
        """Id of the entry that was read last, also of one that is no event; None before the first."""
        self._reading: tuple[Any, Replies] | None = None
        self._redis: Any = redis.Redis.from_url(
            url, password=password, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )

    @classmethod
    def of_line(cls, config: Config) -> "Events":
        """The events of the line that a configuration describes, with the login of ``pipeline.redis.login.reader_login``.

        An embedded server answers only while the line runs. Raises ``ConfigError`` if the password cannot be read.
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
        """The fields of the server's INFO, by name. Raises ``RedisUnreachableError``, also if the user may not ask for it."""
        found: dict[str, Any] = self._call("info")
        return found

    def read(self, first_id: str = "-", last_id: str = "+") -> Iterator[dict[str, Any]]:
        """Every event from stream id ``first_id`` to ``last_id``, both included, oldest first; ``-`` and ``+`` are the ends.

        Events are dicts with the fields of ``pipeline.core.events``. ``RedisUnreachableError`` is raised during the iteration.
        """
        while page := self._whole(self._ask("XRANGE", self.name, first_id, last_id, "COUNT", PAGE)):
            yield from self._events(page)
            first_id = "(" + _id(page[-1])

    def follow(self, first_id: str = "$", block_ms: int = 1000) -> Iterator[dict[str, Any] | None]:
        """Events as they come, after stream id ``first_id``, without end; None whenever ``block_ms`` passed without an entry.

        ``$`` stands for the newest entry at the time of the first ``next``. ``block_ms`` must be positive and less than ``TIMEOUT_S``.
        ``RedisUnreachableError`` is raised during the iteration; ``position`` is where to go on then. ``ValueError`` at the first
        ``next`` for another ``block_ms``: a quiet stream would look like a server that is gone.
        """
        if not 0 < block_ms < 1000 * TIMEOUT_S:
            raise ValueError(f"block_ms {block_ms}: must be over 0 and under {1000 * TIMEOUT_S:.0f}")
        if first_id == "$":  # resolved once, so that no entry between two commands is missed
            first_id = self.last_id()
        while True:
            found = self._ask("XREAD", "COUNT", PAGE, "BLOCK", block_ms, "STREAMS", self.name, first_id)
            if not found:
                yield None
                continue
            yield from self._events(self._whole(found[0][1]))
            first_id = self.position or first_id

    def last_id(self) -> str:
        """Stream id of the newest entry; ``0-0`` for an empty or missing stream. Raises ``RedisUnreachableError``."""
        newest = self._ask("XREVRANGE", self.name, "+", "-", "COUNT", 1)
        return _id(newest[0]) if newest else "0-0"

    def _whole(self, entries: list[Any]) -> list[Any]:
        """The entries, without the last one if the reply was cut: it is read again. If it is the only one it stays, to be left out."""
        was_cut = self._reading is not None and self._reading[1].was_cut
        return entries[:-1] if was_cut and len(entries) > 1 else entries

    def _events(self, entries: list[Any]) -> Iterator[dict[str, Any]]:
        """The events among the entries; other clients may write to the stream, so what is no event is counted."""
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
    """A sentence for a person that says what an error of Redis means, and for two of them what to do."""
    text = str(exc)
    if "HELLO must be called" in text or "NOAUTH" in text:
        return (
            "it requires a password: set LINEPIPE_REDIS_PASSWORD or publish.password_file; that of an embedded server's user `reader`"
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
    """The event in an entry's fields. Raises ``ValueError`` that says why there is none."""
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
