"""The SWAP game: the recipe put to networks trained on the forget rows, and to networks trained on others in their place.

Of rows that no network was trained on, T are drawn with the class mix of the forget rows F, as many as there are. In one
world networks are trained on R + F and asked to forget F; in the other, from the same seeds, on R + T and asked to forget T.
An attacker then looks at both kinds of rows under both kinds of networks. What merely makes F unlike T counts for and against
it once each, so that retraining gives it nothing, whatever the rows are like; `excise.measure.swap` does the reckoning.

What is judged is the recipe, not the one network it made.

References:
    Tu, Hu and Ma, "A Reliable Cryptographic Framework for Empirical Machine Unlearning Evaluation", NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from excise import errors, seeds
from excise.curvature import Moments
from excise.data.rows import JoinedSource, Rows
from excise.data.split import Split
from excise.masks import Mask
from excise.measure import Measure, entropies, margins, matched, modified_entropy, swap
from excise.methods import TargetProvider
from excise.methods.function import FromFunction
from excise.observe import collect
from excise.oracles import Bank, Trained, retrain
from excise.pipeline.case import Case
from excise.pipeline.evidence import Oracles, loaded
from excise.pipeline.forget import again
from excise.train.plan import TrainPlan

NUM_PAIRS = 2
MOST_ROWS = 1000
"""Rows a side that the attacker looks at, at most; the search for the best attack sorts them some thousands of times."""

# Confidence and loss order rows as the margin does.
KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "margin": margins,
    "entropy": lambda logits, _: -entropies(logits),
    "modified entropy": lambda logits, targets: -modified_entropy(logits, targets),
}


@dataclass(frozen=True, eq=False)
class Worlds:
    """The two requests of the game, and the rows that are looked at.

    Attributes:
        forget: R + F is trained on, F is to be forgotten.
        others: R + T is trained on, T is to be forgotten. Retain rows are the same in both, and in the same order; holdout
            rows too, T not among them. Neither has test rows, which no method reads.
        sides: rows of F and as many of T, of the same class mix.
    """

    forget: Split
    others: Split
    sides: tuple[Rows, Rows]


@dataclass(frozen=True, eq=False)
class Game:
    """What came of the game.

    Attributes:
        measures: the one measure, `swap`; none if the game was given up.
        notes: why it was given up, in a sentence.
    """

    measures: tuple[Measure, ...] = ()
    notes: tuple[str, ...] = ()


def plays(case: Case, num_oracles: int, num_pairs: int = NUM_PAIRS) -> str | None:
    """Say why the game cannot be played, by what is known before any network is trained; None if it can.

    Reads the labels of forget rows and of those that T is drawn from, and a row of each data set.

    Returns:
        A clause for people, such as "it is not known how the network was made, ...".
    """
    if (why := tied(case.unlearned.how, to_rows=True)) is not None:
        return why
    if not case.labels:
        return "examples that a custom forward= reads have no labels by which others like them could be drawn"
    if num_oracles < 2 * num_pairs:
        return f"{num_pairs} pairs of networks need {2 * num_pairs} oracles to be held against, and there are {num_oracles}"
    try:
        deal(case)
    except errors.BadRequest as error:
        return str(error)
    return None


def tied(how: object, *, to_rows: bool = False) -> str | None:
    """Say why a recipe cannot be put to other networks than its own, or, `to_rows`, to other rows; None if it can."""
    if how is None:
        return "it is not known how the network was made, so that the recipe cannot be put to others"
    if _brings_values(how, to_rows=to_rows):
        return "the recipe brings weights or values that were made for one network or its rows, and fits no others"
    return None


def _brings_values(part: object, *, to_rows: bool) -> bool:
    """Say whether a recipe, or a part of it, holds tensors or networks: a checkpoint, a teacher, scores of rows.

    Moments are taken anew for each network (`Method.for_network`); targets are of rows, whoever is to be brought to them.
    """
    if isinstance(part, Moments):
        return False
    if isinstance(part, TargetProvider):
        return to_rows
    if isinstance(part, Tensor | nn.Module):
        return True
    if isinstance(part, Mapping):
        return any(_brings_values(one, to_rows=to_rows) for one in part.values())
    if isinstance(part, tuple | list):
        return any(_brings_values(one, to_rows=to_rows) for one in part)
    own = fields(part) if is_dataclass(part) and not isinstance(part, Mask) else ()
    return any(_brings_values(getattr(part, field.name), to_rows=to_rows) for field in own)


def names(case: Case, num_oracles: int, num_pairs: int = NUM_PAIRS) -> tuple[str, ...]:
    """Give the names of the measures that the game will add, for the plan of an audit."""
    return ("swap",) if plays(case, num_oracles, num_pairs) is None else ()


def deal(case: Case) -> Worlds:
    """Draw T and give both requests.

    T comes from the holdout, else from the test rows: at most half of each class, so that the others still serve as
    holdout. Where these are too few for as many rows as F has, T is smaller; the forget rows of the first world are all of F
    nevertheless, and as many of them as T has are looked at.

    Raises:
        errors.BadRequest: a class of the forget rows without two rows that were never trained on, or fewer than two rows to
            look at.
        errors.BadData: those rows are not of the same kind as the training rows.
    """
    split, seed = case.split, case.engine.seed
    pool = split.holdout if split.holdout is not None else split.test
    assert pool is not None
    generator = np.random.default_rng(seeds.derive(seed, "swap"))
    wanted, labels = split.forget.labels().numpy(), pool.labels().numpy()
    offered = _half_of_each(labels, np.unique(wanted), generator)
    drawn = torch.from_numpy(offered[matched(wanted, labels[offered], generator)])
    if len(drawn) < 2:
        raise errors.BadRequest(
            f"expected for the SWAP game at least two forget rows and two like them, found {len(wanted)} and {len(drawn)}; "
            "give more test or holdout rows, or ask for more rows at once"
        )
    with seeds.isolated(seed, "swap", "kind"):  # rows may be augmented at random
        source = JoinedSource(split.train.source, pool.source)
    shifted = pool.ids + len(split.train.source)
    never = torch.zeros(len(pool), dtype=torch.bool)
    never[drawn] = True
    twins, rest = shifted[never], shifted[~never]
    outside = torch.ones(len(source), dtype=torch.bool)
    outside[split.retain.ids] = False
    outside[rest] = split.holdout is None
    whole = Split(source, forget=outside, holdout=None if split.holdout is None else rest)
    worlds = [whole.narrowed(ids, gone=_without(whole.forget.ids, ids)) for ids in (split.forget.ids, twins)]
    return Worlds(worlds[0], worlds[1], _looked_at(split.forget, Rows(pool.source, pool.ids[never]), generator))


def _half_of_each(labels: np.ndarray, classes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Give the places of half the rows, rounded down, of each of some classes."""
    counts = {int(label): int((labels == label).sum()) for label in classes}
    short = [str(label) for label, count in counts.items() if count < 2]
    if short:
        raise errors.BadRequest(
            "expected for the SWAP game two rows never trained on of each class of the forget rows, found fewer of class "
            f"{', '.join(short)}; give more test or holdout rows"
        )
    halves = [
        generator.choice(np.flatnonzero(labels == label), size=count // 2, replace=False)
        for label, count in counts.items()
    ]
    return np.sort(np.concatenate(halves))


def _without(ids: Tensor, some: Tensor) -> Tensor:
    return ids[~torch.isin(ids, some)]


def _looked_at(forget: Rows, others: Rows, generator: np.random.Generator) -> tuple[Rows, Rows]:
    """Give rows of F and T, equally many and of one class mix."""
    wanted = others.labels().numpy()
    if len(wanted) > MOST_ROWS:
        chosen = np.sort(generator.choice(len(wanted), size=MOST_ROWS, replace=False))
        others, wanted = Rows(others.source, others.ids[torch.from_numpy(chosen)]), wanted[chosen]
    places = matched(wanted, forget.labels().numpy(), generator)
    return Rows(forget.source, forget.ids[torch.from_numpy(places)]), others


def swap_game(
    case: Case,
    oracles: Oracles,
    bank: Bank | None = None,
    *,
    num_pairs: int = NUM_PAIRS,
    together: bool | None = False,
) -> Game:
    """Play the game, after `plays` has said that it can be.

    Networks of one number in the two worlds share the seeds of their weights, batches and unlearning; these are the seeds of
    a population's originals and of their unlearning, so that a bank may hold the first world's. Originals have seen the
    forget rows, or test rows: what a bank keeps of them is of kind `original`.

    Cost: `2 * num_pairs` trainings and unlearnings; a forward pass over the rows looked at for these and for each oracle;
    and the search for the best attack of `excise.measure.swap`.

    Args:
        case: what is audited.
        oracles: at least `2 * num_pairs` networks trained on the retain rows.
        bank: to find originals in and keep them.
        num_pairs: pairs of networks, one of each world.
        together: as in `excise.oracles.retrain`.

    Returns:
        The measure; or, where a training or an unlearning of the game diverged, was refused or gave values that are not
        finite, why there is none. Where the recipe or the training is the user's own function, so does any error of it.
    """
    worlds = deal(case)
    own_code = not isinstance(case.plan, TrainPlan) or isinstance(
        getattr(case.unlearned.how, "method", None), FromFunction
    )
    expected = (Exception,) if own_code else (errors.Diverged, errors.BadRequest, errors.Refused)
    try:
        scores = _played(case, worlds, bank, num_pairs, together=together)
    except errors.ClusterError:  # says nothing of the recipe
        raise
    except expected as error:
        return Game(notes=(f"the SWAP game was given up: {str(error) or type(error).__name__}",))
    own = {kind: values.reshape(num_pairs, 2, *values.shape[1:]) for kind, values in scores.items()}
    theirs = _stacked(
        [_scores(oracles.model(case.build, place), worlds, case) for place in range(len(oracles.trained))]
    )
    generator = np.random.default_rng(seeds.derive(case.engine.seed, "swap", "attack"))
    found = swap(own, theirs, generator=generator)
    told = f" The recipe was put to {num_pairs} networks trained on the rows and to {num_pairs} trained on others like them."
    return Game((replace(found, sentence=found.sentence + told),))


def _played(
    case: Case, worlds: Worlds, bank: Bank | None, num_pairs: int, *, together: bool | None
) -> dict[str, np.ndarray]:
    """Train, unlearn and look; of each kind `[networks, 2 sides, rows]`, the worlds taking turns."""
    seed, hooks = case.engine.seed, case.engine.hooks
    chosen = [seeds.derive(seed, "original", number) for number in range(num_pairs)]
    trained: list[list[Trained]] = []
    # the first rows as the audit's other originals have them, so that a bank knows them
    for rows, stage in ((case.split.train, "original"), (worlds.others.train, "swapped original")):
        trained.append(
            retrain(
                case.build,
                rows,
                case.retraining,
                chosen,
                case.engine,
                stage=stage,
                bank=bank,
                together=together,
                kind="original",
                fleet=case.fleet,
            )
        )
    found = []
    stage = f"{case.unlearned.recipe} on {num_pairs} pairs of networks"
    hooks.on_stage(stage, 2 * num_pairs)
    try:
        for number in range(num_pairs):
            for split, originals in zip((worlds.forget, worlds.others), trained, strict=True):
                model = loaded(case.build, originals[number], "a network of the SWAP game")
                forgot = again(case.unlearned, model, split, case.build, case.engine, number)
                found.append(_scores(forgot, worlds, case))
                if not all(np.isfinite(values).all() for values in found[-1].values()):
                    raise errors.Diverged(f"{case.unlearned.recipe} gave a network whose logits are not finite")
                hooks.on_step()
    finally:  # the audit may go on without the game
        hooks.on_stage_end(stage)
    return _stacked(found)


def _scores(model: nn.Module, worlds: Worlds, case: Case) -> dict[str, np.ndarray]:
    """Give of each kind of score `[2 sides, rows]`."""
    with seeds.isolated(case.engine.seed, "swap", "scores"):  # the same augmentation, if any, for every network
        seen = [collect(model, rows, case.engine) for rows in worlds.sides]
    return {kind: np.stack([score(one.logits, one.targets) for one in seen]) for kind, score in KINDS.items()}


def _stacked(networks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {kind: np.stack([one[kind] for one in networks]) for kind in KINDS}
