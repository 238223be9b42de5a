import pytest

from excise import errors, recipes
from excise.localize import Cut, Everything, Magnitude, WeightGradient
from excise.methods import Finetune, FromFunction, Method, Nothing, Reset
from excise.testing.problems import PROBLEMS
from excise.testing.subject import as_region_or_localizer, as_subject, region_of
from excise.testing.verdicts import Skipped
from tests.testing.stand_ins import FewSizes


def unlearned(net, retain, forget, validation):
    return net


@pytest.mark.parametrize(
    ("what", "kind", "name"),
    [
        (Nothing(), Nothing, "Nothing"),
        (Reset, Reset, "Reset"),
        (recipes.Nothing(), Nothing, "Nothing"),
        (lambda: Nothing(), Nothing, "<lambda>"),
        (recipes.NegGrad, Method, "NegGrad"),
        (unlearned, FromFunction, "unlearned"),
    ],
)
def test_a_method_is_given_in_many_forms(what, kind, name):
    subject = as_subject(what)
    assert isinstance(subject.method, kind) and subject.name == name and not subject.localizes


def test_a_recipe_brings_its_place():
    subject = as_subject(recipes.DEL())
    assert subject.localizes and isinstance(subject.where, Cut) and subject.reads_retain
    assert not as_subject(Nothing).reads_retain


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            Finetune,
            r"Finetune: expected defaults for all its fields, found none for plan; .*lambda: Finetune\(plan=...\)",
        ),
        (int, "int: expected a subclass of Method; found a class of another kind"),
        (lambda: 3, "method: expected a method, its class, a recipe, .*; found int"),
        (3, "method: expected a method, its class, a recipe, .*; found int"),
    ],
)
def test_what_is_no_method_is_refused(what, message):
    with pytest.raises(errors.BadRequest, match=message):
        as_subject(what)


def test_places_are_given_in_many_forms():
    for what in (Magnitude, Magnitude(), lambda: Magnitude()):
        assert as_region_or_localizer(what) == Magnitude()
    assert as_region_or_localizer(Everything) == Everything() == region_of(Everything())
    assert region_of(WeightGradient()).locate is not None
    for what in (Nothing(), 3, lambda: 3):
        with pytest.raises(errors.BadRequest, match=r"localizer: expected a localizer, a region, .*; found"):
            as_region_or_localizer(what)
    with pytest.raises(errors.BadRequest, match="Cut: expected defaults for all its fields, found none for localizer"):
        as_region_or_localizer(Cut)
    with pytest.raises(errors.BadRequest, match="int: expected a subclass of Localizer or Region"):
        as_region_or_localizer(int)


def test_networks_that_are_refused_are_left_out():
    assert list(as_subject(Nothing).networks()) == list(PROBLEMS)
    subject = as_subject(FewSizes)
    assert subject.networks() == {}
    with pytest.raises(Skipped, match="refuses every network"):
        subject.home()


def test_a_run_is_made_once():
    subject = as_subject(Nothing)
    assert subject.run("mlp") is subject.run("mlp") is not subject.run("mlp", recompute=False)
