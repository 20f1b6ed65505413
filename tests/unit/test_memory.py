"""A training's memory stays with the process from step to step."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = """
import resource
import sys
from pathlib import Path

import torch

from ilcs_model.data.dataset import open_dataset
from ilcs_model.info import TileRecipe
from ilcs_model.training.processes import Processes
from ilcs_model.training.settings import Settings
from ilcs_model.training.trainer import Trainer

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
Trainer(open_dataset(Path(sys.argv[1])), TileRecipe(), Settings(epochs=1), Processes())
faults()
print(faults())
"""


def test_what_a_step_frees_is_not_fetched_from_the_kernel_again(tmp_path: Path, make_images: Callable[..., list[Path]]) -> None:
    """In a process of its own: the C library is told once and for all."""
    for label in ("dark", "light"):
        make_images(tmp_path / label, 2)
    program = [sys.executable, "-c", SCRIPT, str(tmp_path)]

    found = subprocess.run(program, env={"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True)

    before, after = map(int, found.stdout.split())
    assert after < before / 4
