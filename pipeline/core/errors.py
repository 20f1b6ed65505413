"""Every error linepipe raises on purpose.

LinepipeError        exit 1   something failed while running
├── ConfigError      exit 2   a person must correct a file or an argument: the text names file, line, key and what to do
├── NodeError        exit 1   this node cannot go on and must be restarted
├── ProtocolError    exit 1   a peer sent what the protocol does not allow; counted, the peer is ignored
└── BadImageError         -        this frame cannot be inspected: becomes ``invalid(reason)``, the line goes on
"""

from collections.abc import Iterator
from contextlib import contextmanager


class LinepipeError(Exception):
    """Base of all errors below; its text is shown to a person without a traceback."""

    exit_code = 1
    """Exit code of a command that ends by it."""


class ConfigError(LinepipeError):
    """The configuration or the usage is wrong, or this machine cannot do what it asks for."""

    exit_code = 2


class NodeError(LinepipeError):
    """This node, or the embedded server, cannot go on. A node ends; its supervisor starts it again."""


class ProtocolError(LinepipeError):
    """A message, or a description in one, that no correct peer sends. Sockets count it and pass over it."""


class BadImageError(LinepipeError):
    """A frame that cannot be inspected. ``reason`` is one of ``pipeline.core.ledger.INVALID_REASONS``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@contextmanager
def told_as(kind: type[LinepipeError], what: str, advice: str = "") -> Iterator[None]:
    """Raise an ``OSError`` of the block as ``kind``: ``what`` failed, what the system says of it and, if given, what to do."""
    try:
        yield
    except OSError as exc:
        raise kind(f"{what}: {exc.strerror}" + (f"; {advice}" if advice else "")) from exc
