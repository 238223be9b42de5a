"""A twin of a network of whose parameters each process holds some rows, by torch's `fully_shard`; and what of it lies here.

A parameter is divided along its first axis, as a mask divides it: a process's part of a mask is its rows of the mask's entry.
torch gathers whole parameters for a forward or backward pass, a group of modules at a time, and gives each process its
rows of the averaged gradient. What is held for longer (weights, gradients, the optimizer's state) is held once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from excise import errors, params
from excise.distributed.processes import Processes

GROUP_WEIGHTS = 1 << 24
"""A block of at most so many weights is gathered at once; one of less than a sixteenth, with the block around it."""
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential, nn.MultiheadAttention)


@dataclass(frozen=True, eq=False)
class Twin:
    """A network to train in place of another.

    Attributes:
        network: what to train; the other one itself where nothing is sharded.
        write_back_: brings its values to the other one, in place; to be called by all processes.
    """

    network: nn.Module
    write_back_: Callable[[], None]


def reshard_(network: nn.Module) -> None:
    """Have each process hold its rows alone again, where a forward pass without a backward pass left whole parameters."""
    from torch.distributed.fsdp import FSDPModule  # takes long to import

    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@dataclass(frozen=True, eq=False)
class Shard:
    """The rows of a parameter that this process holds.

    Attributes:
        local: them, in the parameter's own memory.
        start: the first one's index in the whole parameter.
    """

    local: Tensor
    start: int

    def of(self, entry: Tensor) -> Tensor:
        """Give the part of something of the parameter's shape, or that broadcasts to it, that belongs to these rows."""
        if entry.shape[0] == 1:
            return entry.expand(len(self.local), *entry.shape[1:])
        return entry[self.start : self.start + len(self.local)]


def shard_of(value: Tensor) -> Shard | None:
    """Give the part of a parameter that lies here; None for a plain one, which lies here whole."""
    mesh = getattr(value, "device_mesh", None)
    if mesh is None:
        return None
    rows = -(-value.shape[0] // mesh.size())
    local: Tensor = value.detach().to_local()  # type: ignore[attr-defined]
    return Shard(local, min(mesh.get_local_rank() * rows, value.shape[0]))


def whole_of(local: Tensor, num_rows: int, processes: Processes) -> Tensor:
    """Give all rows of something that lies in parts as a parameter of `num_rows` rows does; to be called by all processes."""
    most = -(-num_rows // processes.size)
    padded = local.new_zeros((most, *local.shape[1:]))
    padded[: len(local)] = local
    return processes.gathered(padded).flatten(0, 1)[:num_rows]


def sharded_copy(model: nn.Module, processes: Processes) -> nn.Module:
    """Give a copy of a network of whose parameters each process holds some rows; the network is left alone."""
    network = params.clone_model(params.unwrapped(model))
    _shard_(network, processes)
    return network


def require_shardable(model: nn.Module, processes: Processes) -> None:
    """Refuse, where parameters are to be sharded, a network that has one without rows, or with a sparse gradient.

    Raises:
        errors.UnsupportedModel: by name.
    """
    if not processes.sharded:
        return
    flat = [name for name, value in params.named_parameters(model).items() if value.ndim == 0]
    sparse = [name for name, module in model.named_modules() if getattr(module, "sparse", False)]
    if flat or sparse:
        what = f"{flat[0]!r} has no rows" if flat else f"{sparse[0]!r} has a sparse gradient"
        raise errors.UnsupportedModel(f"{what}, and cannot be divided between processes; use the strategy ddp")


@contextmanager
def sharded(model: nn.Module, processes: Processes) -> Iterator[Twin]:
    """Lend a sharded twin of a network for the block, whose values are the network's own at its end.

    Where nothing is to be sharded it is the network itself. If the block fails the network keeps what was last written back;
    where the training diverged that is the last sound state.
    """
    if not processes.sharded:
        yield Twin(model, lambda: None)
        return
    plain = params.unwrapped(model)
    network = sharded_copy(plain, processes)
    pairs = dict(network.named_parameters())

    @torch.no_grad()
    def write_back_() -> None:
        for name, value in plain.named_parameters():
            value.copy_(pairs[name].full_tensor())  # type: ignore[attr-defined]
        buffers = dict(network.named_buffers())
        for name, buffer in plain.named_buffers():
            buffer.copy_(buffers[name])

    try:
        yield Twin(network, write_back_)
    except errors.Diverged as error:
        write_back_()
        raise errors.Diverged(str(error), params.state_of(plain)) from error
    write_back_()


def _shard_(network: nn.Module, processes: Processes) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # takes long to import, and is of no use to others

    mesh = init_device_mesh(next(network.parameters()).device.type, (processes.size,))
    for module in [*_groups(network), network]:
        fully_shard(module, mesh=mesh)


def _groups(network: nn.Module) -> list[nn.Module]:
    """Give the blocks to gather apart from the rest, inner ones first; none where one parameter lies in two modules."""
    own = [id(value) for module in network.modules() for value in module.parameters(recurse=False)]
    modules = list(network.modules())
    if len(own) > len(set(own)) or len(modules) < len(list(network.named_modules(remove_duplicate=False))):
        return []
    found: list[nn.Module] = []
    _gather(network, found)
    return found


def _gather(module: nn.Module, found: list[nn.Module]) -> None:
    for child in module.children():
        size, container = sum(value.numel() for value in child.parameters()), isinstance(child, _CONTAINERS)
        if size > GROUP_WEIGHTS or container:
            _gather(child, found)
        # a single layer's weights may be read by the module around it (attention does), and a container need not be called
        block = next(child.children(), None) is not None and not container
        if block and size * 16 >= GROUP_WEIGHTS:
            found.append(child)
