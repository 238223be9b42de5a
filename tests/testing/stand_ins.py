"""Methods and localizers that break one promise each, beside a sound one that they are made from."""

import random
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch

from excise import errors
from excise.localize import Everything, Head, Magnitude, Region, Scores
from excise.masks import Mask
from excise.methods import Method, OneShot
from excise.recipes import Recipe
from excise.testing import CheckFailed, check_localizer, check_method
from excise.testing.checking import LOCALIZER_CHECKS, METHOD_CHECKS
from excise.train.hooks import EpochTrace, Hooks
from excise.train.masked import write_


def broken(method, checks=None):
    """Name the checks that a method fails, of some or of all."""
    return _failed(check_method, METHOD_CHECKS, method, checks)


def misplaced(where, checks=None):
    """Name the checks that a localizer or region fails."""
    return _failed(check_localizer, LOCALIZER_CHECKS, where, checks)


def _failed(call, every, what, checks):
    wanted = set(every) if checks is None else {check.__name__ for check in checks}
    try:
        call(what, exclude=set(every) - wanted)
    except CheckFailed as failure:
        return set(failure.failed)
    return set()


def cases(checks):
    """Give every stand-in that fails one of some checks, with those that it fails."""
    group = {check.__name__ for check in checks}
    return [pytest.param(make, names & group, id=make.__name__) for make, names in METHODS.items() if names & group]


@dataclass(frozen=True)
class Sound(Method):
    """Halve the mask's weights; keeps every promise. Each stand-in adds one line that does not."""

    @property
    def needs(self):
        return frozenset()

    def unlearn_(self, model, split, mask, engine):
        write_(model, {name: value.detach() * 0.5 for name, value in model.named_parameters()}, mask)


class Leaks(Sound):
    """Halves every weight, whatever the mask."""

    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, Mask.full(model), engine)


class LeaksIntoFrozen(Sound):
    """Follows the mask but not what the user froze."""

    def unlearn_(self, model, split, mask, engine):
        with torch.no_grad():
            for name, value in model.named_parameters():
                value[mask.expand(name)] *= 0.5


class LeaksBuffers(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        for buffer in model.buffers():
            buffer.add_(1)


class DrawsTorch(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        torch.rand(1)


class DrawsNumpy(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        np.random.rand()  # noqa: NPY002


class DrawsPython(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        random.random()


class FollowsTheWorld(Sound):
    """Draws its values from a generator of its own that is seeded from the clock of the world."""

    def unlearn_(self, model, split, mask, engine):
        draws = torch.Generator()
        draws.seed()
        shift = torch.rand(1, generator=draws, dtype=torch.float64)
        write_(model, {name: (value.detach() + shift).to(value) for name, value in model.named_parameters()}, mask)


class SetsDtype(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        torch.set_default_dtype(torch.float64)


class SetsGradientMode(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        torch.set_grad_enabled(False)


class SetsThreads(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        torch.set_num_threads(2 if torch.get_num_threads() == 1 else 1)


class ReadsForget(Sound):
    def unlearn_(self, model, split, mask, engine):
        split.forget.source.read(split.forget.ids)
        super().unlearn_(model, split, mask, engine)


class ReadsRetain(Sound):
    def unlearn_(self, model, split, mask, engine):
        split.retain.source.read(split.retain.ids)
        super().unlearn_(model, split, mask, engine)


class ReadsHoldout(Sound):
    def unlearn_(self, model, split, mask, engine):
        if split.holdout is not None:
            split.holdout.source.read(split.holdout.ids)
        super().unlearn_(model, split, mask, engine)


class ReadsTest(Sound):
    def unlearn_(self, model, split, mask, engine):
        split.test.source.read(split.test.ids)
        super().unlearn_(model, split, mask, engine)


class ClaimsRetain(Sound):
    """Says that it reads retain and holdout rows, and reads none."""

    @property
    def needs(self):
        return frozenset({"retain", "holdout"})


class BuildsFresh(Sound):
    def unlearn_(self, model, split, mask, engine):
        engine.fresh_model()
        super().unlearn_(model, split, mask, engine)


class NeedsMore(Sound):
    @property
    def needs(self):
        return frozenset({"everything"})


class KnowsNoRule(Sound):
    @property
    def statistics(self):
        return "as-usual"


def _arrays(rows):
    source = rows.source
    return source.tensors if hasattr(source, "tensors") else (source.dataset.inputs, source.dataset.answers)


class EditsLabels(Sound):
    def unlearn_(self, model, split, mask, engine):
        _arrays(split.train)[-1][split.forget.ids] = 0
        super().unlearn_(model, split, mask, engine)


class EditsInputs(Sound):
    def unlearn_(self, model, split, mask, engine):
        _arrays(split.train)[0][split.forget.ids] = 0
        super().unlearn_(model, split, mask, engine)


class EditsSplit(Sound):
    def unlearn_(self, model, split, mask, engine):
        split.forget.ids[0] = split.retain.ids[0]
        super().unlearn_(model, split, mask, engine)


class GivesTheModule(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        return model


class SharesStorage(Sound):
    """Puts the user's own parameter into the network that is handed back."""

    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        name, first = next(iter(engine.original.named_parameters()))
        if mask.count(name):
            model.get_parameter(name).data = first.data


class WritesTheOriginal(Sound):
    """Halves the user's own network, through what the engine lends."""

    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        lent = engine.original_model()
        with torch.no_grad():
            next(lent.parameters()).mul_(0.5)


class TouchesTheOriginal(Sound):
    """Leaves gradients, modes, flags and a hook on the user's own network."""

    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        engine.original.train(not engine.original.training)
        engine.original.register_forward_hook(lambda *_: None)
        for value in engine.original.parameters():
            value.requires_grad_(not value.requires_grad)
            value.grad = None


class MovesTheOriginal(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        for value in engine.original.parameters():
            value.data = value.data.clone()


class LeavesHooks(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        model.register_forward_hook(lambda *_: None)


class LeavesGradients(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        for value in model.parameters():
            value.grad = torch.zeros_like(value)


class LeavesModes(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        model.eval()


class LeavesFlags(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        model.requires_grad_(True)


class Unties(Sound):
    def unlearn_(self, model, split, mask, engine):
        if hasattr(model, "embed") and mask.num_selected:
            model.head.weight = torch.nn.Parameter(model.embed.weight.detach().clone())
        else:
            super().unlearn_(model, split, mask, engine)


class ReadsTheMode(Sound):
    def unlearn_(self, model, split, mask, engine):
        if model.training:
            super().unlearn_(model, split, mask, engine)


class ReadsGradients(Sound):
    def unlearn_(self, model, split, mask, engine):
        if all(value.grad is None for value in model.parameters()):
            super().unlearn_(model, split, mask, engine)


class ReadsGradientMode(Sound):
    def unlearn_(self, model, split, mask, engine):
        if torch.is_grad_enabled():
            super().unlearn_(model, split, mask, engine)


class NeedsDoubles(Sound):
    def unlearn_(self, model, split, mask, engine):
        for value in model.parameters():
            value.dot(torch.ones(value.numel(), dtype=torch.float64)) if value.ndim == 1 else None
        super().unlearn_(model, split, mask, engine)


class NeedsTwoRows(Sound):
    """Works first and refuses a single row then."""

    def unlearn_(self, model, split, mask, engine):
        engine.hooks.on_stage("half", 0)
        engine.hooks.on_stage_end("half")
        if len(split.forget) < 2:
            raise errors.BadRequest("two rows or more")
        super().unlearn_(model, split, mask, engine)


class TakesAtMostFewRows(Sound):
    def unlearn_(self, model, split, mask, engine):
        if len(split.forget) >= len(split.retain):
            raise errors.BadRequest("too many")
        super().unlearn_(model, split, mask, engine)


class GivesNaN(Sound):
    def unlearn_(self, model, split, mask, engine):
        write_(model, {name: value.detach() * torch.nan for name, value in model.named_parameters()}, mask)


@dataclass(frozen=True)
class OneBatch(Sound):
    """Takes no more forget rows than a batch holds."""

    batch_size: int = 8

    def unlearn_(self, model, split, mask, engine):
        if len(split.forget) > self.batch_size and len(split.retain) > len(split.forget):
            raise errors.BadRequest("too many")
        super().unlearn_(model, split, mask, engine)


class SwapsAModule(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        if isinstance(model, torch.nn.Sequential) and len(model) == 5:
            model[1] = torch.nn.Tanh()


def _vast(value):
    return 1e200 if value.dtype == torch.float64 else 0.5


class Explodes(Sound):
    """Gives weights that are finite, and logits that are not."""

    def unlearn_(self, model, split, mask, engine):
        write_(model, {name: torch.full_like(value, _vast(value)) for name, value in model.named_parameters()}, mask)


class KnowsOneSeed(Sound):
    def unlearn_(self, model, split, mask, engine):
        if engine.seed not in (0, 4):
            raise errors.BadRequest("another seed")
        super().unlearn_(model, split, mask, engine)


class MindsHooks(Sound):
    def unlearn_(self, model, split, mask, engine):
        watching = getattr(engine.hooks, "_inner", engine.hooks)  # under those that keep the notes of a run
        if type(watching) is Hooks:
            super().unlearn_(model, split, mask, engine)


def leaks_from_its_own_place():
    """Give a recipe that halves the head and all else."""
    return Recipe(name="leaks", paper="", year=0, method=Leaks(), where=Head())


@dataclass(frozen=True)
class Counts(Sound):
    """Changes itself, and does something else the second time."""

    runs: int = 0

    def unlearn_(self, model, split, mask, engine):
        object.__setattr__(self, "runs", self.runs + 1)
        if self.runs % 2:
            super().unlearn_(model, split, mask, engine)


@dataclass(frozen=True)
class Keeps(Sound):
    """Holds on to the networks it saw."""

    kept: list = field(default_factory=list, repr=False, compare=False)

    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        self.kept.append(model)


class Prints(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        sys.stderr.write("done")


class SaysNothing(Sound):
    def __repr__(self):
        return "<method>"


class StepsTwice(Sound):
    """Announces one step and takes two; does not end its stage."""

    def unlearn_(self, model, split, mask, engine):
        engine.hooks.on_stage("half", 1)
        super().unlearn_(model, split, mask, engine)
        engine.hooks.on_step()
        engine.hooks.on_step()


class TracesBadly(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        engine.record(EpochTrace("half", 3, float("nan"), 0.1, 1, 0.0))


class TracesSilently(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        engine.trace.append(EpochTrace("half", 0, 0.0, 0.1, 1, 0.0))


class CountsWrongly(Sound):
    def unlearn_(self, model, split, mask, engine):
        super().unlearn_(model, split, mask, engine)
        engine.cost.count(trained=-1)


class ReadsForNothing(Sound):
    """Reads forget rows, as it says, and counts none."""

    @property
    def needs(self):
        return frozenset({"forget"})

    def unlearn_(self, model, split, mask, engine):
        split.forget.source.read(split.forget.ids)
        super().unlearn_(model, split, mask, engine)


class Shrugs(Sound):
    """Reads forget rows and takes no notice if that fails; announces a stage and goes on when interrupted."""

    @property
    def needs(self):
        return frozenset({"forget"})

    def unlearn_(self, model, split, mask, engine):
        engine.cost.count(forward=len(split.forget))
        try:
            engine.hooks.on_stage("half", 1)
            split.forget.source.read(split.forget.ids)
            engine.hooks.on_step()
            engine.hooks.on_stage_end("half")
        except BaseException:  # that is what is wrong with it
            pass
        super().unlearn_(model, split, mask, engine)


class BorrowsForGood(Sound):
    """Switches modes, flags, gradients and hooks, and gives them back only if nothing goes wrong."""

    @property
    def needs(self):
        return frozenset({"forget"})

    def unlearn_(self, model, split, mask, engine):
        engine.cost.count(forward=len(split.forget))
        modes = {module: module.training for module in model.modules()}
        hook = model.register_forward_hook(lambda *_: None)
        model.eval()
        engine.hooks.on_stage("half", 1)
        engine.hooks.on_step()
        split.forget.source.read(split.forget.ids)
        engine.hooks.on_stage_end("half")
        for module, training in modes.items():
            module.training = training
        hook.remove()
        super().unlearn_(model, split, mask, engine)


class FewSizes(OneShot):
    """Gives values for a network of its own."""

    @property
    def needs(self):
        return frozenset()

    def edit(self, model, split, mask, engine):
        raise errors.UnsupportedModel("only networks of mine")


# --- localizers ---


class Negative(Magnitude):
    """Goes around the check of `Scores`."""

    def score(self, model, split, engine):
        found = super().score(model, split, engine)
        for name in found.names:
            found[name].sub_(1.0)
        return found


class Aliased(Magnitude):
    def score(self, model, split, engine):
        own = {name: value for name, value in model.named_parameters() if value.requires_grad}
        for value in own.values():
            value.data.abs_()
        values = {name: value.detach() for name, value in own.items()}
        return Scores(values, {name: tuple(value.shape) for name, value in model.named_parameters()})


class Noisy(Magnitude):
    def score(self, model, split, engine):
        own = {name: value for name, value in model.named_parameters() if value.requires_grad}
        values = {name: torch.rand_like(value) for name, value in own.items()}
        return Scores(values, {name: tuple(value.shape) for name, value in model.named_parameters()})


class ScoresFrozen(Magnitude):
    def score(self, model, split, engine):
        values = {name: value.detach().abs() for name, value in model.named_parameters()}
        return Scores(values, {name: tuple(value.shape) for name, value in values.items()})


class LooksAtRetain(Magnitude):
    def score(self, model, split, engine):
        split.retain.source.read(split.retain.ids)
        return super().score(model, split, engine)


class LooksAtTest(Magnitude):
    def score(self, model, split, engine):
        split.test.source.read(split.test.ids)
        return super().score(model, split, engine)


class ClaimsToRead(Magnitude):
    """Says that it reads forget and retain rows, and reads none."""

    reads_forget = reads_retain = True


class LooksAtForget(Magnitude):
    def score(self, model, split, engine):
        split.forget.source.read(split.forget.ids)
        return super().score(model, split, engine)


class RegionOfForget(Everything):
    def locate(self, model, split, engine):
        split.forget.source.read(split.forget.ids)
        return super().locate(model, split, engine)


class Mute(Region):
    @property
    def reads_forget(self):
        return False

    def locate(self, model, split, engine):
        return Mask.full(model)


class Forgetful(Magnitude):
    """Leaves gradients and eval mode behind."""

    def score(self, model, split, engine):
        model.train(not model.training)
        for value in model.parameters():
            value.grad = torch.ones_like(value)
        return super().score(model, split, engine)


class WritesRows(Magnitude):
    def score(self, model, split, engine):
        _arrays(split.train)[0][0] = 0
        return super().score(model, split, engine)


class KeepsNetwork(Magnitude):
    seen: ClassVar = []

    def score(self, model, split, engine):
        self.seen.append(model)
        return super().score(model, split, engine)


OUTSIDE = {
    "keeps_outside_a_mask_of_rows",
    "keeps_outside_a_mask_of_weights",
    "keeps_outside_a_mask_of_modules",
    "keeps_outside_a_mixed_mask",
}
EMPTY = {"keeps_every_byte_under_an_empty_mask", "keeps_every_byte_under_an_empty_mask_when_called_directly"}
UNSTEADY = {
    "a_copy_of_the_object_does_the_same",
    "arrays_and_a_dataset_give_the_same",
    "full_mask_is_no_mask",
    "gradient_mode_does_not_matter",
    "gradients_left_over_do_not_matter",
    "holdout_that_is_not_needed_may_be_missing",
    "hooks_do_not_matter",
    "mode_of_the_given_network_does_not_matter",
    "random_augmentation_follows_the_seed",
    "statistics_are_made_anew_by_default",
    "the_callers_random_state_does_not_matter",
    "the_same_seed_gives_the_same_bytes",
}
METHODS = {
    Leaks: OUTSIDE
    | EMPTY
    | {
        "keeps_outside_when_called_directly",
        "keeps_outside_what_may_be_trained_besides",
        "buffers_follow_the_stated_rule",
        "frozen_digest_is_equal",
        "reports_the_given_mask",
        "tied_weights_stay_tied",
    },
    LeaksIntoFrozen: {"frozen_parameters_never_move_when_called_directly"},
    LeaksBuffers: EMPTY | {"buffers_follow_the_stated_rule"},
    DrawsTorch: {"torchs_random_state_is_left_alone"},
    DrawsNumpy: {"numpys_random_state_is_left_alone"},
    DrawsPython: {"pythons_random_state_is_left_alone"},
    FollowsTheWorld: UNSTEADY,
    SetsGradientMode: {"gradient_mode_is_left_alone"},
    SetsThreads: {"number_of_threads_is_left_alone"},
    ReadsForget: {"forget_rows_are_read_if_named", "cost_covers_the_rows_read"},
    ReadsRetain: {
        "retain_rows_are_read_if_named",
        "retain_rows_are_left_alone_at_the_front_door",
        "cost_covers_the_rows_read",
    },
    ReadsHoldout: {"holdout_rows_are_read_if_named"},
    ReadsTest: {"rows_to_test_on_are_never_read"},
    ClaimsRetain: {"retain_rows_are_read_if_named", "holdout_rows_are_read_if_named"},
    BuildsFresh: {"fresh_network_is_built_if_named"},
    NeedsMore: {"needs_are_known"},
    KnowsNoRule: {"statistics_is_a_known_rule"},
    EditsLabels: {"labels_are_never_written_to"},
    EditsInputs: {"inputs_are_never_written_to"},
    EditsSplit: {"split_is_not_changed"},
    GivesTheModule: {"unlearn_in_place_gives_nothing_and_restores"},
    SharesStorage: {"result_shares_no_storage", "unlearn_in_place_gives_nothing_and_restores"},
    WritesTheOriginal: OUTSIDE
    | {"given_network_keeps_its_bytes", "frozen_parameters_never_move", "keeps_every_byte_under_an_empty_mask"},
    TouchesTheOriginal: {
        "given_network_keeps_its_gradients",
        "given_network_keeps_its_hooks",
        "given_network_keeps_its_modes",
        "given_network_keeps_requires_grad",
        "result_has_no_new_hooks",
        "result_has_the_given_modes",
        "result_has_the_given_requires_grad",
    },
    MovesTheOriginal: {"given_network_keeps_its_storages"},
    LeavesHooks: {"result_has_no_new_hooks", "unlearn_in_place_gives_nothing_and_restores"},
    LeavesGradients: {"result_has_no_gradients", "unlearn_in_place_gives_nothing_and_restores"},
    LeavesModes: {"result_has_the_given_modes", "unlearn_in_place_gives_nothing_and_restores"},
    LeavesFlags: {"result_has_the_given_requires_grad", "unlearn_in_place_gives_nothing_and_restores"},
    ReadsTheMode: {"mode_of_the_given_network_does_not_matter"},
    ReadsGradients: {"gradients_left_over_do_not_matter"},
    ReadsGradientMode: {"gradient_mode_does_not_matter"},
    NeedsDoubles: {"float32_will_do"},
    NeedsTwoRows: {"one_forget_row_will_do"},
    TakesAtMostFewRows: {"nearly_everything_can_be_forgotten"},
    OneBatch: {"more_forget_rows_than_a_batch_will_do"},
    SwapsAModule: {"result_is_another_module"},
    Explodes: {"result_computes"},
    KnowsOneSeed: {"another_seed_is_allowed"},
    MindsHooks: {"hooks_do_not_matter"},
    Keeps: {"no_network_is_kept", "the_object_is_not_changed_by_a_run"},
    Prints: {"nothing_is_printed"},
    SaysNothing: {"repr_says_what_it_is"},
    StepsTwice: {"hooks_hear_the_steps_announced", "hooks_hear_the_end_of_each_stage"},
    TracesBadly: {"trace_is_sane"},
    TracesSilently: {"hooks_hear_the_trace"},
    CountsWrongly: {"cost_covers_the_rows_read", "cost_is_sane"},
    ReadsForNothing: {"cost_covers_the_rows_read"},
    Shrugs: {
        "an_interrupted_run_leaves_everything_alone",
        "an_interrupted_call_gives_back_what_it_borrowed",
        "rows_that_cannot_be_read_leave_everything_alone",
        "rows_that_cannot_be_read_give_back_what_was_borrowed",
    },
    BorrowsForGood: {
        "an_interrupted_call_gives_back_what_it_borrowed",
        "rows_that_cannot_be_read_give_back_what_was_borrowed",
    },
    FewSizes: {"runs_on_some_network"},
}
"""Which checks each stand-in fails, and no others."""

PLACES = {
    Negative: {"scores_are_finite_and_not_negative", "no_budget_chooses_nothing_and_all_of_it_everything"},
    Aliased: {"network_keeps_its_bytes", "the_answer_is_its_own_in_memory"},
    Noisy: {
        "gradient_mode_does_not_matter",
        "random_states_are_left_alone",
        "the_callers_random_state_does_not_matter",
    },
    ScoresFrozen: {"frozen_parameters_are_not_chosen"},
    ClaimsToRead: {"forget_rows_are_read_as_said", "retain_rows_are_read_as_said"},
    LooksAtForget: {"forget_rows_are_read_as_said"},
    LooksAtRetain: {"retain_rows_are_read_as_said"},
    LooksAtTest: {"rows_never_trained_on_are_not_read"},
    RegionOfForget: {"forget_rows_are_read_as_said"},
    Mute: {"text_says_what_it_is"},
    Forgetful: {"network_keeps_its_modes", "network_keeps_its_gradients"},
    WritesRows: {"rows_are_never_written_to"},
    KeepsNetwork: {"no_network_is_kept"},
}
