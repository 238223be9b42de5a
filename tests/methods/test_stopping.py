import pytest
import torch

from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import BelowAccuracy, CrossesHoldout, Finetune, RetainFalls, Sequence, Until
from excise.train import Task
from tests.cases import CASES
from tests.methods.scripted import PLAN, scripted
from tests.probes import LeftAlone, engine_for, touched


def epochs_run(target, right, unseen=None):
    model, split, engine, notes = scripted(right, unseen)
    Until(Finetune(plan=PLAN), BelowAccuracy(target)).unlearn_(model, split, Mask.full(model), engine)
    return len(engine.trace), notes.texts, engine.cost.forward_rows


def test_scripted_accuracies_stop_after_the_third_epoch():
    epochs, texts, rows = epochs_run(0.01, [900, 300, 5, 900, 900, 900])
    assert epochs == 3 and rows == 3 * 1000
    assert texts == ["BelowAccuracy: ended after epoch 3 of 6, with a forget accuracy of 0.0050, below 0.0100"]


@pytest.mark.parametrize("hundredths", [1, 7, 29, 57, 58])
def test_equality_does_not_stop(hundredths):
    """No such share is a float: comparing 0.07 with 70 / 1000 must not depend on how each is rounded."""
    right = [hundredths * 10] * 4 + [hundredths * 10 - 1] * 2
    assert epochs_run(hundredths / 100, right)[0] == 5


def test_what_is_never_below_runs_all_epochs():
    epochs, texts, _ = epochs_run(0.01, [10] * 6)
    assert epochs == 6
    assert texts == [
        "BelowAccuracy: ended after epoch 6 of 6, with a forget accuracy of 0.0100, not below 0.0100: the target was not "
        "reached; take more epochs or another rate"
    ]


def test_without_a_target_it_is_the_originals_accuracy_on_the_holdout():
    epochs, texts, rows = epochs_run(None, [900, 800, 799, 0, 0, 0], unseen=8)
    assert epochs == 3 and rows == 10 + 3 * 1000
    assert texts[0].endswith("a forget accuracy of 0.7990, below 0.8000")


def test_the_original_is_the_network_before_the_whole_run():
    """After a first method the network may be another one; the target stays the original's."""
    model, split, engine, notes = scripted([0] * 12, unseen=8)
    tune = Finetune(plan=PLAN)
    Sequence((tune, Until(tune, BelowAccuracy()))).unlearn_(model, split, Mask.full(model), engine)
    assert len(engine.trace) == 6 + 1
    assert notes.texts[-1].endswith("below 0.8000")


def test_what_it_looks_at():
    assert BelowAccuracy(0.5).needs == {"forget"}
    assert BelowAccuracy().needs == {"forget", "holdout"}
    assert str(BelowAccuracy(0.01)) == "the forget accuracy is below 0.01"
    assert str(BelowAccuracy()) == "the forget accuracy is below that of unseen rows"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (0.0, "target: expected an accuracy above 0, found 0: none is below it"),
        (1.5, "target: expected a fraction between 0 and 1, found 1.5"),
        ("0.1", "target: expected a fraction between 0 and 1, found '0.1'"),
    ],
)
def test_other_targets_are_refused(target, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        BelowAccuracy(target)


def refused(kind, message, split, rule, *, task=None, with_original=True):
    model = touched(CASES["mlp"].make())
    alone = LeftAlone(model)
    engine = engine_for(model, task=task, original=CASES["mlp"].make() if with_original else None)
    method = Until(Finetune(plan=PLAN), rule)
    for ask in (method.require, method.unlearn_):
        with pytest.raises(kind, match=message):
            ask(model, split, Mask.full(model), engine)
    assert not engine.trace
    alone.check()


def test_no_holdout_is_refused_before_any_work():
    message = (
        "^BelowAccuracy: expected holdout rows, which were never trained on, to take the target from, found none; "
        r"give them as Split\(..., holdout=...\), on the command line --holdout, or give a target$"
    )
    refused(errors.BadRequest, message, Split(CASES["mlp"].data(20), forget=[0], test=[3, 4]), BelowAccuracy())


def test_no_original_is_refused_before_any_work():
    split = Split(CASES["mlp"].data(20), forget=[0], holdout=[3, 4])
    refused(errors.BadRequest, "learns from the network as it was", split, BelowAccuracy(), with_original=False)


def test_targets_that_are_no_classes_are_refused_before_any_work():
    task = Task(lambda model, content: (model(content[0]), torch.zeros(len(content[0]), dtype=torch.float64)))
    message = (
        "^BelowAccuracy: expected one integer class a row, .*; "
        "there is no share of right answers to compare, so run the method by itself$"
    )
    split = Split(CASES["mlp"].data(20), forget=[0])
    refused(errors.BadData, message, split, BelowAccuracy(0.5), task=task)


# --- the forget accuracy crosses the holdout's --------------------------------------------------------------------------


def crossed(right, unseen=8):
    """Give how many epochs were run, which one's weight and buffer were given (-1 for none), and what was said."""
    model, split, engine, notes = scripted(right, unseen)
    seen = [(float(model.weight.detach()), int(model.seen))]
    told = notes.on_epoch
    notes.on_epoch = lambda trace: (told(trace), seen.append((float(model.weight.detach()), int(model.seen))))
    Until(Finetune(plan=PLAN), CrossesHoldout()).unlearn_(model, split, Mask.full(model), engine)
    assert len(set(seen)) == len(seen)
    return len(engine.trace), seen.index((float(model.weight.detach()), int(model.seen))) - 1, notes.texts


@pytest.mark.parametrize(
    ("right", "epochs", "given", "said"),
    [
        ([950, 900, 810, 795, 0, 0], 4, 3, "ended after epoch 4 of 6, with a gap of 0.0050"),
        (
            [950, 900, 810, 780, 0, 0],
            4,
            2,
            "went back to epoch 3 of 6, with a gap of -0.0100; that of epoch 4 is 0.0200",
        ),
        ([950, 900, 810, 790, 0, 0], 4, 3, "ended after epoch 4 of 6, with a gap of 0.0100"),  # alike: the later
        (
            [950, 800, 800, 799, 0, 0],
            4,
            2,
            "went back to epoch 3 of 6, with a gap of 0.0000; that of epoch 4 is 0.0010",
        ),
        (
            [990, 990, 990, 990, 990, 990],
            6,
            5,
            "ended after all 6 epochs with a gap of -0.1900; the forget rows are still",
        ),
        (
            [990, 990, 990, 990, 990, 806],
            6,
            5,
            "ended after all 6 epochs with a gap of -0.0060; the forget rows are still",
        ),
    ],
)
def test_of_the_two_epochs_around_the_crossing_the_closer_one_is_given(right, epochs, given, said):
    found = crossed(right)
    assert found[:2] == (epochs, given)
    assert len(found[2]) == 1 and found[2][0].startswith(f"CrossesHoldout: {said}")


def test_half_a_point_that_is_left_is_not_worth_a_word():
    assert crossed([990, 990, 990, 990, 990, 805])[2][0].endswith("with a gap of -0.0050")


def test_a_first_epoch_that_is_too_much_gives_back_the_network_as_it_was():
    """The script counts from the first epoch on: let the network before it be right more often."""
    model, split, engine, notes = scripted([10] * 6, unseen=8)
    start, whole = model.weight.detach().clone(), engine.task.forward

    def forward(network, content):
        logits, targets = whole(network, content)
        sure = 0 * logits + 5 * torch.nn.functional.one_hot(targets, 2)
        return (sure if not notes.epochs and float(content[0][0]) > 0 and not network.training else logits), targets

    engine = engine_for(model, task=Task(forward), hooks=notes, original=model)
    Until(Finetune(plan=PLAN), CrossesHoldout()).unlearn_(model, split, Mask.full(model), engine)
    assert torch.equal(model.weight.detach(), start) and int(model.seen) == 0
    assert "went back to the network as it was (take a smaller learning rate), with a gap of -0.2000" in notes.texts[0]


def test_a_network_that_knows_unseen_rows_better_has_nothing_to_forget():
    model, split, engine, _ = scripted([799] * 6, unseen=8)
    message = "^CrossesHoldout: before the first step the network is right on 0.0010 more of holdout than of forget"
    with pytest.raises(errors.BadRequest, match=message):
        Until(Finetune(plan=PLAN), CrossesHoldout()).unlearn_(model, split, Mask.full(model), engine)
    assert not engine.trace
    assert crossed([800] * 5 + [0])[0] == 6  # as good is no reason


# --- the accuracy on what stays -----------------------------------------------------------------------------------------


def fallen(by, unseen):
    """Run with so many of ten holdout rows right before the first step and after each epoch; give epochs and words."""
    model, split, _, notes = scripted([0] * 6, unseen=0)

    def forward(network, content):
        inputs, targets = content
        right = inputs[:, 0].abs().le(unseen[notes.epochs])
        logits = 0.0 * network(inputs)
        return logits + torch.nn.functional.one_hot(right.logical_not().long() ^ targets, 2), targets

    engine = engine_for(model, task=Task(forward), hooks=notes, original=model)
    Until(Finetune(plan=PLAN), RetainFalls(by, rows="holdout")).unlearn_(model, split, Mask.full(model), engine)
    return len(engine.trace), notes.texts[0], engine.cost.forward_rows


def test_a_fall_by_more_than_the_bound_ends_the_run():
    epochs, text, rows = fallen(0.2, [9, 8, 7, 6, 5, 4, 3])
    assert (epochs, rows) == (3, 40)  # by 0.2 exactly goes on
    assert text == "RetainFalls: ended after epoch 3 of 6, with an accuracy of 0.6000 where it was 0.9000"
    assert fallen(0.3, [9, 8, 9, 6, 5, 9, 9])[0] == 4
    assert fallen(0.1, [9, 10, 9, 8, 9, 9, 10])[0] == 6


def test_what_they_look_at():
    assert CrossesHoldout().needs == {"forget", "holdout"}
    assert str(CrossesHoldout()) == "the forget accuracy crosses that of unseen rows"
    assert (RetainFalls().by, RetainFalls().needs, RetainFalls(rows="holdout").needs) == (0.05, {"retain"}, {"holdout"})
    assert str(RetainFalls()) == "the retain accuracy falls by more than 0.05"
    for options, message in (
        ({"by": 2.0}, "by: expected a fraction"),
        ({"rows": "test"}, "rows: expected retain or holdout"),
    ):
        with pytest.raises(errors.BadRequest, match=message):
            RetainFalls(**options)


@pytest.mark.parametrize("rule", [CrossesHoldout(), RetainFalls(rows="holdout")])
def test_both_refuse_a_missing_holdout_and_targets_that_are_no_classes(rule):
    name = type(rule).__name__
    message = f"^{name}: expected holdout rows, which were never trained on, to .*, found none; give them as Split"
    refused(errors.BadRequest, message, Split(CASES["mlp"].data(20), forget=[0]), rule)
    task = Task(lambda model, content: (model(content[0]), torch.zeros(len(content[0]), dtype=torch.float64)))
    split = Split(CASES["mlp"].data(20), forget=[0], holdout=[3, 4])
    refused(errors.BadData, f"^{name}: expected one integer class a row", split, rule, task=task)


@pytest.mark.parametrize("rule", [CrossesHoldout(), RetainFalls(0.0), RetainFalls(0.1, rows="holdout")])
def test_what_they_carry_survives_a_checkpoint(rule):
    """At each epoch of a scripted run the watch is replaced by a new one that recalls: the end is the same."""

    def run(*, forgetful):
        model, split, engine, notes = scripted([950, 900, 810, 780, 0, 0], unseen=8)
        watch = rule.watch(model, split, Mask.full(model), engine, PLAN)
        method = Finetune(plan=PLAN)
        start = {name: value.clone() for name, value in model.state_dict().items()}

        def look(epoch):
            nonlocal watch
            if forgetful:
                kept = {name: value.clone() for name, value in watch.remembered().items()}
                now, heard = {name: value.clone() for name, value in model.state_dict().items()}, notes.epochs
                model.load_state_dict(start)
                notes.epochs = 0
                watch = rule.watch(model, split, Mask.full(model), engine, PLAN)
                notes.epochs = heard
                model.load_state_dict(now)
                watch.recall_({})
                watch.recall_(kept)
            return watch(epoch)

        method.run_(model, split, Mask.full(model), engine, after_epoch=look)
        watch.recall_({name: value.clone() for name, value in watch.remembered().items()})
        watch.end_()
        return notes.texts, model.state_dict(), len(engine.trace)

    plain, other = run(forgetful=False), run(forgetful=True)
    assert plain[0] == other[0] and plain[2] == other[2]
    assert all(torch.equal(value, other[1][name]) for name, value in plain[1].items())
