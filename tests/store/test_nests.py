import pytest
import torch

from excise.store import nests
from excise.store.nests import leaves


def twin(value, way=()):
    """The same, by recursion."""
    if isinstance(value, str):
        yield ".".join(way), value
    elif isinstance(value, dict | list | tuple):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from twin(one, (*way, str(key)))


NEST = {"a": "x", "b": [{"c": "y"}, (None, "z", [])], 3: {"d": {"e": ["v", 1, "w"]}}, "f": 4, "g": True, "h": {}}


def test_what_is_of_a_kind_comes_with_the_names_on_the_way_to_it():
    assert leaves(NEST, str) == dict(twin(NEST)) != {}


def test_lists_of_numbers_come_as_tensors_and_mixed_ones_do_not():
    found = leaves({"ids": [3, 1, 2], "losses": (0.5, 1), "flags": [True, False], "mixed": [1, "x"], "none": []}, str)
    assert found.pop("mixed.1") == "x"
    assert {name: value.tolist() for name, value in found.items()} == {
        "ids": [3, 1, 2],
        "losses": [0.5, 1.0],
        "flags": [True, False],
    }
    assert found["ids"].dtype == torch.int64


def test_what_has_no_name_is_named_by_what_it_is():
    assert leaves("x", str) == {"tensor": "x"}
    assert leaves([1, 2], str)["list"].tolist() == [1, 2]
    assert leaves(3, str) == {}


def test_a_nest_that_holds_itself_or_one_part_many_times_is_refused(monkeypatch):
    monkeypatch.setattr(nests, "MAX_PARTS", 5000)
    itself = []
    itself.append(itself)
    with pytest.raises(ValueError, match="a nest more than 100 deep"):
        leaves(itself, str)
    many = ["x"]
    for _ in range(12):
        many = [many] * 10
    with pytest.raises(ValueError, match="a nest of more than 5000 parts"):
        leaves(many, str)
    numbers = [0] * 2000
    assert len(leaves([numbers, numbers], str)) == 2
    with pytest.raises(ValueError, match="a nest of more than 5000 parts"):
        leaves([numbers, numbers, numbers], str)


def test_names_are_no_longer_than_names_are():
    key = "k" * 4000
    assert len(leaves({key: {key: "x"}}, str)) == 1
    with pytest.raises(ValueError, match="names of more than 10000 characters"):
        leaves({key: {key: {key: "x"}}}, str)


def test_numbers_that_no_tensor_holds_are_refused():
    with pytest.raises(ValueError, match="a list of numbers that no tensor holds"):
        leaves([2**70], str)
