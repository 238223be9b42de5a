"""The audit of an unlearned network against networks that never saw the forget rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import structs
from torch import nn

from excise import checks, errors, params, recipes, seeds
from excise.cluster import Fleet, Here, require_fleet
from excise.data.content import content_commitment
from excise.data.placing import placed
from excise.data.split import Split
from excise.masks import Mask
from excise.measure import Measure
from excise.measure.ulira import LEAST_MODELS
from excise.oracles import Bank
from excise.oracles.retrain import TrainFunction
from excise.pipeline import measuring, planning, policy, soundness, swapping
from excise.pipeline.audited import Audit, SameCost
from excise.pipeline.case import Case, require_options
from excise.pipeline.evidence import Oracles, gather_oracles, observe
from excise.pipeline.forget import counted, rows_digest, unlearn
from excise.pipeline.fresh import untrained
from excise.pipeline.planning import NUM_ORACLES, NUM_PER_ARM, AuditPlan
from excise.pipeline.policy import EFFECT, Outcome
from excise.pipeline.population import Population, arms_of, gather_population
from excise.pipeline.probing import Canaries, Goal, prober_for
from excise.pipeline.unlearned import Unlearned
from excise.train.checkpoints import Checkpoints
from excise.train.engine import Cost, Engine, Spent
from excise.train.hooks import Hooks
from excise.train.machine import Machine, require_machine
from excise.train.plan import TrainPlan
from excise.train.running import without_autocast
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair


@without_autocast()
def audit(
    unlearned: Unlearned,
    split: Split,
    *,
    plan: TrainPlan | TrainFunction | None = None,
    fresh: Callable[[], nn.Module] | None = None,
    oracles: int | None = None,
    tier: str | None = None,
    budget_seconds: float | None = None,
    effect: float = EFFECT,
    goal: Goal | None = None,
    canaries: Canaries | None = None,
    search: Cost | None = None,
    original: nn.Module | None = None,
    seed: int = 0,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    hooks: Hooks | None = None,
    bank: str | Path | Bank | None = None,
    keep_originals: bool = False,
    checkpoints: Checkpoints | None = None,
    machine: Machine = Machine(),  # noqa: B008 - a frozen value
    fleet: Fleet | None = None,
    on_plan: Callable[[AuditPlan], None] | None = None,
) -> Audit:
    """Say whether an unlearned network can be told from networks that never saw the forget rows.

    Tier T0 trains nothing, looks for faults of the network itself, and passes nothing. T1 (the default) retrains 8 networks
    on the retain rows, holds the unlearned network against them and runs the controls. T2 besides trains 64 originals, puts
    the recipe to each, and holds them against 64 oracles and 64 held-out ones, row by row.
    Cost: T1, `oracles` trainings, and the probes of up to 11 networks (720 small steps each); T2, 192 trainings, 64
    unlearnings.

    Args:
        unlearned: from `excise.unlearn`.
        split: the same split; its `test` rows are needed.
        plan: how the original was trained: a `TrainPlan`, or `train(model, dataset, seed) -> model`; tier T0 needs none. Of a
            function no rows are counted and no networks are kept in a bank, it is not timed for a budget, and cannot be cut
            short to the cost of the recipe.
        fresh: builds the untrained network; without it, modules' own `reset_parameters`.
        oracles: networks to retrain; 8 at T1, 64 at T2 unless given; fewer than 4 decide nothing.
        tier: T0, T1 or T2; T1 if neither it nor a budget is given.
        budget_seconds: picks the largest tier and number of oracles that fit, by timing a few steps; says what it left out.
        effect: a PASS promises that this share of the rows' trace in the original, left behind, would have been noticed.
        goal: what the rows' removal is to correct (a trigger, two confused classes), measured besides.
        canaries: rows with planted noise among the forget rows: a strong test at every tier, without any other network. A
            network that still knows the noise fails.
        search: what choosing the recipe's settings cost (`Tuning.cost`), to be counted with the rest.
        original: the network before unlearning; taken from the patch if None.
        seed: of the oracles' weights and batches.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        hooks: who watches.
        bank: directory or URL to keep networks in and find them again by content.
        checkpoints: `Checkpoints(None, seconds)`: how often a training for the bank is kept, to go on from after a kill.
        keep_originals: leave in the bank the networks that this audit trained on the forget rows (for the SWAP test and for
            tier T2), for audits of other recipes on the same request; else they are removed when the audit is done.
        machine: how the work is done, as in `excise.unlearn`; best the same as there.
        fleet: who trains the networks: this process if None, or the workers of a cluster, `excise.cluster.OnRay`.
        on_plan: called with the plan of the audit before any network is observed or trained.

    Raises:
        errors.BadSplit: no test rows.
        errors.BadData: logits or labels that are not of classes.
        errors.BadRequest: no plan, another split than the network was unlearned on, or arguments that do not go together;
            before any training.
        errors.Diverged: an oracle's training did.
    """
    _require_kinds(unlearned, split, plan, tier, effect, oracles)
    require_options(goal, canaries, search, original, seed)
    require_machine(machine)
    require_fleet(fleet)
    started, task = time.perf_counter(), Task(forward, loss)
    held = None  # what this audit uses of the bank, and no other
    if bank is not None:
        data = None if tier == "T0" else content_commitment(split.train)
        held = Bank(bank.place if isinstance(bank, Bank) else bank, data=data)
    inner = params.unwrapped(unlearned.model)
    split = placed(split, device_of(inner), on_device=machine.on_device, workers=machine.workers)
    before = params.unwrapped(original) if original is not None else unlearned.patch.revert(inner)
    build = untrained(inner, before, fresh)
    engine = Engine(task, seed, Mask.empty(inner), hooks=hooks or Hooks(), checkpoints=checkpoints, machine=machine)
    with seeds.isolated(seed, "audit"):  # rows may be augmented at random
        task.require_fit(before, {"forget": split.forget, "retain": split.retain, "test": split.test})  # type: ignore[dict-item]
        prober = prober_for(inner, split, engine, goal)
        case = Case(unlearned, inner, before, split, build, plan, engine, prober, fleet or Here())
        asked = _planned(case, tier, oracles, budget_seconds, effect, () if canaries is None else ("canaries",))
        if on_plan is not None:
            on_plan(asked)
        run = _Run(case, asked, held, canaries, search)
        run.look()
        if asked.tier != "T0":
            run.compare()
        if held is not None and not keep_originals:
            held.drop_used("original")
        return run.result(time.perf_counter() - started)


def _require_kinds(
    unlearned: object, split: Split, plan: object, tier: object, effect: float, oracles: int | None
) -> None:
    if not isinstance(unlearned, Unlearned):
        raise errors.BadRequest(f"unlearned: expected what excise.unlearn gives, found {type(unlearned).__name__}")
    if not isinstance(split, Split):
        raise errors.BadRequest(f"split: expected an excise.Split, found {type(split).__name__}")
    if not isinstance(plan, TrainPlan) and not callable(plan) and not (plan is None and tier == "T0"):
        raise errors.BadRequest(
            "plan: expected how the network was trained, excise.TrainPlan(epochs=, lr=, ...) or a callable "
            f"train(model, dataset, seed) -> model; found {type(plan).__name__}"
        )
    planning.require_tier(tier)
    if oracles is not None:
        checks.require_positive_int("oracles", oracles)
        if tier == "T0":
            raise errors.BadRequest("oracles: tier T0 retrains nothing; leave them out, or take tier T1")
    if isinstance(effect, bool) or not isinstance(effect, int | float) or not 0 < effect <= 1:
        raise errors.BadRequest(f"effect: expected a share of the rows' trace, above 0 and at most 1, found {effect!r}")
    split.require_retain("an audit", ", and unlearn with that split what is to be audited")
    if split.test is None:
        raise errors.BadSplit("test: an audit needs rows the network never saw; pass test= to Split")
    if unlearned.rows_digest is not None and unlearned.rows_digest != rows_digest(split):
        raise errors.BadRequest(
            f"split: expected the split that the network was unlearned on, found {split!r}; give that one"
        )


def _planned(
    case: Case,
    tier: str | None,
    oracles: int | None,
    budget_seconds: float | None,
    effect: float,
    more: tuple[str, ...],
) -> AuditPlan:
    """Choose the tier and write down what will be measured."""
    left_out: list[str] = []
    tied = swapping.tied(case.unlearned.how)
    if budget_seconds is not None:
        checks.require_finite("budget_seconds", budget_seconds)
        if tier is not None or oracles is not None:
            raise errors.BadRequest("budget_seconds: it chooses tier and number of oracles itself; give it alone")
        one = planning.seconds_of_training(case.build, case.split, case.plan, case.engine)
        probe = planning.seconds_of(lambda: case.prober.look(case.before, 0.0))
        tier, oracles, left_out = planning.fitted(budget_seconds, one, case.unlearned.cost.seconds, probe)
        if tier == "T2" and tied is not None:
            tier, oracles, left_out = "T1", None, [f"populations of {NUM_PER_ARM} networks: {tied}"]
    tier = tier or "T1"
    if tier == "T2" and tied is not None:
        raise errors.BadRequest(f"tier T2 puts the recipe to other networks; {tied}; audit it at T1")
    num = {"T0": 0, "T1": oracles or NUM_ORACLES, "T2": oracles or NUM_PER_ARM}[tier]
    if tier == "T2" and num < 2 * LEAST_MODELS:
        raise errors.BadRequest(
            f"oracles: expected at least {2 * LEAST_MODELS} networks an arm at tier T2, whose held-out arm is halved for a "
            f"control, found {num}; give more, or tier T1"
        )
    names = (*measuring.names(case, tier, num), *swapping.names(case, num))
    sizes = {"forget": len(case.split.forget), "retain": len(case.split.retain), "test": len(case.split.test or ())}
    return AuditPlan(
        tier=tier,
        deciding=(*more, *(policy.SINGLE if num else ()), *(policy.POPULATION if tier == "T2" else ())),
        informing=names,
        failing=policy.FAILING,
        audited=params.model_digest(case.model),
        effect=effect,
        num_oracles=num,
        num_per_arm=num if tier == "T2" else 0,
        seed=case.engine.seed,
        training=planning.named(case.plan),
        num_rows=sizes,
        left_out=tuple(left_out),
    )


class _Run:
    """One audit under way: observes, compares, and keeps account of what each part costs."""

    def __init__(
        self, case: Case, asked: AuditPlan, bank: Bank | None, canaries: Canaries | None, search: Cost | None
    ) -> None:
        self._case, self._asked, self._bank, self._canaries = case, asked, bank, canaries
        self._spent: dict[str, Spent] = dict(case.unlearned.cost.parts)
        if search is not None:
            self._spent["search"] = Spent(search.seconds, search.trained_rows, search.forward_rows, search.peak_bytes)
        self._oracles: Oracles | None = None
        self._population: Population | None = None
        self._same_cost: SameCost | None = None
        self._informing: list[Measure] = []
        self._notes: list[str] = []

    def look(self) -> None:
        """Observe the network and its original, and look for faults that need no other network."""
        case = self._case
        self._original, self._own = (observe(one, case.split, case.engine) for one in (case.before, case.model))
        if not self._original.finite:
            raise errors.BadData(
                "the original network gives logits that are not finite; nothing can be held against it"
            )
        self._faults = soundness.faults(case.unlearned, case.before, self._own, self._original)
        if self._canaries is not None:
            self._ask_canaries(self._canaries)
        nothing = "tier T0 retrains nothing: it can find fault and found none, and passes nothing"
        self._outcome = Outcome(
            verdict="INCONCLUSIVE", reasons=[nothing], controls=dict.fromkeys(policy.CONTROLS, "not run")
        )

    def _ask_canaries(self, canaries: Canaries) -> None:
        case = self._case
        before, after = (canaries.test(one, case.engine) for one in (case.before, case.model))
        self._informing.append(structs.replace(after, decides=True))
        if after.p <= policy.CANARY_ALPHA:
            self._faults.append(
                f"the noise planted in {len(canaries.inputs)} canaries is still there (p = {after.p:.2g})"
            )
        if before.p > policy.CANARY_ALPHA:
            self._notes.append(
                "the canaries' noise cannot be seen in the original either, so that they show nothing here"
            )

    def compare(self) -> None:
        """Retrain oracles and hold the network against them; at tier T2, the recipe too."""
        case, asked = self._case, self._asked
        together = None if asked.tier == "T2" else False
        with self._counted("oracles"):
            how = (case.retraining, asked.num_oracles, case.engine, self._bank)
            self._oracles = gather_oracles(case.build, case.split, *how, together=together, fleet=case.fleet)
        self._require_not_its_own_oracle()
        arms = None
        if "swap" in asked.informing:
            with self._counted("swap"):
                game = swapping.swap_game(case, self._oracles, self._bank)
            self._informing += game.measures
            self._notes += game.notes
        if asked.tier == "T2":
            with self._counted("population"):
                how = (case.retraining, asked.num_per_arm, case.engine, self._bank)
                self._population = gather_population(case.unlearned, case.split, case.build, *how, fleet=case.fleet)
            generator = np.random.default_rng(seeds.derive(asked.seed, "arms"))
            arms = arms_of(self._population, self._oracles.evidence, generator)
        self._same_cost = self._retrained_at_the_same_cost(self._oracles)
        if self._same_cost is not None:
            self._spent["same cost"] = self._same_cost.spent
            self._notes.append(self._same_cost.sentence)
        with self._counted("measuring"):
            if self._own.finite:
                self._faults += soundness.kept_statistics(case, self._oracles)
            self._outcome = policy.verdict(
                self._own, self._original, self._oracles.evidence, case.split, effect=asked.effect, arms=arms
            )
            if self._own.finite and len(self._oracles.evidence) > 2:
                self._informing += measuring.informing(
                    case, asked.tier, self._own, self._original, self._oracles, self._population
                )

    def _require_not_its_own_oracle(self) -> None:
        assert self._oracles is not None
        own = params.digest(params.state_of(self._case.model))
        if own in {params.digest(one.state) for one in self._oracles.trained}:
            raise errors.BadRequest(
                "the network is one of the oracles it would be held against, bit for bit; an audit needs oracles of its own: "
                "give another seed"
            )

    def _retrained_at_the_same_cost(self, oracles: Oracles) -> SameCost | None:
        case, cost = self._case, self._case.unlearned.cost
        if not isinstance(case.plan, TrainPlan) or not self._own.finite:
            return None
        epochs = min(case.plan.epochs, cost.trained_rows // len(case.split.retain))
        if epochs < 1:
            return None
        try:
            made = unlearn(
                case.before,
                case.split,
                recipes.Retrain(plan=case.plan.of_epochs(epochs)).named("SameCostRetrain"),
                fresh=case.build,
                seed=seeds.derive(case.engine.seed, "same cost"),
                forward=case.engine.task.forward,
                loss=case.engine.task.loss,
                machine=case.engine.machine,
            )
        except errors.Diverged:
            return None
        case.engine.cost.count(trained=made.cost.trained_rows, forward=made.cost.forward_rows)
        found = observe(made.model, case.split, case.engine)
        outcome = policy.judge(found, oracles.evidence, case.split)[0] if len(oracles.evidence) > 3 else "not judged"
        spent = Spent(made.cost.seconds, made.cost.trained_rows, made.cost.forward_rows, made.cost.peak_bytes)
        return SameCost(found, outcome, spent, epochs)

    def _counted(self, part: str) -> Any:
        return counted(self._case.engine, part, self._spent)

    def _of_informing(self) -> list[str]:
        """Say how many informing measures lie outside their bands, beside chance, and which of those planned were not taken."""
        found = [one for one in (*self._outcome.measures, *self._informing) if not one.decides]
        outside = [one for one in found if not one.null_low <= one.value <= one.null_high]
        told = []
        if found:
            told.append(
                f"{len(outside)} of {len(found)} informing measures lie outside the band of 95% of retrained networks, where "
                f"about {0.05 * len(found):.0f} would by chance"
            )
        missing = sorted({*self._asked.informing} - {one.name for one in found})
        if missing and self._own.finite and found:
            told.append(f"planned and not taken, since there was nothing to take: {', '.join(missing)}")
        return told

    def result(self, seconds: float) -> Audit:
        """Give the audit."""
        case, unlearned, outcome = self._case, self._case.unlearned, self._outcome
        found = [*soundness.unchanged(unlearned, case.before), *self._faults]
        if found:
            empty = self._asked.tier == "T0" and self._faults
            outcome = replace(outcome, reasons=[*found, *(() if empty else outcome.reasons)])
        if self._faults and outcome.verdict != "INVALID":
            outcome = replace(outcome, verdict="FAIL")
        share = unlearned.cost.retraining_share
        first = None if self._oracles is None else self._oracles.trained[0].trained_rows
        if share is None and first:
            share = unlearned.cost.trained_rows / first
        notes = soundness.warnings(unlearned, case.before)
        return Audit(
            verdict=outcome.verdict,
            reasons=outcome.reasons,
            controls=outcome.controls,
            measures=[*outcome.measures, *self._informing],
            own=self._own,
            original=self._original,
            oracles=self._oracles,
            unlearned=replace(unlearned, cost=replace(unlearned.cost, retraining_share=share)),
            split=case.split,
            plan=self._asked,
            seconds=seconds,
            trace_seen=outcome.trace_seen,
            population=self._population,
            same_cost=self._same_cost,
            twins=case.twins if case.has_twins and self._oracles is not None else None,
            notes=[
                *notes,
                *self._notes,
                *self._of_informing(),
                *measuring.notes(case, self._oracles, self._population),
            ],
            spent=self._spent,
        )
