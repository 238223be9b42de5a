"""Places of ids by search in a list; products as loops, in blocks of any size."""

import pytest
import torch

from excise import errors
from excise.attribution.parts import Part, chunks, places_of, products

IDS = torch.tensor([1, 4, 5, 9])


def test_places_are_where_a_list_has_them():
    wanted = [9, 1, 1, 5]
    assert places_of("rows", torch.tensor(wanted), IDS).tolist() == [IDS.tolist().index(one) for one in wanted]
    assert places_of("rows", IDS[:0], IDS).tolist() == []


@pytest.mark.parametrize("known", [IDS, IDS[:0]])
def test_a_strange_id_is_refused_by_its_position(known):
    with pytest.raises(errors.BadRequest, match=r"rows: \d ids .at positions? .*0.* of 2. are none of the \d rows"):
        places_of("rows", torch.tensor([10, 4]), known)


@pytest.mark.parametrize("ids", [None, "5", torch.tensor([5.0]), torch.tensor([[5]])])
def test_what_is_no_list_of_ids_is_refused(ids):
    with pytest.raises(errors.BadRequest, match=r"rows: expected row ids, integers \[rows\], found"):
        places_of("rows", ids, IDS)


@pytest.mark.parametrize("numbers", [1, 12, 13, 2**22])
def test_products_are_sums_whatever_the_block(numbers, monkeypatch):
    monkeypatch.setattr("excise.attribution.parts._BLOCK_NUMBERS", numbers)
    draws = torch.Generator().manual_seed(0)
    weights, factors = torch.randn(5, 2, generator=draws), torch.randn(4, 2, 3, generator=draws).half()
    places = torch.tensor([3, 0, 0, 1, 2])
    found = products(weights, factors, places)
    for r in range(5):
        wanted = sum(weights[r, k].double() * factors[places[r], k].double() for k in range(2))
        torch.testing.assert_close(found[r], wanted, rtol=0, atol=1e-14)
    assert [list(range(5))[one] for one in chunks(places, factors)][-1][-1] == 4


def test_a_part_is_taken_whole():
    part = Part(
        IDS, torch.arange(8.0).reshape(4, 2), torch.arange(16.0).reshape(4, 2, 2), torch.arange(8.0).reshape(4, 2)
    )
    some = part.taken(torch.tensor([1, 3]))
    assert some.ids.tolist() == [4, 9] and some.content is None
    assert torch.equal(some.base, part.base[[1, 3]]) and torch.equal(some.factors, part.factors[[1, 3]])
    assert torch.equal(some.margins, part.margins[[1, 3]])
