"""The sending side of the publish hop: keeps each record until publish says that it is durable.

Records of one sender become durable in the order in which they were submitted: each names the record before it, if that may not
be durable yet, and publish takes it only after that one. So no record overtakes another that was lost with a publish process.
"""

from collections.abc import Callable

from pipeline.core.errors import ProtocolError
from pipeline.core.frame import Publishable, Verdict
from pipeline.transport.messages import Durable, Message, Submit
from pipeline.transport.sockets import Dealer

RESEND_NS = 1_000_000_000
Then = Callable[[str], None]
"""Called with the reason if the frame's verdict is invalid, with an empty string if it was inspected or the record is no verdict."""


class Outbox:
    """Submits records, again and again until they are durable; publish refuses duplicates by key.

    Used from one thread. The constructor raises ``ConfigError`` if ``endpoint`` is no usable address.
    """

    def __init__(self, endpoint: str) -> None:
        self.dealer = Dealer(endpoint)
        self._waiting: dict[str, tuple[Publishable, int, list[Then]]] = {}

    def __len__(self) -> int:
        """Records not yet durable."""
        return len(self._waiting)

    def submit(self, record: Publishable, now_ns: int, then: Then | None = None) -> None:
        """Send ``record`` and keep it. ``then`` is called, by ``turn``, once it is durable, or the frame's earlier verdict is.

        A record with the key of one that waits is not sent; only its ``then`` is noted. Never blocks. ``now_ns`` is monotonic.
        """
        first, due_ns, waiting = self._waiting.get(record.key, (None, 0, []))
        thens = waiting if then is None else [*waiting, then]
        if first is not None:  # the same frame arrived twice: one verdict for it is enough
            self._waiting[record.key] = (first, due_ns, thens)
            return
        after = next(reversed(self._waiting), "")
        self._waiting[record.key] = (record, now_ns + RESEND_NS, thens)
        self.dealer.send(Submit(record=record, after=after))

    def turn(self, now_ns: int) -> None:
        """Take confirmations, and send every record again once the oldest has waited for ``RESEND_NS``; to be called in each turn."""
        self.dealer.deliver(self._confirmed)
        if not self._waiting or now_ns < next(iter(self._waiting.values()))[1]:
            return
        after = ""
        for key, (record, _due_ns, waiting) in self._waiting.items():
            self._waiting[key] = (record, now_ns + RESEND_NS, waiting)
            self.dealer.send(Submit(record=record, after=after))
            after = key

    def _confirmed(self, message: Message, _: list[memoryview]) -> None:
        if not isinstance(message, Durable):
            raise ProtocolError(f"publish does not send {type(message).__name__}")
        for key in message.keys:
            record, _due_ns, waiting = self._waiting.pop(key, (None, 0, []))
            own = record.invalid if isinstance(record, Verdict) else ""
            for then in waiting:
                then(message.stands.get(key, own))
