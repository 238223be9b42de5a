"""Words to places, from the command line and by themselves."""

import pytest

from excise import errors
from excise.cli import choices, places
from excise.localize import CriticalChannels, Cut, Everything, Head, LastLayers, Modules, Random, RandomLike, Top
from excise.masks import Mask

PLAIN = {
    "budget": 0.3,
    "granularity": "channel",
    "count": "weights",
    "scope": "network",
    "reduction": Top(0.1),
    "lowest": False,
    "partial": False,
}


def read(words, **changes):
    return places.read_place(words, **{**PLAIN, **changes})


@pytest.mark.parametrize("name", choices.CRITERIA)
def test_a_criterion_is_cut_as_told(name):
    told = {"granularity": "weight", "scope": "layer", "lowest": True, "budget": 0.2}
    found = read(name, **told)
    assert isinstance(found, Cut) and type(found.localizer) is type(choices.CRITERIA[name]())
    assert (found.budget_fraction, found.granularity, found.count, found.scope) == (0.2, "weight", "weights", "layer")
    assert found.lowest and not found.partial and found.reduction == Top(0.1)


def test_what_is_drawn_is_what_is_cut():
    assert read("random", granularity="module").localizer == Random(unit="module")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("critical", CriticalChannels(budget_fraction=0.3)),
        ("head", Head()),
        ("everything", Everything()),
        ("modules:a.b,c", Modules(("a.b", "c"))),
        ("last-layers:3", LastLayers(3)),
    ],
)
def test_a_region_by_name(words, wanted):
    assert read(words) == wanted


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ("hed", {}, "--criterion: expected one of weight-gradient, .*found 'hed'; did you mean 'head'"),
        ("modules", {}, "--criterion: expected modules:…, with words after a colon, found 'modules'"),
        ("head:x", {}, "--criterion: expected head without words after a colon, found 'head:x'"),
        ("head:", {}, "--criterion: expected head without words after a colon, found 'head:'"),
        ("last-layers:x", {}, "--criterion: expected last-layers:K with a number K, found 'x'"),
        ("last-layers:0", {}, "k: expected an integer of at least 1"),
        ("head", {"lowest": True}, "--lowest: head has no scores to cut"),
        ("head", {"partial": True}, "--partial: head has no scores to cut"),
        ("gradient", {"count": "rows"}, "--count: expected one of weights, channels; found 'rows'"),
        ("gradient", {"scope": "block"}, "--scope: expected one of network, layer; found 'block'"),
        ("gradient", {"granularity": "row"}, "--granularity: expected one of weight, channel, module; found 'row'"),
        ("random-like:none", {}, "--mask: expected a mask of `excise localize` at none"),
    ],
)
def test_words_that_name_no_place_are_refused(words, changes, message):
    with pytest.raises(errors.BadRequest, match=message):
        read(words, **changes)


def test_a_random_mask_like_another(project, localize):
    assert localize(out="one").code == 0
    assert localize("--json", criterion="random-like:one", out="two").code == 0
    one, two = (Mask.load(project / name / "mask.safetensors") for name in ("one", "two"))
    assert one != two and [one.count(name) for name in one.names] == [two.count(name) for name in two.names]
    assert isinstance(read("random-like:one"), RandomLike)


@pytest.mark.parametrize(
    "words", ["critical", "head", "everything", "modules:2", "last-layers:2", "deepest", "fisher-ratio"]
)
def test_every_kind_runs_from_the_command_line(localize, words):
    done = localize("--json", criterion=words, budget=0.5)
    assert done.code == 0, done.err
    assert 0 < done.json["mask_fraction"] <= 1
