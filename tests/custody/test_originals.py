"""Copies of the rows themselves are told by what they hold, and rows that stayed are not."""

import numpy as np
import pytest
import torch

from excise.custody import Traced, find_copies
from excise.custody.originals import Originals
from excise.data.rows import Rows, as_source
from tests.custody.removal import FORGET, NUM_ROWS

PICTURES = torch.randint(0, 256, (NUM_ROWS, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def originals(inputs=PICTURES, ids=FORGET):
    return Originals.of(Rows(as_source((inputs, torch.arange(len(inputs)) % 3)), ids))


def told(found, value):
    return [one.why for one in found.reasons({"a": value})]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 4, 4), (16,), (4, 4, 1)])
def test_arrays_of_forgotten_rows_are_found_in_any_type_and_shape_and_those_of_others_are_not(dtype, shape):
    mine, others = PICTURES[FORGET], PICTURES[FORGET + 1]
    assert told(originals(), mine.reshape(-1, *shape).to(dtype)) == [
        "a: 10 of 10 lines hold just what a row to forget holds"
    ]
    assert told(originals(), others.reshape(-1, *shape).to(dtype)) == []


def test_the_count_is_that_of_a_search_by_hand():
    chosen = torch.tensor([0, 1, 2, 20, 21, 40, 40])
    by_hand = sum(any(torch.equal(PICTURES[row], PICTURES[lost]) for lost in FORGET) for row in chosen)
    assert told(originals(), PICTURES[chosen]) == [f"a: {by_hand} of 7 lines hold just what a row to forget holds"]


def test_rows_that_are_read_from_0_to_1_are_found_as_bytes_too():
    found = originals(PICTURES / 255)
    assert told(found, PICTURES[FORGET]) and told(found, PICTURES[FORGET] / 255)
    assert not told(found, PICTURES[FORGET + 1]) and not told(found, PICTURES[FORGET + 1] / 255)


def test_one_row_alone_is_found_and_a_changed_number_is_another_row():
    one = PICTURES[20].clone()
    assert told(originals(), one) and told(originals(), one.flatten())
    one[0, 0, 0] ^= 1
    assert not told(originals(), one)


def test_labels_and_rows_of_one_number_say_nothing():
    blank = torch.zeros(NUM_ROWS, 16)
    assert told(originals(blank), blank) == [] and originals(blank).digests == {}
    assert told(originals(), torch.arange(NUM_ROWS) % 3) == []
    assert told(originals(), torch.zeros(0, 16)) == [] and told(originals(), torch.tensor(3.0)) == []


def test_parts_of_a_row_are_found_by_themselves_however_they_are_nested():
    class Nested:
        def __len__(self):
            return NUM_ROWS

        def read(self, ids):
            return {"picture": PICTURES[ids], "more": [(PICTURES[ids] // 2).float(), "name"]}

    found = Originals.of(Rows(Nested(), FORGET))
    assert told(found, PICTURES[FORGET]) and told(found, PICTURES[FORGET] // 2)


def test_copies_of_three_rows_are_sure_with_the_data_at_hand_and_unseen_without(made, tmp_path):
    np.save(tmp_path / "raw.npy", PICTURES[FORGET[:3]].numpy())
    found = find_copies(Traced.of(made.run, FORGET, originals()), [tmp_path / "raw.npy"])
    (one,) = [one for one in found if one.path.endswith("raw.npy")]
    assert (one.certainty, one.what, one.lists_rows) == ("sure", "copies of forgotten rows", True)
    assert not [one for one in find_copies(made.traced(), [tmp_path]) if one.path.endswith("raw.npy")]
