"""A training's memory stays with the process from step to step."""

import subprocess
import sys

SCRIPT = """
import resource
import torch
from ilcs_model.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(16 << 20)  # 64 MiB: 16,384 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
keep_freed_memory()
faults()
print(faults())
"""


def test_what_a_step_frees_is_not_fetched_from_the_kernel_again() -> None:
    """In a process of its own: the C library is told once and for all."""
    env = {"OMP_NUM_THREADS": "1"}

    before, after = map(
        int, subprocess.run([sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True).stdout.split()
    )

    assert after < before / 4
