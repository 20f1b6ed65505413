"""What an item is told, and where it finds the images."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_NEU = [Path(os.environ.get("LINEPIPE_NEU_DIR", "")), *(folder / "shared" / "data" / "neu-det" for folder in (ROOT.parent, ROOT))]
NEU = next((path for path in _NEU if (path / "split.csv").is_file()), None)
"""The NEU images, or None."""
Result = dict[str, Any]


class Where(NamedTuple):
    """What an item is told."""

    device: str
    cache: Path
    """Shared by all items of a run: compiled code is made once."""
    keep: Callable[[Result], None]
    """Puts what the item has found so far on disk."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"
