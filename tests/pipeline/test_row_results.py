"""Row by row, under names that say nothing without the key; and the twins: the numbers taken by hand."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from excise import errors
from excise.measure import row_test, ulira_attack
from excise.pipeline.audited import Audit
from excise.pipeline.evidence import Oracles
from excise.pipeline.planning import AuditPlan
from excise.pipeline.population import Population
from excise.pipeline.row_results import ROWS, opaque_ids, read_row_results, row_results, secret_order
from tests.planted import WRONG, evidence, made_of, network, split_of, trained

SPLIT = split_of(forget=WRONG)


@pytest.fixture(autouse=True)
def _key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def done():
    """A handmade audit of a network that was trained on for a moment, with four oracles."""
    first = trained(1, 0, steps=60)
    after = trained(1, 0, steps=5, start=first, without=WRONG)
    own, original, *oracles = evidence([*after, *first, *trained(4, 1, without=WRONG, steps=60)], SPLIT)
    plan = AuditPlan(
        tier="T1", deciding=(), informing=(), effect=0.5, num_oracles=4, num_per_arm=0, seed=0, training={}, num_rows={}
    )
    return Audit(
        verdict="FAIL",
        reasons=[],
        controls={},
        measures=[],
        own=own,
        original=original,
        oracles=Oracles([], oracles),
        unlearned=made_of(network(first[0]), network(after[0]), SPLIT),
        split=SPLIT,
        plan=plan,
        seconds=0.0,
    )


def test_every_number_is_that_of_its_row(done):
    found = row_results(done).of(WRONG)
    margins = np.stack([one.margins for one in done.oracles.evidence])
    test = row_test(done.own.margins, margins)
    for place, one in enumerate(found):
        assert (one.margin, one.loss) == (done.own.margins[place], done.own.losses[place])
        assert one.original_margin == done.original.margins[place]
        assert one.oracle_margin == pytest.approx(sum(own[place] for own in margins) / 4)
        assert (one.score, one.p, one.told_apart) == (test.scores[place], test.p[place], test.told_apart[place])
        assert one.ulira is None
    assert len({one.margin for one in found}) == len(WRONG)


def test_a_population_gives_each_row_its_attack(done):
    arms = done.oracles.evidence
    many = replace(done, population=Population(unlearned=arms, originals=arms, held_out=done.oracles, broken=0))
    margins = np.stack([one.margins for one in arms])
    assert [one.ulira for one in row_results(many).of(WRONG)] == ulira_attack(margins, margins).per_row.tolist()


def test_without_oracles_there_are_the_networks_own_numbers(done):
    (one, *_) = row_results(replace(done, oracles=None)).of(WRONG)
    assert one.margin == done.own.margins[0] and one.oracle_margin is one.score is one.p is one.told_apart is None


def test_numbers_that_are_not_finite_are_left_out(done):
    broken = replace(done.own, margins=np.full_like(done.own.margins, np.nan), finite=False)
    found = row_results(replace(done, own=broken))
    assert {one.margin for one in found.rows} == {None} and {one.p for one in found.rows} == {None}
    assert read_row_results(json.loads(msgspec.json.encode(found))) == found


def test_it_is_read_back_as_it_was(done):
    found = row_results(done)
    assert found.plan_digest == done.plan.digest
    assert read_row_results(json.loads(msgspec.json.encode(found))) == found


def test_no_row_id_stands_in_it_and_its_order_is_not_that_of_the_ids(done):
    found = row_results(done)
    names = [one.id for one in found.rows]
    assert names == sorted(names) and set(names) == set(opaque_ids(WRONG, found.salt))
    assert all(len(name) == 32 and set(name) <= set("0123456789abcdef") for name in names)
    orders = [[WRONG.index(row) for row in _order(row_results(done))] for _ in range(6)]
    assert len({tuple(order) for order in orders}) == 6  # each file in another one
    assert list(range(len(WRONG))) not in orders


def _order(found):
    names = dict(zip(opaque_ids(WRONG, found.salt), WRONG, strict=True))
    return [names[one.id] for one in found.rows]


def test_names_of_two_files_have_nothing_in_common(done):
    one, other = row_results(done), row_results(done)
    assert one.salt != other.salt
    assert not {row.id for row in one.rows} & {row.id for row in other.rows}


def test_only_the_key_leads_from_rows_to_names(done, tmp_path, monkeypatch):
    found = row_results(done)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    guessed = opaque_ids(range(len(done.split.train)), found.salt)  # all the rows there are
    assert not set(guessed) & {one.id for one in found.rows}
    with pytest.raises(errors.BadRequest, match="or this machine has not the key they were written under"):
        found.of(WRONG)


def test_a_row_that_was_not_forgotten_is_refused_by_its_place(done):
    with pytest.raises(errors.BadRequest, match=r"found 1 that are none of its 16 \(at position 1 of 2\)"):
        row_results(done).of([WRONG[3], 0])


def test_the_same_ids_and_salt_give_the_same_names_and_each_id_its_own():
    ids = torch.arange(300).tolist()
    names = opaque_ids(ids, "a")
    assert names == opaque_ids(ids, "a") and len(set(names)) == 300
    assert opaque_ids([7, 3], "a") == [names[7], names[3]] and not set(names) & set(opaque_ids(ids, "b"))


def test_the_secret_order_is_one_and_is_undone_by_its_inverse():
    order = secret_order(range(50), "a")
    assert sorted(order.tolist()) == list(range(50)) != order.tolist()
    values = np.arange(50) ** 2
    np.testing.assert_array_equal(values[order][np.argsort(order)], values)
    assert (order == secret_order(range(50), "a")).all() and (order != secret_order(range(50), "b")).any()


@pytest.mark.parametrize("change", [{"rows": 3}, {"more": 1}, {"salt": None}])
def test_another_file_is_refused(done, change):
    held = {**msgspec.to_builtins(row_results(done)), **change}
    with pytest.raises(errors.Corrupt, match=f"{ROWS} is no file that this version can read"):
        read_row_results(held)


def test_another_format_is_refused(done):
    with pytest.raises(errors.Corrupt, match="expected format 1, found 2; read it with the version that wrote it"):
        read_row_results({**msgspec.to_builtins(row_results(done)), "format": 2})
