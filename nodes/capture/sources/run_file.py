"""What a capture process must know of the run's source if another one died before it: a file in the line's private folder."""

import errno
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pipeline.system.files import open_plain, write_private

T = TypeVar("T", bound=msgspec.Struct)
SHORTAGES = (errno.EMFILE, errno.ENFILE)
"""No descriptors are left: that says nothing of a file or its folder."""


def recall(kept: Path, kind: type[T]) -> T | None:
    """What an earlier capture process left; None: it is lost or damaged."""
    try:
        with os.fdopen(open_plain(kept), "rb") as file:
            return msgspec.msgpack.decode(file.read(), type=kind)
    except OSError as exc:
        if exc.errno in SHORTAGES:
            raise
        return None
    except (msgspec.MsgspecError, ValueError):
        return None


def remember(kept: Path, what: Any) -> None:
    """Replace the file. Raises ``OSError``; one of an earlier life is gone then too."""
    kept.unlink(missing_ok=True)
    write_private(kept, msgspec.msgpack.encode(what))
