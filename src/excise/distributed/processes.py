"""`Processes`: the processes that do one piece of work together, as a value; and what they say to each other.

Every process runs the same program on the same request. Work on rows is shared: each takes its part of every batch, and
what they found is summed. All else is done by each, to the same bits.

Gradients are averaged, as torch's own engines do it: a sum over rows comes back from `total` with a gradient `size` times
as large, and a term that every process computes alike (a penalty on the weights) counts once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, distributed

from excise import errors

Strategy = Literal["ddp", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
BUCKET_BYTES = 1 << 26
"""What is summed at once: so much memory is taken beside the tensors."""


@dataclass(frozen=True)
class Processes:
    """The processes of one run, seen from one of them.

    Every verb but `share` and `is_first` is to be called by all of them, in the same order; with one process nothing is sent.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        strategy: `ddp`, each holds the whole network; `fsdp`, each holds a part of every parameter while it trains.
    """

    rank: int = 0
    size: int = 1
    strategy: Strategy = "ddp"

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.strategy not in STRATEGIES:
            raise errors.BadRequest(f"strategy: expected {' or '.join(STRATEGIES)}, found {self.strategy!r}")
        if not 0 <= self.rank < self.size:
            raise errors.BadRequest(f"rank: expected 0 to {self.size - 1}, found {self.rank}")

    @classmethod
    def alone(cls) -> Processes:
        """Give one process, which shares nothing."""
        return cls()

    @classmethod
    def joined(cls, strategy: Strategy = "ddp") -> Processes:
        """Give the processes of torch's default group.

        Raises:
            errors.BadRequest: there is none; or an unknown strategy.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            raise errors.BadRequest(
                "expected the processes of a group, found no group; start under torchrun and call "
                "torch.distributed.init_process_group(), or use excise unlearn --devices N"
            )
        return cls(distributed.get_rank(), distributed.get_world_size(), strategy)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks and writes."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is anything to share."""
        return self.size > 1

    @property
    def sharded(self) -> bool:
        """Whether parameters are held in parts while a network trains."""
        return self.several and self.strategy == "fsdp"

    def share(self, rows: Tensor) -> Tensor:
        """Give this process's part of something with one entry a row: contiguous, sizes differ by at most one, maybe empty.

        >>> [Processes(rank, 3).share(torch.arange(5)).tolist() for rank in range(3)]
        [[0], [1, 2], [3, 4]]
        """
        count = len(rows)
        return rows[self.rank * count // self.size : (self.rank + 1) * count // self.size]

    def own(self, rows: Tensor) -> Tensor:
        """Give what this process runs of a batch: its `share`, or the first row, to keep step, where that is empty."""
        share = self.share(rows)
        return share if len(share) else rows[:1]

    def total(self, value: Tensor, *, averaged: bool = True) -> Tensor:
        """Give the sum over the processes, the same bits on each.

        Its gradient is `size` times what comes back; or just that, where gradients are not `averaged` afterwards.
        """
        return _Total.apply(value, self.size if averaged else 1) if self.several else value  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def summed(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Give the sums over the processes. A tensor missing somewhere counts as zeros; missing everywhere, it is None.

        Args:
            tensors: the same number on each process.
            like: tensors of the same shapes, dtypes and devices.
        """
        found = list(tensors)
        for bucket in _buckets(like) if self.several else ():
            flat = torch.cat([
                *(torch.zeros_like(like[i]).reshape(-1) if (one := tensors[i]) is None else one.reshape(-1) for i in bucket),
                torch.tensor([float(tensors[i] is not None) for i in bucket]).to(like[bucket[0]]),
            ])  # fmt: skip
            distributed.all_reduce(flat)
            *parts, present = torch.split(flat, [*(like[i].numel() for i in bucket), len(bucket)])
            for place, part, known in zip(bucket, parts, present.tolist(), strict=True):
                found[place] = part.reshape(like[place].shape) if known else None
        return found

    def averaged(self, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
        """Give the sums divided by the number of processes; see `summed`."""
        return [None if one is None else one.div_(self.size) for one in self.summed(tensors, like)]

    def gathered(self, value: Tensor) -> Tensor:
        """Give every process's value, `[size, *shape]`, in order of rank; without gradient."""
        if not self.several:
            return value.detach()[None]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        distributed.all_gather(parts, value.detach().contiguous())
        return torch.stack(parts)

    def largest(self, number: float) -> float:
        """Give the largest of one number a process."""
        if not self.several:
            return number
        return float(self.gathered(torch.tensor(number, dtype=torch.float64, device=_meeting_place())).max())

    def anywhere(self, *, fact: bool) -> bool:
        """Say whether something is so in any process."""
        return bool(self.largest(float(fact)))

    @torch.no_grad()
    def copy_from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Write the first process's values into the tensors of all, in place."""
        for tensor in tensors if self.several else ():
            value = tensor.detach().contiguous()
            distributed.broadcast(value, 0)
            tensor.detach().copy_(value)

    def digest_from_first(self, digest: str) -> str:
        """Give the first process's digest, in hexadecimal, to all; they are of one length."""
        if not self.several:
            return digest
        own = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8, device=_meeting_place())
        return bytes(self.gathered(own)[0].tolist()).hex()

    def require_same(self, facts: Mapping[str, str], remedy: str, refusal: type[errors.ExciseError]) -> None:
        """Refuse, in every process, if a fact of any is not the first one's.

        Args:
            facts: what must be equal, by what it is called in the message (`weights`); the same names everywhere.
            remedy: the end of the message.
            refusal: the error to raise.
        """
        if not self.several or not facts:
            return
        digests = [list(hashlib.sha256(value.encode()).digest()) for value in facts.values()]
        every = self.gathered(torch.tensor(digests, dtype=torch.uint8, device=_meeting_place())).cpu()
        for rank, own in enumerate(every):
            other = [name for name, one, first in zip(facts, own, every[0], strict=True) if not torch.equal(one, first)]
            if other:
                raise refusal(f"rank {rank} has other {' and other '.join(other)} than rank 0; {remedy}")

    def barrier(self) -> None:
        """Wait for all."""
        if self.several:
            distributed.barrier()


class _Total(torch.autograd.Function):
    """The sum over the processes; every one of them takes it to the same loss, so nothing is sent on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, size: int) -> Tensor:
        ctx.size = size
        total = value.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.size, None


def _buckets(like: Sequence[Tensor]) -> Iterator[list[int]]:
    """Give places of tensors that are summed at once: of one dtype and device, in order, `BUCKET_BYTES` or one tensor."""
    open_: dict[tuple[torch.dtype, torch.device], tuple[list[int], int]] = {}
    for place, tensor in enumerate(like):
        kind, size = (tensor.dtype, tensor.device), tensor.numel() * tensor.element_size()
        places, held = open_.get(kind, ([], 0))
        if places and held + size > BUCKET_BYTES:
            yield places
            places, held = [], 0
        open_[kind] = ([*places, place], held + size)
    for places, _ in open_.values():
        yield places


def _meeting_place() -> torch.device:
    """Give the device on which the group can send small facts: the CPU where it can, else the accelerator."""
    accelerator = None if "cpu" in distributed.get_backend_config() else torch.accelerator.current_accelerator()
    return torch.device("cpu") if accelerator is None else accelerator
