"""The processes that train one network: one, or several that ``torchrun`` has started; and the memory of each."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

PATIENCE = timedelta(minutes=60)  # how long a collective call waits at most: the others wait while the first judges


class Processes(NamedTuple):
    """This process among those that train.

    ``share``, ``agreed`` and ``wait`` are collective calls: every process must make them, in the same order. They block until
    the others are there; after 60 minutes torch raises an error or ends the process.
    """

    rank: int = 0
    """This process, 0 to ``world`` - 1."""
    world: int = 1
    """How many train."""
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def share(self, network: nn.Module) -> nn.Module:
        """The network, wrapped so that its gradients are the mean over all processes; itself if there is only one."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def agreed(self, value: float) -> float:
        """The first process's value, in every process: so that their clocks cannot lead to different decisions."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def wait(self) -> None:
        """Block until every process has made this call."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun named in the environment, on one GPU each if there are GPUs; leave them at the end.

    Without torchrun this process is the only one. Blocks until all have joined. If there are several, the GPU
    becomes torch's current one. Raises ``ValueError`` if a variable of torchrun is not a number; errors of torch pass through.
    """
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    device = torch.device("cuda", local % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    if world == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Processes(rank, world, device)
    finally:
        dist.destroy_process_group()


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)


def keep_freed_memory() -> None:
    """Make glibc keep the memory that a step frees for the next one, from now on in the whole process.

    With another C library nothing changes.

    By default a tensor of tens of megabytes comes fresh from the kernel each time, which fills it with zeros page by page:
    that was a sixth of the processor time of a training on two cores.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def hardware() -> str:
    """The hardware of this machine in words: number and name of the GPUs, else of the processor's cores."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} x {model}"
