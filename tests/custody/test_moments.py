"""Moments hold the rows that are to be forgotten until they are carried on without them."""

import pytest
import torch

from excise import params, store
from excise.curvature import Moments
from excise.custody import find_copies
from excise.custody.moments import KIND
from tests.custody.removal import NUM_ROWS, RETAIN

KEPT = len(RETAIN)


def told(made, tmp_path, *, num_rows, network):
    folder = tmp_path / "prepared"
    Moments({"0.weight": torch.eye(4, dtype=torch.float64)[None]}, num_rows, network, "eval mode").save(folder / "m")
    found = find_copies(made.traced(), [folder])
    return [one for one in found if one.path == str(folder / "m")]


@pytest.mark.parametrize(
    ("whose", "num_rows", "certainty"),
    [
        ("before", NUM_ROWS, "sure"),
        ("before", KEPT, "unknown"),
        ("after", NUM_ROWS, "sure"),
        ("after", KEPT, None),
        ("another", KEPT, "unknown"),
    ],
)
def test_moments_are_told_by_their_network_and_their_number_of_rows(made, tmp_path, whose, num_rows, certainty):
    network = made.traced().network
    digests = {"before": network.before_digest, "after": params.digest(network.after), "another": "0" * 64}
    found = told(made, tmp_path, num_rows=num_rows, network=digests[whose])
    assert [one.certainty for one in found] == ([] if certainty is None else [certainty])
    assert all(f"sums over {num_rows:,} rows" in one.why for one in found)


def test_moments_with_a_damaged_header_are_unknown(made, tmp_path):
    path = tmp_path / "prepared" / "m"
    store.write_tensors(path, {"a": torch.zeros(2)}, {"kind": KIND})
    (found,) = [one for one in find_copies(made.traced(), [path.parent]) if one.path == str(path)]
    assert (found.certainty, found.what) == ("unknown", "second moments of what layers are given")
    assert "does not say what it belongs to" in found.why
