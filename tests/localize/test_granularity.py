import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise import errors
from excise.localize import Mean, Top
from excise.localize.granularity import channel_scores
from tests.naive.localization import naive_row_scores


def drawn(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPES = [(6, 9), (1, 1), (5, 1), (64, 3, 3, 3), (32, 1, 3, 3), (3, 512), (7,), (), (1, 16, 4), (20, 2)]


@pytest.mark.parametrize("of", ["row", "layer"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.34, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_top_is_the_mean_of_the_highest_of_each_row(shape, share, of):
    scores = drawn(*shape)
    wanted, _ = naive_row_scores(scores, share, of)
    torch.testing.assert_close(
        channel_scores(scores, Top(share, of=of)), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0.0
    )  # sums of float64 in another order


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_is_the_mean_of_each_row_and_top_of_everything(shape):
    scores = drawn(*shape)
    wanted, _ = naive_row_scores(scores, None, "mean")
    for reduction in (Mean(), Top(1.0)):
        torch.testing.assert_close(
            channel_scores(scores, reduction), torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=0.0
        )


@pytest.mark.parametrize(
    ("reduction", "num_rows", "row_length", "count"),
    [
        (Top(0.1), 64, 9, 1),  # a depthwise convolution: never none of its 9 weights
        (Top(0.1), 64, 576, 57),
        (Top(0.1), 3, 512, 51),
        (Top(0.1, of="layer"), 3, 512, 1),  # the published code's 0 of a 3-class head, and its NaN
        (Top(0.1, of="layer"), 10, 512, 1),
        (Top(0.1, of="layer"), 64, 27, 6),  # the published code's counts for ResNet-18
        (Top(0.1, of="layer"), 256, 2304, 25),
        (Top(0.1, of="layer"), 512, 4608, 51),
        (Top(0.1, of="layer"), 512, 9, 9),  # never more than the row: the published code's error
        (Top(1.0), 5, 7, 7),
    ],
)
def test_how_many_scores_count_in_a_row(reduction, num_rows, row_length, count):
    assert reduction.count(num_rows, row_length) == count


@given(st.floats(0, 1, exclude_min=True), st.sampled_from(["row", "layer"]), st.integers(1, 4096), st.integers(1, 4096))
def test_at_least_one_score_counts_and_at_most_the_row(share, of, num_rows, row_length):
    assert 1 <= Top(share, of=of).count(num_rows, row_length) <= row_length


def test_one_axis_parameters_compete_weight_by_weight():
    scores = drawn(7)
    for reduction in (Top(), Mean(), Top(1.0, of="layer")):
        assert torch.equal(channel_scores(scores, reduction), scores)


@pytest.mark.parametrize("reduction", [Top(0.3), Mean()])
def test_the_order_of_weights_within_a_row_does_not_matter(reduction):
    scores = drawn(5, 4, 3)
    shuffled = scores.flip(1, 2)
    torch.testing.assert_close(
        channel_scores(scores, reduction), channel_scores(shuffled, reduction), rtol=1e-14, atol=0.0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share: expected a fraction above 0, found 0"),
        ({"share": 0.0}, "share: expected a fraction above 0, found 0"),
        ({"share": 1.5}, "share: expected a fraction between 0 and 1, found 1.5"),
        ({"of": "column"}, "of: expected row or layer, found 'column'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        Top(**options)
