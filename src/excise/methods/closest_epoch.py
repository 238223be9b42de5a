"""ClosestEpoch: run a method, then go back to the epoch whose forget error is that of rows never seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from excise import errors, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Need, Phased, Wrapping
from excise.methods.epoch_state import EpochState
from excise.methods.judging import judged
from excise.train.engine import Engine
from excise.train.masked import effective
from excise.train.task import forward_pair


@dataclass(frozen=True)
class ClosestEpoch(Wrapping):
    """Run a method of gradient steps and give back the epoch whose forget error is closest to a reference error.

    The forget error is the share of forget rows that the network gets wrong after an epoch, in eval mode. The reference is
    the error of the final network on holdout rows of the forget rows' classes, each class weighted by its share of the
    forget rows: what the network gets wrong of such rows when it never saw them. Of epochs as close as each other the later
    one is taken. Errors are compared as fractions, without rounding. The network before the first epoch is no candidate.

    Too much forgetting gives a row away as too little does: a forget error above that of unseen rows is a mark. The
    holdout is used up by this choice; judge the result on test rows, which this never reads.

    Reads what the method reads, forget and holdout rows. Outside the mask nothing moves: weights are put back inside it
    only, and buffers as they were after that epoch. Cost: what the method costs, one pass forward over forget after each
    epoch, and one over the holdout's rows of the forget rows' classes after the run; with a `forward` of your own, one over
    forget and one over holdout before it, and once more wherever it is checked, since nothing else tells their classes. Memory:
    for each forget error that was met, and so at most once an epoch, a copy in the machine's main memory of the mask's
    coordinates and of all buffers; in each checkpoint of the run, too.

    Departs from the paper, whose holdout has the distribution of the forget rows by construction; here rows of their
    classes are chosen from it and weighted. A schedule that lowers the learning rate is that of the whole run, so an
    epoch's state is that of a run stopped there only if the schedule is constant.

    References:
        Kurmanji, Triantafillou, Hayes, Triantafillou, "Towards Unbounded Machine Unlearning", NeurIPS 2023,
        arXiv:2302.09880 (the rewind of SCRUB+R).

    Args:
        method: what to run, a method of gradient steps such as `Distill`.

    Raises:
        errors.BadRequest: no such method; before any work, no holdout, or none of its rows in some of the forget rows'
            classes.
        errors.BadData: before any work, targets that are no integer classes of the network.
    """

    method: Phased

    def __post_init__(self) -> None:
        """Check that there are epochs to choose from."""
        if not isinstance(self.method, Phased):
            raise errors.BadRequest(
                f"ClosestEpoch: expected a method of gradient steps, such as Distill, found {type(self.method).__name__}"
            )

    @property
    def needs(self) -> frozenset[Need]:
        """What the method needs; forget and holdout rows to measure on."""
        return self.method.needs | {"forget", "holdout"}

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse a holdout that is missing or lacks a class of the forget rows, and what the method refuses."""
        super().require(model, split, mask, engine)
        self._comparable(model, split, engine)

    def unlearn_(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Run the method, in place, then put the closest epoch back."""
        shares, holdout = self._comparable(model, split, engine)
        allowed = effective(mask, model)
        watch = _Watch(model, allowed, lambda: int(self._judged(model, split.forget, engine)[0].sum()))
        self.method.run_(model, split, mask, engine, after_epoch=watch)
        reference = _weighted_error(shares, *self._judged(model, holdout, engine))
        errors_of = {Fraction(count, len(split.forget)): found for count, found in watch.kept.items()}
        closest = min(errors_of, key=lambda error: (abs(error - reference), -errors_of[error].epoch))
        chosen = errors_of[closest]
        engine.hooks.on_note(
            f"ClosestEpoch: epoch {chosen.epoch + 1} of {self.method.plan.epochs}, "
            f"with a forget error of {float(closest):.4f} for {float(reference):.4f} on the holdout"
        )
        chosen.put_back_(model, allowed)

    def _comparable(self, model: nn.Module, split: Split, engine: Engine) -> tuple[dict[int, Fraction], Rows]:
        """Give the share of each class among the forget rows, and the holdout rows of those classes."""
        if split.holdout is None:
            raise errors.BadRequest(
                "ClosestEpoch: expected rows that were never trained on, of the forget rows' classes, found none; "
                "give them as Split(..., holdout=...), on the command line --holdout"
            )
        counts = Counter(self._classes(model, split.forget, engine).tolist())
        unseen = self._classes(model, split.holdout, engine)
        missing = sorted(set(counts) - set(unseen.tolist()))
        if missing:
            shown = ", ".join(str(name) for name in missing)
            raise errors.BadRequest(
                f"ClosestEpoch: expected holdout rows of every class of the forget rows, found none of {shown}; "
                "add rows of these classes to the holdout"
            )
        shares = {name: Fraction(count, len(split.forget)) for name, count in counts.items()}
        compared = torch.isin(unseen, torch.tensor(list(counts)))
        return shares, Rows(split.holdout.source, split.holdout.ids[compared])

    def _classes(self, model: nn.Module, rows: Rows, engine: Engine) -> Tensor:
        """Give the targets `[rows]`; only a `forward` of the user's own must be run to give them."""
        if engine.task.forward is not forward_pair:
            return self._judged(model, rows, engine)[1]
        with seeds.isolated(engine.seed, "ClosestEpoch"):
            return rows.labels()

    def _judged(self, model: nn.Module, rows: Rows, engine: Engine) -> tuple[Tensor, Tensor]:
        """Give which rows the network gets wrong, and their targets, both `[rows]`."""
        size = self.method.plan.batch_size
        return judged(model, rows, engine, batch_size=size, asking="ClosestEpoch", remedy=_NO_SHARE)


_NO_SHARE = "there is no share of wrong answers to compare, so run the method by itself"


def _weighted_error(shares: Mapping[int, Fraction], wrong: Tensor, targets: Tensor) -> Fraction:
    """Give the error of each class, weighted by the classes' shares."""
    total = Fraction(0)
    for name, share in shares.items():
        of_class = wrong[targets == name]
        total += share * Fraction(int(of_class.sum()), len(of_class))
    return total


class _Watch:
    """Keeps what each epoch left, by rows wrong: of epochs with the same forget error only the last can be chosen."""

    def __init__(self, model: nn.Module, mask: Mask, count_wrong: Callable[[], int]) -> None:
        self._model, self._mask, self._count_wrong = model, mask, count_wrong
        self.kept: dict[int, EpochState] = {}

    def __call__(self, epoch: int) -> None:
        self.kept[self._count_wrong()] = EpochState.of(self._model, self._mask, epoch)

    def remembered(self) -> dict[str, Tensor]:
        """Give all of it as tensors, for a checkpoint."""
        return {
            f"{count}/{name}": value for count, found in self.kept.items() for name, value in found.tensors().items()
        }

    def recall_(self, tensors: Mapping[str, Tensor]) -> None:
        """Take it back from a checkpoint."""
        for count in {int(key.partition("/")[0]) for key in tensors}:
            own = {
                key.removeprefix(f"{count}/"): value for key, value in tensors.items() if key.startswith(f"{count}/")
            }
            self.kept[count] = EpochState.of_tensors(own)
