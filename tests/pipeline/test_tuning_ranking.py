from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from excise import errors, params, seeds
from excise.masks import Mask
from excise.measure import margins
from excise.oracles import retrain
from excise.pipeline.tuning_journal import Trial
from excise.pipeline.tuning_ranking import FEWEST_TRIALS, oracle_margins, rank_by_oracles
from excise.train import Engine, Task
from tests.pipeline.tuning_problem import PLAN, WRONG, make, train_rows, trained, wrong_labels

ORACLES = np.array([[0.0, 1.0], [0.2, 0.8], [-0.2, 1.2]])


def trials(values):
    return [Trial(number=number, settings={}, state="ok", value=value) for number, value in enumerate(values)]


def away(own):
    """Root mean square distance from the oracles' mean, in their pooled spread; by hand."""
    spread = np.sqrt(np.mean([np.var(column, ddof=1) for column in ORACLES.T]))
    return np.sqrt(np.mean((own - ORACLES.mean(0)) ** 2)) / spread


def test_the_choice_is_ranked_by_true_distance():
    own = {number: np.array([shift, 1.0]) for number, shift in enumerate([3.0, 0.5, 2.0, 1.0, 4.0, 0.1])}
    values = [0.2, 0.3, 0.1, 0.6, 0.5, 0.4]
    found = rank_by_oracles(trials(values), own, ORACLES)
    true = [away(own[number]) for number in range(6)]
    assert (found.rank, found.num_trials, found.num_oracles) == (4, 6, 3)  # trial 2 is chosen; 5, 1 and 3 are nearer
    assert found.distance == pytest.approx(true[2]) and found.best == pytest.approx(true[5])
    assert found.regret == pytest.approx(true[2] - true[5])
    assert found.median == pytest.approx(np.median(true))
    order = [(a - b) * (c - d) > 0 for (a, c), (b, d) in _pairs(values, true)]
    assert found.kendall_tau == pytest.approx((2 * sum(order) - len(order)) / len(order))
    assert found.p == pytest.approx(stats.kendalltau(values, true).pvalue)


def _pairs(values, true):
    both = list(zip(values, true, strict=True))
    return [(both[i], both[j]) for i in range(len(both)) for j in range(i)]


def test_few_trials_have_no_tau_and_the_best_has_no_regret():
    own = {number: np.array([float(number), 1.0]) for number in range(FEWEST_TRIALS)}
    found = rank_by_oracles(trials(range(FEWEST_TRIALS - 1)), own, ORACLES)
    assert found.kendall_tau is None and found.p is None
    assert (found.rank, found.regret) == (1, 0.0)
    assert rank_by_oracles(trials(range(FEWEST_TRIALS)), own, ORACLES).kendall_tau == pytest.approx(1.0)


def test_an_oracle_among_the_trials_ranks_first():
    held = SimpleNamespace(evidence=[SimpleNamespace(margins=row) for row in ORACLES])
    own = {0: np.array([5.0, 5.0]), 1: ORACLES[0]}
    found = rank_by_oracles(trials([0.9, 0.1]), own, held)  # as an audit holds them
    assert found.rank == 1 and found == rank_by_oracles(trials([0.9, 0.1]), own, list(ORACLES))


@pytest.mark.parametrize("given", [ORACLES[:2], ORACLES[:, :1], np.full((3, 2), np.nan)])
def test_what_ranks_nothing_is_refused(given):
    with pytest.raises(errors.BadRequest, match="oracles: expected finite margins of 2 forget rows by at least 3"):
        rank_by_oracles(trials([0.1]), {0: np.zeros(2)}, given)


def test_margins_of_oracles_are_those_of_networks_retrained_without_the_rows():
    split = wrong_labels()
    found = oracle_margins(trained(), split, plan=PLAN, oracles=3, fresh=make, seed=4)
    engine = Engine(Task(), 0, Mask.empty(make()))
    state = retrain(make, split.retain, PLAN, [seeds.derive(4, "oracle", 1)], engine)[0].state
    network = make()
    params.load_strictly_(network, state, "")
    inputs, labels = train_rows()
    with torch.no_grad():
        logits = network(inputs[WRONG]).double().numpy()
    np.testing.assert_array_equal(found[1], margins(logits, labels[WRONG].numpy()))
    assert found.shape == (3, len(WRONG)) and (found[0] != found[2]).any()
    again = oracle_margins(trained(), split, plan=PLAN, oracles=3, seed=4)  # without fresh: modules' own resets
    assert again.shape == found.shape
    with pytest.raises(errors.BadRequest, match=r"oracles: expected at least 3, since fewer .* found 2"):
        oracle_margins(trained(), split, plan=PLAN, oracles=2)
