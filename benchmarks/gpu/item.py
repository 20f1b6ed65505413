"""What an item is given: the device, images, and where it writes."""

import csv
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
_NEU = [Path(os.environ.get("LINEPIPE_NEU_DIR", "")), *(folder / "shared" / "data" / "neu-det" for folder in (ROOT.parent, ROOT))]
NEU = next((path for path in _NEU if (path / "split.csv").is_file()), None)
"""Folder of the NEU images; None if they are not on this machine."""
Result = dict[str, Any]


class Where(NamedTuple):
    """What an item is given."""

    device: str
    """``cuda`` or ``cpu``."""
    cache: Path
    """Folder shared by all items of a run: code is compiled once."""
    keep: Callable[[Result], None]
    """Writes what the item has found so far to disk, in place of what it wrote before."""

    @property
    def on_gpu(self) -> bool:
        """Whether the item measures a GPU; on a CPU it only tries the program."""
        return self.device == "cuda"

    def images(self) -> Path | None:
        """Folder of a data set: on a GPU NEU, or None if it is missing; on a CPU ``noise``, as NEU would take minutes."""
        return NEU if self.on_gpu else self.noise()

    def noise(self) -> Path:
        """A new data folder in the form of NEU: images of noise, 2 classes of 16."""
        return _noise(self.folder("noise"))

    def folder(self, name: str) -> Path:
        """Make a new empty folder in ``cache``; ``name`` is the beginning of its name."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.cache))


def _noise(root: Path) -> Path:
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    with (root / "split.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "class", "split"])
        for k in range(32):
            cv2.imwrite(str(root / "images" / f"{k}.jpg"), rng.integers(0, 256, (200, 200), np.uint8))
            rows.writerow([f"{k}.jpg", f"class{k % 2}", "test" if k < 8 else "train"])
    return root
