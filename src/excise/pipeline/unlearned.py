"""`Unlearned`: the network that forgot, with what was allowed to move, what did, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from excise import params, store
from excise.masks import Mask
from excise.patch import Patch
from excise.recipes import Recipe
from excise.train.engine import Cost, Spent
from excise.train.hooks import EpochTrace

MODEL, MASK, PATCH = "model.safetensors", "mask.safetensors", "patch.safetensors"


@dataclass(frozen=True, eq=False)
class Unlearned:
    """What `excise.unlearn` gives.

    Attributes:
        model: the network that forgot; the user's own is untouched.
        recipe: name of what was done.
        mask: every weight that was allowed to move. Outside it each parameter is equal to the original bit for bit.
        localized: the part of `mask` that the recipe's place chose, or the mask given by hand; `mask` also holds what the
            recipe trains besides.
        frozen_digest: SHA-256 over what must not move (coordinates outside the mask, buffers of frozen modules, but
            for running statistics that were recomputed) afterwards.
        frozen_digest_before: the same taken from the original; equal, or there would be no result.
        patch: only what changed; can be applied, inspected, reverted.
        trace: loss, learning rate and time of every epoch.
        cost: passes over data, seconds, bytes, share of a retraining.
        notes: what people should know of the run, in sentences: whether a rule's target was reached, what was not seen.
        seed: all randomness of the run follows from it.
        recomputed: whether running statistics were recomputed from the retain rows, see `excise.unlearn`.
        how: the recipe itself, so that an audit can do the same to other networks; None where only the result is known.
        by_hand: the mask given by hand, if one was.
        rows_digest: SHA-256 of forget and retain ids, so that an audit on other rows is refused. In memory only: ids can
            be guessed from a plain hash.
    """

    model: nn.Module
    recipe: str
    mask: Mask
    localized: Mask
    frozen_digest: str
    frozen_digest_before: str
    patch: Patch
    trace: tuple[EpochTrace, ...]
    cost: Cost
    seed: int
    recomputed: bool = False
    notes: tuple[str, ...] = ()
    how: Recipe | None = None
    by_hand: Mask | None = None
    rows_digest: str | None = None

    def __repr__(self) -> str:
        share = "" if self.cost.retraining_share is None else f", {self.cost.retraining_share:.0%} of a retraining"
        return (
            f"Unlearned({self.recipe}, {self.mask.num_selected:,} of {self.mask.num_parameters:,} weights allowed to change, "
            f"{self.cost.seconds:.2f} s{share}, frozen digest {self.frozen_digest[:12]}…)"
        )

    def save(self, directory: str | Path) -> list[str]:
        """Write `model.safetensors`, `mask.safetensors` and `patch.safetensors` into a directory; give their names.

        Raises:
            errors.DiskError: a file could not be written; none is left half-written.
        """
        where = Path(directory)
        store.write_tensors(where / MODEL, params.state_of(self.model), {"kind": "excise-model-1"})
        self.mask.save(where / MASK)
        self.patch.save(where / PATCH)
        return [MODEL, MASK, PATCH]

    def summary(self) -> dict[str, Any]:
        """Give the plain facts: digests, fractions, cost."""
        return {
            "recipe": self.recipe,
            "mask_fraction": self.mask.fraction,
            "localized_fraction": self.localized.fraction,
            "mask_digest": self.mask.digest,
            "frozen_digest_before": self.frozen_digest_before,
            "frozen_digest_after": self.frozen_digest,
            "seconds": self.cost.seconds,
            "trained_rows": self.cost.trained_rows,
            "forward_rows": self.cost.forward_rows,
            "peak_bytes": self.cost.peak_bytes,
            "retraining_share": self.cost.retraining_share,
            "parts": {name: asdict(spent) for name, spent in self.cost.parts.items()},
            "model_digest": params.model_digest(self.model),
            "seed": self.seed,
            "recomputed": self.recomputed,
            "notes": list(self.notes),
        }


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What is read back of `Unlearned.summary`."""

    recipe: str
    seed: int
    frozen_digest_before: str
    frozen_digest_after: str
    trained_rows: int
    forward_rows: int
    seconds: float
    peak_bytes: int
    retraining_share: float | None
    recomputed: bool = False
    notes: tuple[str, ...] = ()
    parts: dict[str, Spent] = {}


def read_unlearned(
    directory: Path, made: Made, original: nn.Module, how: Recipe | None, *, by_hand: bool = False
) -> Unlearned:
    """Give what `Unlearned.save` wrote into a run directory, whose files `store.read_record` has checked.

    Args:
        directory: of the run.
        made: what its record says of the result.
        original: the network as it was before the run.
        how: the recipe, where it is known.
        by_hand: whether the mask was given.
    """
    network, path = params.clone_model(original), directory / MODEL
    params.load_strictly_(network, store.read_tensors(path)[0], str(path))
    mask = Mask.load(directory / MASK)
    spent = {name: getattr(made, name) for name in ("trained_rows", "forward_rows", "seconds", "peak_bytes", "parts")}
    return Unlearned(
        model=network,
        recipe=made.recipe,
        mask=mask,
        localized=mask,
        frozen_digest=made.frozen_digest_after,
        frozen_digest_before=made.frozen_digest_before,
        patch=Patch.between(original, network),
        trace=(),
        cost=Cost(**spent, retraining_share=made.retraining_share),
        seed=made.seed,
        recomputed=made.recomputed,
        notes=made.notes,
        how=how,
        by_hand=mask if by_hand else None,
    )
