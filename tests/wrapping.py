"""Torch's own wrappers as a table of functions of a network, and a group of this one process for the distributed one."""

from contextlib import contextmanager

import torch
from torch import distributed
from torch.nn.parallel import DataParallel, DistributedDataParallel


def compiled(model):
    """Compile by a backend that changes nothing, so that it takes no time and the numbers stay."""
    return torch.compile(model, backend="eager")


WRAPPERS = {
    "compiled": compiled,
    "parallel": DataParallel,
    "distributed": DistributedDataParallel,
    "compiled-distributed": lambda model: compiled(DistributedDataParallel(model)),
    "parallel-compiled": lambda model: DataParallel(compiled(model)),
}


@contextmanager
def alone(folder):
    """Be a process group of one, met in a file of `folder`, as long as the block lasts."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
