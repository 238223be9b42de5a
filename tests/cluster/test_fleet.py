"""A fleet gives what the plain loop gives. Here it is the plain loop."""

import pytest

import excise
from excise import errors, recipes
from excise.cluster import Fleet, Here, require_fleet
from excise.masks import Mask
from excise.oracles import retrain
from excise.train import Engine, Task
from tests.cases import CASES


def test_here_is_the_plain_loop():
    items = [3, 1, 2]
    assert list(Here().run(pow, 2, items)) == [(place, 2**item) for place, item in enumerate(items)]
    assert list(Here().run(pow, 2, [])) == []


def test_each_item_is_made_and_done_when_its_result_is_asked_for():
    told = []

    def items():
        for number in range(3):
            told.append(("made", number))
            yield number

    def job(shared, item):
        shared.append(("done", item))
        return item

    running = Here().run(job, told, items())
    assert told == []
    assert next(running) == (0, 0)
    assert told == [("made", 0), ("done", 0)]
    running.close()
    assert told == [("made", 0), ("done", 0)]


def test_an_error_arrives_as_itself_and_what_follows_is_not_begun():
    begun = []

    def job(shared, item):
        begun.append(item)
        return 1 // item

    running = Here().run(job, None, [1, 0, 2])
    assert next(running) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(running)
    assert begun == [1, 0] and list(running) == []


def test_a_fleet_is_abstract_and_here_shares_the_objects_of_this_process():
    with pytest.raises(TypeError, match="abstract"):
        Fleet()
    assert Here.here
    mine = object()
    assert next(Here().run(lambda shared, item: shared, mine, [0]))[1] is mine


def test_what_is_no_fleet_is_refused_before_any_work():
    require_fleet(None)
    require_fleet(Here())
    case, plan = CASES["mlp"], excise.TrainPlan(epochs=1, lr=0.1)
    model, split = case.make(), excise.Split(case.data(12), forget=[1], test=case.data(6))
    unlearned, engine = excise.unlearn(model, split, recipes.Nothing()), Engine(Task(), 0, Mask.empty(model))
    for call in (
        lambda: excise.audit(unlearned, split, plan=plan, fleet="local"),
        lambda: excise.tune(model, split, recipes.Finetune, trials=1, fleet="local"),
        lambda: retrain(case.make, split.retain, plan, [0], engine, fleet="local"),
    ):
        with pytest.raises(errors.BadRequest, match=r"fleet: expected an excise\.cluster\.OnRay, .* found str"):
            call()
