"""Running statistics that still hold what was to be forgotten are caught, and a retraining is not accused."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import excise
from benchmarks import kept_statistics
from benchmarks.kept_statistics import with_statistics
from excise import params, seeds
from excise.data.rows import Rows
from excise.masks import Mask
from excise.oracles import retrain
from excise.params import model_digest
from excise.pipeline import policy
from excise.pipeline.case import Case
from excise.pipeline.evidence import Oracles, loaded
from excise.pipeline.probing import prober_for
from excise.pipeline.soundness import kept_statistics as look
from excise.train import Engine, Task, TrainPlan
from tests.planted import hurried, made_of
from tests.privacy import photos

PLAN = TrainPlan(epochs=6, lr=0.05, batch_size=100)
DOCS = Path(__file__).parents[2] / "docs" / "privacy.md"


class Fronted(nn.Sequential):
    """The network behind a normalisation of its pixels, whose statistics depend on no weight."""

    def __init__(self):
        super().__init__(nn.BatchNorm2d(1, affine=False), photos.make())


def split_of(forget=photos.FORGET):
    return excise.Split(photos.train(), forget=forget, test=photos.test())


class Arms:
    """An original, five networks retrained without the rows, and the first four of them as oracles."""

    def __init__(self, seed, make):
        self.make, self.split = make, split_of()
        with seeds.isolated(seed, "buffers"):
            self.engine = Engine(Task(), seed, Mask.empty(make()))
        first = retrain(make, Rows.all_of(photos.train()), PLAN, [seed], self.engine)[0]
        self.before = loaded(make, first, "the original")
        trained = retrain(make, self.split.retain, PLAN, [100 * seed + place for place in range(1, 6)], self.engine)
        self.oracles = Oracles(trained[:4], [])
        self.subject = loaded(make, trained[4], "one more")

    def look(self, network):
        made = made_of(self.before, network, self.split)
        prober = prober_for(network, self.split, self.engine, None)
        case = Case(made, network, self.before, self.split, self.make, PLAN, self.engine, prober)
        return look(case, self.oracles)


@pytest.fixture(scope="module", params=[0, 1])
def arms(request):
    return Arms(request.param, photos.make)


@pytest.fixture(scope="module")
def fronted():
    return Arms(0, Fronted)


def test_a_retraining_with_the_originals_statistics_is_caught(arms):
    (told,) = arms.look(with_statistics(arms.subject, arms.before, ""))
    assert "statistics of 1 of 1 normalisation layers (1 among them) are up to 100% the original's" in told
    assert "unlearn with recompute=True to have them computed anew" in told


def test_a_retraining_is_not_accused(arms):
    assert arms.look(arms.subject) == []
    for place in range(4):  # nor is any oracle, beside itself and the others
        assert arms.look(arms.oracles.model(arms.make, place)) == []


def test_a_recomputation_clears_it(arms):
    spoilt = with_statistics(arms.subject, arms.before, "")
    params.load_strictly_(spoilt, params.state_of(arms.subject), "its own")
    assert arms.look(spoilt) == []


def test_a_little_noise_does_not_hide_them(arms):
    spoilt = with_statistics(arms.subject, arms.before, "")
    with torch.no_grad():
        spoilt[1].running_mean.add_(1e-6)
    (told,) = arms.look(spoilt)
    assert "are up to 100% the original's" in told


def test_the_original_itself_and_one_that_was_changed_a_little(arms):
    assert arms.look(params.clone_model(arms.before)) == []  # nothing was done: another sentence says so
    nudged = params.clone_model(arms.before)
    with torch.no_grad():
        nudged[4].bias.add_(1e-3)
    assert len(arms.look(nudged)) == 1


def test_statistics_of_pixels_alone_are_caught_where_no_answer_shows_them(fronted):
    """Brightness of the rows to forget is another: their secrets are brighter than the pictures."""
    (told,) = fronted.look(with_statistics(fronted.subject, fronted.before, "1."))
    assert "of 1 of 2 normalisation layers (0 among them)" in told
    assert fronted.look(fronted.subject) == []


def test_statistics_that_no_training_moves_accuse_nobody(arms):
    """A frozen layer, with statistics of other pictures: retrained networks hold them just the same."""

    def still(network):
        copied = params.clone_model(network)
        with torch.no_grad():
            copied[1].running_mean.fill_(0.3), copied[1].running_var.fill_(2.0)
        return copied

    found = Arms.__new__(Arms)
    found.__dict__ = dict(arms.__dict__, before=still(arms.before))
    states = [still(arms.oracles.model(arms.make, place)).state_dict() for place in range(4)]
    trained = [type(one)(one.seed, state, 1.0, 1) for one, state in zip(arms.oracles.trained, states, strict=True)]
    found.oracles = Oracles(trained, [])
    assert found.look(still(arms.subject)) == []


def test_few_oracles_accuse_nobody(arms):
    found = Arms.__new__(Arms)
    found.__dict__ = dict(arms.__dict__, oracles=Oracles(arms.oracles.trained[:3], []))
    assert found.look(with_statistics(arms.subject, arms.before, "")) == []


def test_an_audit_fails_them_and_says_why(fronted):
    """And the plan of the audit said so beforehand."""
    spoilt = with_statistics(fronted.subject, fronted.before, "1.")
    plan, made = [], made_of(fronted.before, spoilt, fronted.split)
    with hurried():
        done = excise.audit(made, fronted.split, plan=PLAN, fresh=Fronted, oracles=4, seed=3, on_plan=plan.append)
    assert done.verdict == "FAIL" and len([one for one in done.reasons if "normalisation layers" in one]) == 1
    assert any("running statistics" in one for one in policy.FAILING) and plan[0].failing == policy.FAILING
    assert plan[0].audited == model_digest(spoilt)


def test_the_table_in_the_documents_is_what_was_measured():
    kept = json.loads(kept_statistics.KEPT.read_text())
    assert kept_statistics.table(kept).strip() in DOCS.read_text(encoding="utf-8")
    caught = {name: sum(spoilt["verdict"] == "FAIL" for _, spoilt in pairs) for name, pairs in kept["networks"].items()}
    assert {len(pairs) for pairs in kept["networks"].values()} == {100}
    assert caught["every layer's"] >= 99 and caught["those of the pixels alone"] >= 90
    assert not any(own["objects"] for pairs in kept["networks"].values() for own, _ in pairs)
