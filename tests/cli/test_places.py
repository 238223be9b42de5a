"""Words to places, from the command line and by themselves."""

import json
from pathlib import Path

import pytest

from excise import errors
from excise.cli import choices, places
from excise.localize import (
    CriticalChannels,
    Cut,
    Everything,
    Gradient,
    Head,
    LastLayers,
    Mean,
    Modules,
    Random,
    RandomLike,
    Top,
)
from excise.localize.random import require_same_unit
from excise.masks import Mask

DEFAULTS = {
    "budget": 0.3,
    "granularity": "channel",
    "count": "weights",
    "scope": "network",
    "reduction": "top:0.1",
    "lowest": False,
    "partial": False,
}
IDLE = dict.fromkeys(DEFAULTS)


def read(words, **typed):
    return places.read_place(words, **typed)[0]


@pytest.mark.parametrize("name", choices.CRITERIA)
def test_a_criterion_is_cut_as_told(name):
    told = {"granularity": "weight", "scope": "layer", "lowest": True, "budget": 0.2}
    found = read(name, **told)
    assert isinstance(found, Cut) and type(found.localizer) is type(choices.CRITERIA[name]())
    assert (found.budget_fraction, found.granularity, found.count, found.scope) == (0.2, "weight", "weights", "layer")
    assert found.lowest and not found.partial and found.reduction == Top(0.1)


@pytest.mark.parametrize("typed", [{}, {"budget": 0.0}, {"scope": "layer", "lowest": True, "reduction": "mean"}])
def test_what_is_not_typed_has_its_default_and_is_told_with_the_rest(typed):
    found, options = places.read_place("gradient", **typed)
    assert options == {**DEFAULTS, **typed}
    assert found == Cut(
        Gradient(),
        options["budget"],
        scope=options["scope"],
        lowest=options["lowest"],
        reduction=Mean() if "reduction" in typed else Top(0.1),
    )


@pytest.mark.parametrize("granularity", ["weight", "channel", "module"])
def test_a_random_criterion_can_be_cut_by_anything(granularity):
    require_same_unit(read("random", granularity=granularity).localizer, granularity)


def test_of_a_region_no_option_holds_but_the_budget_of_critical():
    assert places.read_place("head")[1] == IDLE == places.read_place("last-layers:2")[1]
    assert places.read_place("critical")[1] == {**IDLE, "budget": 0.3}
    found, options = places.read_place("critical", budget=0.1)
    assert found == CriticalChannels(budget_fraction=0.1) and options == {**IDLE, "budget": 0.1}


TYPED = {
    "granularity": "weight",
    "count": "channels",
    "scope": "layer",
    "reduction": "mean",
    "lowest": True,
    "partial": True,
}


@pytest.mark.parametrize(("option", "value"), [*TYPED.items(), ("budget", 0.3), ("count", "nonsense")])
@pytest.mark.parametrize("words", ["critical", "head", "modules:2"])
def test_an_option_that_says_nothing_of_a_region_is_refused(words, option, value):
    if (words, option) == ("critical", "budget"):
        return
    message = (
        f"^--{option}: {words.partition(':')[0]} has no scores to cut; leave it out, or take a criterion with scores$"
    )
    with pytest.raises(errors.BadRequest, match=message):
        read(words, **{option: value})


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
        ("head", {"scope": "layer", "count": "weights"}, "--count: head has no scores to cut"),
        ("gradient", {"budget": 1.5}, "--budget: expected a fraction between 0 and 1"),
        ("critical", {"budget": -0.5}, "--budget: expected a fraction between 0 and 1"),
        ("gradient", {"reduction": "max"}, "reduction: expected mean or top:SHARE"),
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
    scored = words in ("deepest", "fisher-ratio")
    done = localize("--json", criterion=words, **({"budget": 0.5} if scored or words == "critical" else {}))
    assert done.code == 0, done.err
    assert 0 < done.json["mask_fraction"] <= 1


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ({}, DEFAULTS),
        ({"budget": 0.5, "granularity": "weight"}, {**DEFAULTS, "budget": 0.5, "granularity": "weight"}),
        ({"criterion": "head"}, IDLE),
        ({"criterion": "critical"}, {**IDLE, "budget": 0.3}),
    ],
)
def test_the_record_holds_the_values_that_were_used(project, localize, typed, kept):
    assert localize(**typed).code == 0
    request = json.loads((project / "run" / "run.json").read_text())["request"]
    assert {option: request[option] for option in DEFAULTS} == kept


def test_a_config_may_give_what_is_left_out(project, localize):
    (project / "c.toml").write_text('budget = 0.5\ngranularity = "weight"\n')
    assert localize("--config", "c.toml").code == 0
    request = json.loads((project / "run" / "run.json").read_text())["request"]
    assert (request["budget"], request["granularity"]) == (0.5, "weight")


def test_help_tells_the_defaults(excise):
    told = " ".join(excise("localize", "--help").out.replace("│", " ").split())
    for words in (
        "0.3 if left out",
        "channel (if left out)",
        "weights (if left out)",
        "network (if left out)",
        "top:0.1 if left",
    ):
        assert words in told


def test_a_random_mask_like_one_that_has_changed_is_another_request(localize):
    assert localize(out="one").code == 0
    assert localize(criterion="random-like:one", out="two").code == 0
    assert localize(budget=0.5, out="other").code == 0
    Path("one/mask.safetensors").write_bytes(Path("other/mask.safetensors").read_bytes())
    again = localize(criterion="random-like:one", out="two")
    assert again.code == 2 and "holds the run of another request (like: " in again.err
