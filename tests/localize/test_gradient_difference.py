import pytest
import torch

from excise import errors
from excise.data import Split
from excise.localize import Convolutions, Cut, GradientDifference
from tests.cases import CASES
from tests.naive.localization import per_example_gradients
from tests.probes import LeftAlone, Watched, engine_for, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11, 17]
RETAIN = [row for row in range(20) if row not in FORGET]
MSG = GradientDifference(retain_rows="as-many-as-forget", accumulate="batch-means", batch_size=2)


def naive(name, retain, batch_size=None):
    """|g_retain - g_forget|: means over examples, or sums over batches of batch means."""
    inputs, labels = CASES[name].data(20)

    def summed(ids):
        single = per_example_gradients(CASES[name].make(), inputs, labels, ids)
        return {key: sum(part.mean(0) for part in g.split(batch_size or len(ids))) for key, g in single.items()}

    forget, kept = summed(FORGET), summed(retain)
    return {key: (kept[key] - forget[key]).abs() for key in forget}


def assert_scores(scores, wanted):
    assert scores.names == tuple(wanted)
    for key, value in wanted.items():  # 1e-12 of each tensor's largest: sums of float64 in another order
        torch.testing.assert_close(scores[key], value, rtol=0.0, atol=1e-12 * max(float(value.max()), 1e-3))


@pytest.mark.parametrize("batch_size", [1, 3, 128])
@every_case
def test_the_score_is_the_size_of_the_difference_of_mean_gradients(name, batch_size):
    split = Split(CASES[name].data(20), forget=FORGET)
    assert_scores(GradientDifference(batch_size=batch_size)(CASES[name].make(), split), naive(name, RETAIN))


@pytest.mark.parametrize("seed", [0, 7])
@every_case
def test_as_published_it_sums_batch_means_over_as_many_retain_rows_as_forget_rows(name, seed):
    watched, model = Watched(*CASES[name].data(20)), CASES[name].make()
    scores = MSG.score(model, Split(watched, forget=FORGET), engine_for(model, seed=seed))
    drawn, rest = watched.read[:5], watched.read[5:]
    assert rest == FORGET
    assert drawn == sorted(set(drawn)) and set(drawn) <= set(RETAIN)
    assert_scores(scores, naive(name, drawn, batch_size=2))


def drawn_rows(seed, forget=FORGET, localizer=MSG):
    watched, model = Watched(*CASES["mlp"].data(20)), CASES["mlp"].make()
    engine = engine_for(model, seed=seed)
    localizer.score(model, Split(watched, forget=forget), engine)
    assert engine.cost.trained_rows == len(watched.read)
    return watched.read[: -len(forget)]


def test_retain_rows_are_drawn_from_the_seed_each_with_the_same_chance():
    assert drawn_rows(3) == drawn_rows(3)
    draws = [drawn_rows(seed) for seed in range(200)]
    counts = torch.bincount(torch.tensor(draws).flatten(), minlength=20)[RETAIN]
    assert len({tuple(rows) for rows in draws}) > 150
    # 200 draws with probability 1/3: mean 66.7, standard deviation 6.7; five of them either way
    assert counts.min() > 33 and counts.max() < 100


def test_all_retain_rows_are_read_if_asked_or_if_there_are_no_more():
    assert drawn_rows(0, localizer=GradientDifference()) == RETAIN
    assert drawn_rows(0, forget=range(12)) == list(range(12, 20))


@every_case
def test_twin_rows_pull_alike(name):
    inputs, labels = CASES[name].data(10)
    twice = (torch.cat([inputs, inputs]), torch.cat([labels, labels]))
    scores = GradientDifference()(CASES[name].make(), Split(twice, forget=range(10)))
    assert all(float(scores[key].max()) < 1e-14 for key in scores.names)  # rounding


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55])
@pytest.mark.parametrize("name", ["separable", "batchnorm"])
def test_masked_small_gradients_is_a_share_of_the_lowest_of_each_convolution(name, share):
    model, split = CASES[name].make(), Split(CASES[name].data(20), forget=FORGET)
    msg = Cut(GradientDifference(), share, granularity="weight", scope="layer", lowest=True, among=Convolutions())
    mask, scores = msg(model, split), naive(name, RETAIN)
    for key, value in model.named_parameters():
        if value.ndim < 4:
            assert mask.count(key) == 0
            continue
        flat = scores[key].flatten().tolist()
        lowest = sorted(range(len(flat)), key=lambda place: (flat[place], place))[: round(share * value.numel())]
        assert mask.count(key) == round(share * value.numel())
        assert mask.expand(key).flatten().nonzero().flatten().tolist() == sorted(lowest)


def test_the_network_is_left_alone_and_retain_rows_are_said_to_be_read():
    model = touched(CASES["batchnorm"].make())
    alone = LeftAlone(model)
    MSG(model, Split(CASES["batchnorm"].data(20), forget=FORGET))
    alone.check()
    assert GradientDifference().reads_retain and MSG.reads_retain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retain_rows": "some"}, "retain_rows: expected all or as-many-as-forget, found 'some'"),
        ({"accumulate": "max"}, "accumulate: expected mean or batch-means, found 'max'"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, found 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        GradientDifference(**options)
