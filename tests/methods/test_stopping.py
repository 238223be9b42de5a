import pytest
import torch

from excise import errors
from excise.data import Split
from excise.masks import Mask
from excise.methods import BelowAccuracy, Finetune, Sequence, Until
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
    assert texts == ["BelowAccuracy: ended after epoch 6 of 6, with a forget accuracy of 0.0100, not below 0.0100"]


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
        r"give them as Split\(..., holdout=...\), or give a target$"
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
