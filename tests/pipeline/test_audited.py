"""What an audit tells: plain values that hold every measure whole and no row, a line, a page; and its arithmetic of cost."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch

import excise
from excise import errors, params, recipes
from excise.measure import against_oracles
from excise.oracles import Trained
from excise.pipeline import policy
from excise.pipeline.audited import Audit, SameCost, audit_page, environment
from excise.pipeline.evidence import Oracles
from excise.pipeline.planning import AuditPlan, require_planned
from excise.pipeline.population import Population
from excise.train import TrainPlan
from excise.train.engine import Cost, Spent
from tests.planted import NUM_TRAIN, TRAIN, WRONG, evidence, hurried, made_of, make, network, split_of, trained

PLAN = TrainPlan(epochs=6, lr=0.1, batch_size=32)
SCHEMA = {"value", "low", "high", "null_mean", "null_high", "p", "num_models", "least_detectable"}


@pytest.fixture(scope="module", autouse=True)
def short():
    with hurried():
        yield


@pytest.fixture(scope="module")
def before():
    return network(trained(1, 0)[0])


def audit_of(before, split=None, recipe=None, **options):
    split = split or split_of()
    done = excise.unlearn(before, split, recipe or recipes.Finetune(epochs=2), fresh=make)
    return excise.audit(done, split, fresh=make, **{"plan": PLAN, "oracles": 4, "seed": 1, **options})


@pytest.fixture(scope="module")
def found(before):
    return audit_of(before)


@pytest.fixture(scope="module")
def populated(before):
    return audit_of(before, tier="T2", oracles=8)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    else:
        yield path, value


# ---------------------------------------------------------------- plain values


@pytest.mark.parametrize("which", ["found", "populated"])
def test_every_measure_is_whole_finite_and_survives_json(which, request):
    told = request.getfixturevalue(which).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert len(told["measures"]) > 15
    for row in told["measures"]:
        assert set(row) >= SCHEMA
        assert all(math.isfinite(row[name]) for name in SCHEMA), row["name"]
        assert row["low"] <= row["value"] <= row["high"]
        assert row["null_low"] <= row["null_high"]
        assert 0 <= row["p"] <= 1
        assert row["num_models"] in (4, 8)
    names = [row["name"] for row in told["measures"]]
    assert len(names) == len(set(names))
    assert require_planned(told).digest == told["plan_digest"]


def test_what_was_found_is_what_is_told(found):
    told = found.to_dict()
    assert (told["verdict"], told["tier"], told["trace_seen"]) == (found.verdict, "T1", found.trace_seen)
    assert told["num_rows"] == {"forget": 16, "retain": 144, "test": 100}
    assert told["num_oracles"] == 4
    assert "trainings" not in told
    assert told["audit_retrainings"] == found.audit_retrainings
    assert told["plan"]["audited"] == params.model_digest(found.unlearned.model)
    assert set(told["controls"]) == {"nothing", "retrained", "plan"}
    assert told["accuracy"]["unlearned"] == dict(found.own.accuracy)
    assert told["accuracy"]["original"] == dict(found.original.accuracy)
    forgot = [one.accuracy["forget"] for one in found.oracles.evidence]
    assert told["accuracy"]["oracles"]["forget"] == pytest.approx(sum(forgot) / 4)
    assert told["environment"] == environment()
    assert told["environment"]["threads"] == torch.get_num_threads()
    assert told["unlearned"]["frozen_digest_before"] == told["unlearned"]["frozen_digest_after"]
    assert told["cost"]["oracles"]["trained_rows"] == 4 * 6 * 144
    assert told["same_cost"]["epochs"] == 2
    assert set(told["cost"]) == {"localize", "unlearn", "oracles", "swap", "same cost", "measuring"}


def test_tier_t0_tells_of_no_oracle(before):
    told = audit_of(before, tier="T0", oracles=None).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert (told["oracle_seconds"], told["same_cost"], told["requests_until_paid"]) == (None, None, None)
    assert set(told["cost"]) == {"localize", "unlearn"}
    assert set(told["accuracy"]) == {"original", "unlearned"}
    assert (told["measures"], told["audit_retrainings"]) == ([], None)


def untrained(model, dataset, seed):
    """A training function of one's own: nobody counts what it reads."""
    return model


def test_what_a_training_function_reads_is_not_counted_and_not_cut_short(before):
    done = audit_of(before, plan=untrained, oracles=1)
    told = done.to_dict()
    assert (told["audit_retrainings"], told["requests_until_paid"], told["same_cost"]) == (None, None, None)
    assert "same cost" not in told["cost"]
    costs = audit_page(done).costs
    assert costs.sentence.startswith("Rows that a training function of your own reads are not counted")
    assert {one.what: one.training_passes for one in costs.steps} == {
        "Localization": 0.0,
        "Unlearning": pytest.approx(2 * 144 / 160),
        "Audit: oracles": None,
        "Audit: probes and measures": 0.0,
    }


@pytest.mark.parametrize("which", ["found", "populated"])
def test_it_holds_no_row_ids_and_no_number_of_a_row(which, request):
    done = request.getfixturevalue(which)
    told = done.to_dict()
    lists = {path[:1] for path, _ in leaves(told) if any(isinstance(step, int) for step in path)}
    assert lists <= {("reasons",), ("measures",), ("notes",), ("plan",), ("left_out",)}
    networks = [done.own, done.original, *done.oracles.evidence]
    per_row = {value for one in networks for value in (*one.margins.tolist(), *one.losses.tolist())}
    per_row |= {value for one in networks for part in one.rows.margins.values() for value in part.tolist()}
    assert not per_row & {value for _, value in leaves(told) if isinstance(value, float)}
    text = json.dumps({key: told[key] for key in told if key != "environment"})
    assert not re.search(r"\b(3, ?11, ?19|ids?)\b", text)
    assert done.unlearned.rows_digest not in text


def test_the_same_rows_under_other_ids_are_told_of_alike(before):
    order = torch.arange(NUM_TRAIN).flip(0)
    moved = split_of([NUM_TRAIN - 1 - row for row in WRONG], (TRAIN[0][order], TRAIN[1][order]))
    one, other = (audit_of(before, split, oracles=1).to_dict() for split in (split_of(), moved))
    assert [path for path, _ in leaves(one)] == [path for path, _ in leaves(other)]
    plans = [{key: value for key, value in told["plan"].items() if key != "audited"} for told in (one, other)]
    assert plans[0] == plans[1]  # but for which network it is: rows in another order make another


# ---------------------------------------------------------------- a line, a page, a file


def test_it_says_in_a_line_what_came_out(found):
    line = repr(found)
    assert line.startswith(f"Audit({found.verdict} at T1; accuracy in % on forget/retain/test: original ")
    assert "; 4 oracles; controls: nothing FAIL, retrained " in line
    assert found.reasons[0] in line


def test_a_page_and_numbers_are_saved(found, tmp_path):
    page, numbers = found.save(tmp_path / "deep" / "report.html"), found.save(str(tmp_path / "audit.json"))
    assert json.loads(numbers.read_text()) == found.to_dict()
    html = page.read_text()
    assert "Did the network forget 16 rows?" in html
    assert found.verdict in html
    assert found.plan.digest in html
    assert found.unlearned.frozen_digest in html
    assert not re.search(r"(src|href)=[\"']https?://", html)


def test_a_page_of_one_row_is_in_the_singular_and_every_verdict_has_one(before, tmp_path):
    html = audit_of(before, split_of(WRONG[:1]), oracles=2).save(tmp_path / "report.htm").read_text()
    assert "Did the network forget 1 row?" in html
    assert "INCONCLUSIVE" in html


@pytest.mark.parametrize("name", ["report.txt", "report", "audit.JSON"])
def test_another_suffix_is_refused_and_nothing_written(found, name, tmp_path):
    with pytest.raises(errors.BadRequest, match=rf"expected a path ending in .html or .json, found '{name}'"):
        found.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_error(found, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DiskError, match="could not write"):
        found.save(tmp_path / "file" / "report.html")


# ---------------------------------------------------------------- what it costs


def handmade(share, *, oracles=8, originals=0, **spent):
    """Give an audit of nothing but counts."""
    split = split_of()
    model = network(trained(1, 0, steps=1)[0])
    one = evidence([model], split)[0]
    unlearned = replace(made_of(model, model, split), cost=Cost(retraining_share=share))
    held = None if not oracles else Oracles([Trained(0, {}, 1.0, 100)] * oracles, [one] * oracles)
    population = (
        Population([one] * originals, [], Oracles([Trained(0, {}, 1.0, 100)] * originals, []), 0) if originals else None
    )
    plan = AuditPlan(
        tier="T1",
        deciding=policy.SINGLE,
        informing=(),
        effect=0.5,
        num_oracles=oracles,
        num_per_arm=0,
        seed=0,
        training="train",
        num_rows={},
    )
    return Audit(
        verdict="FAIL",
        reasons=[],
        controls={},
        measures=[against_oracles("x", 0.1, [0.0, 0.1, 0.2], resolution=0.1)],
        own=one,
        original=one,
        oracles=held,
        unlearned=unlearned,
        split=split,
        plan=plan,
        seconds=1.0,
        population=population,
        same_cost=SameCost(one, "PASS", Spent(), 1),
        spent={name.replace("_", " "): Spent(trained_rows=rows) for name, rows in spent.items()},
    )


@pytest.mark.parametrize(
    ("share", "options", "retrainings", "paid"),
    [
        (0.0, {}, 8, 8),
        (0.5, {}, 8, 16),
        (0.1, {}, 8, 9),
        (0.99, {}, 8, 800),
        (1.0, {}, 8, None),
        (1.7, {}, 8, None),
        (None, {}, 8, None),
        (0.5, {"oracles": 0}, None, None),
        (
            0.25,
            {"oracles": 64, "originals": 64},
            199.11,
            266,
        ),  # an original reads 160 rows where a retraining reads 144
        (0.5, {"search": 250}, 10.5, 21),  # two and a half retrainings more
        (0.5, {"swap": 400, "same_cost": 30, "measuring": 70}, 13, 26),
        (0.5, {"localize": 900, "unlearn": 900}, 8, 16),  # the recipe's own cost is its share, at each request
        (0.5, {"oracles_of_bank": 0}, 8, 16),
        (0.5, {"oracles_in_part": 300}, 8, 16),
        (0.5, {"oracles_in_part": 1000}, 10, 20),  # and what was trained and not kept counts too
    ],
)
def test_after_how_many_requests_an_audit_has_paid(share, options, retrainings, paid):
    counts = {name: rows for name, rows in options.items() if not name.startswith("oracles_")}
    done = handmade(share, **counts)
    for name, rows in options.items():
        if name.startswith("oracles_"):  # of eight oracles so many rows were trained on now, the others lay in a bank
            done = replace(done, spent={"oracles": Spent(trained_rows=rows)})
    assert done.audit_retrainings == (None if retrainings is None else pytest.approx(retrainings, abs=1e-9))
    assert done.requests_until_paid == paid
    if paid is not None:  # brute force: n unlearnings and the audit, beside n retrainings
        assert paid == next(n for n in range(1, 10**4) if n * share + retrainings <= n + 1e-9)


def test_the_share_of_a_retraining_is_filled_in_from_the_oracles(found):
    assert found.unlearned.cost.retraining_share == pytest.approx(2 / 6)


def test_an_audit_costs_all_the_rows_that_it_trained_on(found):
    rows = {name: one["trained_rows"] for name, one in found.to_dict()["cost"].items()}
    assert (rows["oracles"], rows["same cost"]) == (4 * 6 * 144, 2 * 144)
    audit = (rows["oracles"] + rows["swap"] + rows["same cost"] + rows["measuring"]) / (6 * 144)
    assert found.audit_retrainings == pytest.approx(audit)
    assert audit > 8  # the SWAP test trains four networks more
    assert found.requests_until_paid == next(n for n in range(1, 10**4) if n * 2 / 6 + audit <= n + 1e-9)
