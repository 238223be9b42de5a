"""`Ledger`: the life of one trained network, as an object: requests come in, runs answer them, receipts say how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any

from torch import nn

from excise import checks, errors, params, store
from excise.cluster import Fleet
from excise.ledger.book import Book, has_begun
from excise.ledger.commitments import destroy_key, new_key
from excise.ledger.entries import Life, Request
from excise.ledger.manifest import Manifest
from excise.lifecycle import answering, replaying, requesting, standing
from excise.lifecycle.papers import BOOK, MANIFEST, now, opened
from excise.lifecycle.replaying import Replayed, among
from excise.lifecycle.subject import Subject
from excise.lifecycle.trained import Trained
from excise.lifecycle.work import Options
from excise.oracles.retrain import TrainFunction
from excise.pipeline.policy import EFFECT
from excise.recipes import RECIPES, Recipe
from excise.store.keys import keys_home
from excise.store.places import require_apart, require_private
from excise.train.checkpoints import Checkpoints
from excise.train.hooks import Hooks
from excise.train.plan import TrainPlan
from excise.train.task import Forward, Loss, cross_entropy, forward_pair

MOST_DAYS = 3650
"""A request is to be answered within ten years."""


class Ledger:
    """A ledger's directory, with the network and rows it is about.

    Args:
        directory: of a ledger that `Ledger.open` began.
        model: the original network; or the one in use, where the original is gone (drift and replay need the original).
        train: the training data, as for `Split`. Rows that an answered request named may be taken out of it.
        test: rows never trained on.
        holdout: further ones, for recipes that need them.
        plan: how the network was trained; audits retrain by it.
        fresh: builds the untrained network.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.

    Raises:
        errors.BadData: there is no ledger.
        errors.Corrupt: the ledger is damaged.
        errors.BadSplit: no test rows, or rows that make no split.
    """

    def __init__(
        self,
        directory: str | Path,
        model: nn.Module,
        train: object,
        *,
        test: object,
        holdout: object = None,
        plan: TrainPlan | TrainFunction | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        forward: Forward = forward_pair,
        loss: Loss = cross_entropy,
    ) -> None:
        self.directory = Path(directory)
        trained = Trained(train, test=test, holdout=holdout)
        self.subject = Subject(model=model, trained=trained, plan=plan, fresh=fresh, forward=forward, loss=loss)
        self._recipes: list[Recipe] = []
        with opened(self.directory):
            pass

    @classmethod
    def open(
        cls,
        directory: str | Path,
        model: nn.Module,
        train: object,
        *,
        test: object,
        holdout: object = None,
        plan: TrainPlan | TrainFunction | None = None,
        fresh: Callable[[], nn.Module] | None = None,
        forward: Forward = forward_pair,
        loss: Loss = cross_entropy,
        max_drop: float = 0.02,
        due_days: int = 30,
        after: str | Path | None = None,
        words: dict[str, str | None] | None = None,
    ) -> Ledger:
        """Begin the life of a trained network: which rows it was trained on, and its digest.

        Args:
            directory: new or empty.
            model: the trained network.
            train: what it was trained on.
            test: as above.
            holdout: as above.
            plan: as above.
            fresh: as above.
            forward: as above.
            loss: as above.
            max_drop: how far accuracy on the test rows may fall below this network's.
            due_days: time to answer a request.
            after: the ledger of the network before a retraining; rows that were forgotten there may not be in `train`.
            words: what was typed to name network and data, for the command line.

        Raises:
            errors.BadRequest: the directory holds something, would hold the keys, or anybody may write there; or an argument
                out of range.
            errors.InUse: another process opens a ledger there.
            errors.BadSplit: rows that were forgotten before are back; test rows are copies of training rows.
            errors.BadData: rows that differ from one reading to the next.
            errors.DiskError: something could not be written.
        """
        where = Path(directory)
        checks.require_fraction("max_drop", max_drop)
        if checks.require_positive_int("due_days", due_days) > MOST_DAYS:
            raise errors.BadRequest(f"due_days: expected at most {MOST_DAYS} days, found {due_days}")
        params.require_parameters(model)
        _require_new(where)
        trained = Trained(train, test=test, holdout=holdout)
        if after is not None:
            requesting.require_not_returned(after, trained)
        subject = Subject(model=model, trained=trained, plan=plan, fresh=fresh, forward=forward, loss=loss)
        with store.lock(where):
            _require_new(where)  # another call may have begun a life there since
            key = new_key()
            try:
                test_root, holdout_root = trained.roots(key)
            except BaseException:
                destroy_key(key.id)
                raise
            manifest = Manifest.of(trained.rows, key)
            manifest.save(where / MANIFEST)
            life = Life(
                opened=now(),
                original=params.model_digest(model),
                manifest_root=manifest.root,
                num_rows=manifest.num_rows,
                key_id=key.id,
                max_drop=max_drop,
                due_days=due_days,
                test_accuracy=subject.test_accuracy(model),
                test_root=test_root,
                holdout_root=holdout_root,
                words=words or {},
            )
            Book.create(where / BOOK, life).close()
        return cls(where, model, train, test=test, holdout=holdout, plan=plan, fresh=fresh, forward=forward, loss=loss)

    def request(
        self, forget: object = None, *, records: object = None, reason: str = "erasure", due: date | None = None
    ) -> Request:
        """Take a request to forget rows, see `excise.lifecycle.add_request`; at any time, also while a run is under way."""
        return requesting.add_request(
            self.directory, self.subject.trained, forget=forget, records=records, reason=reason, due=due
        )

    def run(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        tier: str | None = None,
        oracles: int | None = None,
        effect: float = EFFECT,
        recompute: bool = True,
        accept_drop: bool = False,
        anew: bool = False,
        bank: str | Path | None = None,
        fleet: Fleet | None = None,
        words: dict[str, Any] | None = None,
        hooks: Hooks | None = None,
        checkpoint_seconds: float = 30.0,
        watched: Callable[[Checkpoints], AbstractContextManager[object]] = nullcontext,
    ) -> dict[str, Any]:
        """Answer all open requests in one run, see `excise.lifecycle.answer`; given again after a kill, it goes on."""
        options = Options(seed=seed, tier=tier, oracles=oracles, effect=effect, recompute=recompute, words=words or {})
        self._recipes.append(recipe)
        return answering.answer(
            self.directory,
            self.subject,
            recipe,
            options,
            accept_drop=accept_drop,
            anew=anew,
            bank=None if bank is None else Path(bank),
            fleet=fleet,
            hooks=hooks,
            checkpoint_seconds=checkpoint_seconds,
            watched=watched,
        )

    def status(self, *, today: date | None = None) -> dict[str, Any]:
        """Give requests, runs, drift and advice as plain values, see `excise.lifecycle.status`."""
        return standing.status(self.directory, today=today)

    def head(self) -> dict[str, Any]:
        """Give number and hash of the last receipt, to be kept elsewhere."""
        return standing.head(self.directory)

    def receipt(self, which: str | int) -> dict[str, Any]:
        """Give a receipt by its number, or the last one of a request by the request's id."""
        return standing.receipt(self.directory, which)

    def replay(
        self, recipes: Sequence[Recipe] = (), *, seq: int | None = None, hooks: Hooks | None = None
    ) -> list[Replayed]:
        """Repeat the runs from the original network, see `excise.lifecycle.replay`.

        Args:
            recipes: those that runs were made with. Those used through this object are known, and every one of
                `excise.recipes` as it is without settings.
            seq: of the last receipt to come to.
            hooks: who watches.
        """
        plain = [made for make in RECIPES.values() if (made := _without_settings(make)) is not None]
        recipe_of = among([*recipes, *self._recipes, *plain])
        return replaying.replay(self.directory, self.subject, recipe_of, seq=seq, hooks=hooks)

    def withdraw(self, request: str) -> None:
        """Take back a request that no run has taken up, see `excise.lifecycle.withdraw`."""
        requesting.withdraw(self.directory, request)

    def forget_key(self, request: str) -> dict[str, Any]:
        """Destroy the key of an answered request, see `excise.lifecycle.forget_key`."""
        return requesting.forget_key(self.directory, request)


def _without_settings(make: Callable[..., Recipe]) -> Recipe | None:
    try:
        return make()
    except TypeError:  # it needs some
        return None


def _require_new(where: Path) -> None:
    require_apart(keys_home() / "keys" / "*", where, "directory")
    require_private(where, "directory")
    if where.is_dir():
        left = (MANIFEST, BOOK, f"{BOOK}-journal", store.LOCK)  # by a call that was killed
        held = [one.name for one in where.iterdir() if one.name not in left and not one.name.startswith(".")]
        if held or has_begun(where / BOOK):
            name = held[0] if held else BOOK
            store.tidy(where)  # the lock of a call that was killed when all was written
            raise errors.BadRequest(
                f"expected an empty or new directory for a ledger, found {where} with {name!r} in it; choose another directory"
            )
