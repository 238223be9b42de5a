"""`DatamodelTargets`: what a datamodel predicts of a network without the forget rows, as targets to match."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from excise import checks, errors
from excise.attribution.datamodel import Datamodel
from excise.data.rows import Rows
from excise.data.split import Split
from excise.methods.targets import TargetProvider, logits_of
from excise.train.engine import Engine


@dataclass(frozen=True, eq=False)
class DatamodelTargets(TargetProvider):
    """The original network's logits less the effects of the forget rows: the predictions of `DirectPredictor` as targets.

    The original is asked in eval mode, once, before the run: in training mode its batch normalisation would have targets
    depend on the batch. Cost: a forward pass over the rows, and the datamodel's own, see `Datamodel.effects`.

    References:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", 2024,
        https://arxiv.org/abs/2410.23232.

    Args:
        datamodel: or the path of its file.
        multiplier: of the effects, at least 0; 1 as they are.
        batch_size: examples a batch.

    Raises:
        errors.BadRequest: no datamodel, or numbers out of range; before any work, another architecture or forget rows that
            the datamodel does not know; when targets are asked for, rows of another content.
        errors.BadData: no such file.
    """

    datamodel: Datamodel | str | Path = field(repr=False)
    multiplier: float = 1.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the options; read the file."""
        if not isinstance(self.datamodel, Datamodel | str | Path):
            raise errors.BadRequest(
                f"datamodel: expected one of `excise datamodel`, or the path of its file, found {type(self.datamodel).__name__}"
            )
        checks.require_finite("multiplier", self.multiplier)
        checks.require_positive_int("batch_size", self.batch_size)
        object.__setattr__(self, "datamodel", Datamodel.of(self.datamodel))

    def require(self, model: nn.Module, split: Split, engine: Engine) -> None:
        """Refuse another architecture, and forget rows that the datamodel does not know; of their content, the first rows'."""
        known = self._known()
        known.require_network(model)
        known.effects(split.forget.ids, known.train[:0])
        known.require_rows(split.forget.head(8))

    def targets(self, rows: Rows, split: Split, engine: Engine) -> Tensor:
        """Give the original's logits less the effects of the forget rows, float64 `[rows, classes]`."""
        known = self._known()
        known.require_rows(rows)
        effects = known.effects(split.forget.ids, rows.ids)
        logits = logits_of(engine.original_model(), rows, engine, stage="targets", size=self.batch_size)
        if logits.shape != effects.shape:
            raise errors.BadRequest(
                f"datamodel: expected a network of {effects.shape[1]} classes, found logits {list(logits.shape)}"
            )
        return logits - self.multiplier * effects

    def _known(self) -> Datamodel:
        assert isinstance(self.datamodel, Datamodel)
        return self.datamodel
