"""Which logits each row should have once the forget rows are forgotten: who says so, and the mean of oracles.

A retrained network has an answer of its own to every row. Methods that push the loss of forget rows up have no such number:
each row reaches the retrained network's answer at a moment of its own and then passes it, so that no moment to stop is right
for all (the missing-targets problem). With a target for each row, a method can be trained as long as one likes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from excise import checks, errors, params, seeds
from excise.data.batches import batches, num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.methods.base import Need
from excise.train.engine import Engine
from excise.train.task import device_of


class TargetProvider(ABC):
    """Who says what logits each row should have."""

    @property
    def needs(self) -> frozenset[Need]:
        """What is read besides the rows asked for; nothing by default."""
        return frozenset()

    def require(self, model: nn.Module, split: Split, engine: Engine) -> None:  # noqa: B027
        """Refuse, before any work, what has no answer here; by default nothing. As cheap as `Method.require`."""

    @abstractmethod
    def targets(self, rows: Rows, split: Split, engine: Engine) -> Tensor:
        """Give the logits that a network should have after forgetting; asked once, before the run.

        Args:
            rows: of the training set, each once; forget rows and retained ones.
            split: whose forget rows are forgotten.
            engine: task, seed, hooks, the network before the run; its cost counts the passes.

        Returns:
            float `[rows, classes]`, in the order of `rows.ids`, on the CPU.
        """


@runtime_checkable
class HasState(Protocol):
    """Something that holds a network's weights, such as `excise.oracles.Trained`."""

    @property
    def state(self) -> Mapping[str, Tensor]:
        """A state dict."""


Answering = nn.Module | Mapping[str, Tensor] | HasState
"""A network, or the weights of one of the architecture of the network that is to forget."""


@dataclass(frozen=True, eq=False)
class OracleMean(TargetProvider):
    """The mean of the answers of networks that never saw the forget rows, in eval mode.

    What retraining would say, told by retrained networks. To have them one has retrained, so this is no way to save anything:
    it shows what a method could reach that had to predict them (the paper's oracle matching).

    Weights are put into a copy of the network before the run, one set after another. Cost: a forward pass over the rows for
    each network. Memory: a copy of the network.

    Args:
        models: networks, state dicts, or `excise.oracles.Trained`, at least one; of the classes of the network that is to
            forget, and networks on its device.
        average: of the `logits`; or of the `probabilities`, whose logarithms are the targets then: the softmax of these is
            the mean of the networks' softmaxes, which cross-entropy is to be taken against.
        batch_size: examples a batch.

    Raises:
        errors.BadRequest: no networks, or something else; before any work, weights that do not fit the network before the run,
            or without one.
    """

    models: Sequence[Answering] = field(repr=False)
    average: Literal["logits", "probabilities"] = "logits"
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the options."""
        if isinstance(self.models, nn.Module | Mapping | str) or not isinstance(self.models, Sequence):
            raise errors.BadRequest(
                f"models: expected a list of networks that never saw the forget rows, found {type(self.models).__name__}; "
                "give several, or one in a list"
            )
        object.__setattr__(self, "models", tuple(self.models))
        if not self.models:
            raise errors.BadRequest("models: expected at least one network that never saw the forget rows, found none")
        for one in self.models:
            if not isinstance(one, nn.Module | Mapping | HasState):
                raise errors.BadRequest(
                    f"models: expected networks, state dicts or excise.oracles.Trained, found {type(one).__name__} among them"
                )
        if self.average not in ("logits", "probabilities"):
            raise errors.BadRequest(f"average: expected logits or probabilities, found {self.average!r}")
        checks.require_positive_int("batch_size", self.batch_size)

    def require(self, model: nn.Module, split: Split, engine: Engine) -> None:
        """Refuse networks without weights, and weights that do not fit the network before the run; no weight is copied."""
        for one in self.models:
            if isinstance(one, nn.Module):
                params.require_parameters(one)
        kept = [state for one in self.models if (state := _state_of(one)) is not None]
        if not kept:
            return
        wanted = {name: tuple(value.shape) for name, value in engine.original_model().state_dict().items()}
        for place, state in enumerate(kept, 1):
            found = {name: tuple(value.shape) for name, value in state.items()}
            wrong = sorted({*wanted.items()} ^ {*found.items()})
            if wrong:
                name = wrong[0][0]
                raise errors.BadRequest(
                    f"models: weights {place} do not fit the network that is to forget: {name!r} has shape "
                    f"{found.get(name, 'none')} there and {wanted.get(name, 'none')} here; give oracles of its architecture, "
                    "or the networks themselves"
                )

    def targets(self, rows: Rows, split: Split, engine: Engine) -> Tensor:
        """Run every network over the rows and give the mean, float64 `[rows, classes]`."""
        total: Tensor | None = None
        for place, network in enumerate(self._networks(engine), 1):
            found = logits_of(network, rows, engine, stage=f"target {place}/{len(self.models)}", size=self.batch_size)
            if self.average == "probabilities":
                found = found.log_softmax(1)
            if total is None:
                total = found
            elif total.shape != found.shape:
                raise errors.BadRequest(
                    f"models: expected logits of one shape, found {tuple(total.shape)} and {tuple(found.shape)}; "
                    "give networks of the same classes"
                )
            else:
                total = torch.logaddexp(total, found) if self.average == "probabilities" else total + found
        assert total is not None
        count = torch.tensor(float(len(self.models)), dtype=total.dtype)
        return total - count.log() if self.average == "probabilities" else total / count

    def _networks(self, engine: Engine) -> Iterator[nn.Module]:
        """Give the networks one after another; those of which there are weights alone are one module, written to in turn."""
        held: nn.Module | None = None
        for one in self.models:
            state = _state_of(one)
            if state is None:
                assert isinstance(one, nn.Module)
                yield params.shadow_of(params.unwrapped(one))
                continue
            held = params.clone_model(engine.original_model()) if held is None else held
            held.load_state_dict(dict(state))
            yield held


def _state_of(one: Answering) -> Mapping[str, Tensor] | None:
    """Give the weights that stand for a network; None for a network itself."""
    if isinstance(one, nn.Module):
        return None
    return one if isinstance(one, Mapping) else one.state


@torch.no_grad()
def logits_of(network: nn.Module, rows: Rows, engine: Engine, *, stage: str, size: int = 256) -> Tensor:
    """Give a network's logits on rows in eval mode, float64 `[rows, classes]`, on the CPU; the network is left as it was.

    Cost: a forward pass over the rows, counted in the engine's. Of several processes each makes it, to the same bits.

    Args:
        network: to ask.
        rows: each once.
        engine: task, seed, hooks.
        stage: name for progress.
        size: examples a batch.
    """
    engine.hooks.on_stage(stage, num_batches(len(rows), size))
    found = []
    with seeds.isolated(engine.seed, stage), params.untouched(network):
        network.eval()
        for batch in batches(rows, size, device_of(network)):
            engine.cost.count(forward=len(batch))
            found.append(engine.task.forward(network, batch.content)[0].cpu().double())
            engine.hooks.on_step()
    engine.hooks.on_stage_end(stage)
    return torch.cat(found)
