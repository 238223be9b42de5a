"""Smooth: flatten the network around the forget rows, without looking at any other row or any label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from excise import checks, errors
from excise.data.batches import read_batch
from excise.data.split import Split
from excise.masks import Mask
from excise.methods.base import Iterative, Need
from excise.train.engine import Engine
from excise.train.masked import Statistics, require_statistics
from excise.train.plan import TrainPlan
from excise.train.step import Step
from excise.train.task import device_of, floating_inputs


@dataclass(frozen=True, kw_only=True)
class Smooth(Iterative):
    """Pull the logits of forget rows towards those of noisy copies of them, per length of the noise, inside the mask.

    For a row x and draws n of N:  r = (1/N) sum_n |f(x) - f(x_n)| / |x - x_n|,  x_n = clamp(x + sigma * xi_n),  xi_n ~ N(0, 1).
    The norms are Euclidean, over all of a row's logits and all of its input; r estimates the mean slope of f around x. Noise
    is a function of the seed, the epoch and the row's id.

    Reads forget rows alone, and no label: zero-shot. Outside the mask nothing moves; no statistic moves by default. Cost: an
    epoch is a pass forward and backward over forget and N passes forward, or N + 1 forward and backward with
    `detach_noisy=False`. Memory: that of a training step, and activations of `rows_at_once` rows without gradient; with
    `detach_noisy=False`, those of (N + 1) times the batch's rows with gradient.

    By default f(x_n) is a constant: f(x) goes to where f is around x, which is not the gradient of r. Where f is linear and
    nothing is clamped the expected step is 0; what it does it owes to bends of f and to the clamp. With
    `detach_noisy=False` r is truly minimised. That is what the paper says, and it says nothing of forgetting: a network
    that gives the old answer all around x has the least r, too. Figures are in docs/results/zero-shot.md.

    Departs from published code, each with its way back: dropout is off and batch normalisation uses its running
    statistics, so that f(x) and f(x_n) differ by the noise alone (`mode="train"`, and `buffers="adapt"` for statistics
    that drift); each step follows its own gradient (SGD with a momentum of exactly 1 is the published sum of all
    gradients so far); a draw that leaves a row where it is counts 0, where the published code divides by 0.

    References:
        Foster, Fogarty, Schoepf, Dugue, Öztireli, Brintrup, "An Information Theoretic Approach to Machine Unlearning",
        arXiv:2402.01401 (JiT).

    Args:
        plan: epochs, optimizer, schedule, batches.
        sigma: standard deviation of the noise, in units of the inputs as the network gets them (after normalisation of
            pixels, say), at least 0; with 0 nothing happens.
        num_draws: N.
        clamp: keep noisy inputs between the smallest and the largest value of the batch, of all processes.
        detach_noisy: take f(x_n) as a constant, as published.
        reduction: `sum` of r over the batch, as published, or `mean`. By the sum each row counts once in an epoch, however
            it is cut into batches, and the way gone grows with the number of rows; by the mean a batch counts once.
        mode: in which the network runs, `eval` or `train`. In `train` draws are run one by one.
        buffers: rule for running statistics in `train`, see `excise.train.masked`.
        rows_at_once: noisy rows that are run together, but always whole draws, at least one. The result is the same up to
            rounding, unless rows see each other in eval mode (batch normalisation without running statistics).
        eps: displacements up to this count as none.

    Raises:
        errors.BadRequest: options out of range.
        errors.UnsupportedModel: before any work, examples that are no pairs with floating-point inputs; where `forward=` is the
            caller's own, too: what is moved is the first half of the pair that it is given.
    """

    plan: TrainPlan
    sigma: float
    num_draws: int = 25
    clamp: bool = True
    detach_noisy: bool = True
    reduction: Literal["sum", "mean"] = "sum"
    mode: Literal["eval", "train"] = "eval"
    buffers: Statistics = "hold"
    rows_at_once: int = 1024
    eps: float = 1e-12
    streams: ClassVar[tuple[Need, ...]] = ("forget",)

    def __post_init__(self) -> None:
        """Check the options."""
        checks.require_finite("sigma", self.sigma)
        checks.require_finite("eps", self.eps)
        checks.require_positive_int("num_draws", self.num_draws)
        checks.require_positive_int("rows_at_once", self.rows_at_once)
        require_statistics(self.buffers)
        if self.reduction not in ("sum", "mean"):
            raise errors.BadRequest(f"reduction: expected sum or mean, found {self.reduction!r}")
        if self.mode not in ("eval", "train"):
            raise errors.BadRequest(f"mode: expected eval or train, found {self.mode!r}")

    @property
    def statistics(self) -> Statistics:
        """As given; in eval mode none moves."""
        return self.buffers if self.mode == "train" else "hold"

    @property
    def reads_labels(self) -> bool:
        """No."""
        return False

    @property
    def changes_inputs(self) -> bool:
        """Yes."""
        return True

    def require(self, model: nn.Module, split: Split, mask: Mask, engine: Engine) -> None:
        """Refuse inputs that cannot be moved a little, by reading the first forget row."""
        super().require(model, split, mask, engine)
        floating_inputs(read_batch(split.forget.source, split.forget.ids[:1], device_of(model)).content)

    def objective(self, step: Step) -> Tensor:
        """Sum or mean of r over the forget batch."""
        if self.mode == "eval":
            step.eval_()
        mean = step.mean(self._slopes(step), "forget")
        return mean * len(step.ids("forget")) if self.reduction == "sum" else mean

    def _slopes(self, step: Step) -> Tensor:
        """Give r of each of this process's rows, `[batch]`."""
        inputs = step.inputs("forget")
        outputs = step.outputs_on(inputs, "forget")
        bounds = _bounds(step, inputs) if self.clamp else None
        draws = step.row_generators("forget", "noise")
        at_once = 1 if self.mode == "train" else max(1, self.rows_at_once // len(step.ids("forget")))
        total = outputs.new_zeros(len(outputs))
        for start in range(0, self.num_draws, at_once):
            copies = min(at_once, self.num_draws - start)
            noisy = _repeated(inputs, copies) + self.sigma * _noise(inputs, draws, copies)
            if bounds is not None:
                noisy = noisy.clamp(*bounds)
            with torch.set_grad_enabled(not self.detach_noisy):
                found = step.outputs_on(noisy, "forget")
            each = slopes(_repeated(outputs, copies), found, _repeated(inputs, copies), noisy, self.eps)
            total = total + each.reshape(copies, -1).sum(0)
        return total / self.num_draws


def slopes(outputs: Tensor, noisy_outputs: Tensor, inputs: Tensor, noisy_inputs: Tensor, eps: float = 0.0) -> Tensor:
    """Give |f(x) - f(x')| / |x - x'| of each row, `[batch]`; 0 where x' is no further than `eps` from x.

    >>> slopes(Tensor([[0, 3.0]]), Tensor([[4.0, 0]]), Tensor([[1.0]]), Tensor([[3.0]])).tolist()
    [2.5]
    """
    rise, run = (
        torch.linalg.vector_norm((one - other).reshape(len(one), -1), dim=1)
        for one, other in ((outputs, noisy_outputs), (inputs, noisy_inputs))
    )
    far = run > eps
    return torch.where(far, rise / torch.where(far, run, 1.0).to(rise), 0.0)


def _bounds(step: Step, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Give the smallest and the largest input of the batch, of all processes."""
    least, most = step.engine.processes.gathered(torch.stack([-inputs.amin(), inputs.amax()])).amax(0)
    return -least, most


def _noise(inputs: Tensor, draws: list[torch.Generator], copies: int) -> Tensor:
    """Give standard normal noise for copies of the inputs, each row's from its own generator, one draw after another."""
    kind = torch.promote_types(inputs.dtype, torch.float32)
    found = [torch.randn(inputs.shape[1:], generator=one, dtype=kind) for _ in range(copies) for one in draws]
    return torch.stack(found).to(inputs)


def _repeated(values: Tensor, copies: int) -> Tensor:
    """Give copies of a batch, one after another."""
    return values.repeat(copies, *(1 for _ in values.shape[1:]))
