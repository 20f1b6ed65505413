"""The sending side of the publish hop: keeps each record until publish says that it is durable."""

from collections.abc import Callable

from pipeline.errors import ProtocolError
from pipeline.frame import Publishable
from pipeline.transport import Dealer
from pipeline.wire import Durable, Message, Submit

RESEND_NS = 1_000_000_000


class Outbox:
    """Submits records and submits them again until they are durable; publish refuses duplicates by key."""

    def __init__(self, endpoint: str) -> None:
        self.dealer = Dealer(endpoint)
        self._waiting: dict[str, tuple[Publishable, int, Callable[[], None] | None]] = {}

    def __len__(self) -> int:
        """Records not yet durable."""
        return len(self._waiting)

    def submit(self, record: Publishable, now_ns: int, then: Callable[[], None] | None = None) -> None:
        """Send ``record``; ``then`` is called once it is durable."""
        self._waiting[record.key] = (record, now_ns + RESEND_NS, then)
        self.dealer.send(Submit(record=record))

    def turn(self, now_ns: int) -> None:
        """Take confirmations; repeat what has waited for ``RESEND_NS``."""
        self.dealer.deliver(self._confirmed)
        for key, (record, due_ns, then) in list(self._waiting.items()):
            if now_ns >= due_ns:
                self._waiting[key] = (record, now_ns + RESEND_NS, then)
                self.dealer.send(Submit(record=record))

    def _confirmed(self, message: Message, _: list[memoryview]) -> None:
        if not isinstance(message, Durable):
            raise ProtocolError(f"publish does not send {type(message).__name__}")
        for key in message.keys:
            _record, _due_ns, then = self._waiting.pop(key, (None, 0, None))
            if then is not None:
                then()
