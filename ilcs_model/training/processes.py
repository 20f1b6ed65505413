"""Several processes that train one network, as ``torchrun`` starts them. One process needs nothing of this."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

PATIENCE = timedelta(minutes=60)  # the others wait while the first judges


class Processes(NamedTuple):
    """This process among those that train."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """The one that writes and reports."""
        return self.rank == 0

    def share(self, network: nn.Module) -> nn.Module:
        """A network whose gradients are the mean over all processes."""
        if self.world == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def agreed(self, value: float) -> float:
        """The first process's value, in all: so that clocks decide nothing differently."""
        if self.world == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(shared, 0)
        return float(shared)

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun named in the environment, on one GPU each where there are GPUs."""
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
