"""Every error linepipe raises on purpose.

LinepipeError        exit 1   something failed while running
├── ConfigError      exit 2   a person must mend a file or an argument: names file, line, key and what to do
├── NodeError        exit 1   this node cannot go on and must be restarted
├── ProtocolError    exit 1   a peer sent what the protocol does not allow; counted, the peer is ignored
└── BadImageError         -        this frame cannot be inspected: becomes ``invalid(reason)``, the line goes on
"""


class LinepipeError(Exception):
    """Base of all; its text is shown to a person as it is."""

    exit_code = 1


class ConfigError(LinepipeError):
    """Configuration or usage is wrong; nothing was started."""

    exit_code = 2


class NodeError(LinepipeError):
    """The node must end; its supervisor restarts it."""


class ProtocolError(LinepipeError):
    """A message that no correct peer sends."""


class BadImageError(LinepipeError):
    """A frame that cannot be inspected. ``reason`` is one of ``pipeline.core.ledger.INVALID_REASONS``."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
