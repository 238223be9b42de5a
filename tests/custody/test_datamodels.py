"""A datamodel among files is told by its head, whatever its size; and by the key, of which data it is."""

import pytest
import torch

from excise import store
from excise.attribution import Datamodel, Made, Part
from excise.custody import copies, find_copies
from excise.custody.datamodels import KIND, datamodel_reason
from tests.custody.removal import DATA


def reason(path, data):
    """Say what a file is of the rows if its head is that of a datamodel."""
    head = copies._head(path)
    return datamodel_reason(head, data) if head.get("kind", "").startswith(KIND) else None


def saved(path, data="", by="means"):
    part = Part(torch.arange(4), torch.zeros(4, 2), torch.randn(4, 3, 2))
    made = Made(by=by, num_models=3, data=data)
    Datamodel(weights=torch.randn(4, 3), parts={"train": part}, made=made).save(path)
    return path


@pytest.mark.parametrize(
    ("own", "known", "what", "why", "certainty"),
    [
        (
            "one",
            {"one", "two"},
            "a datamodel: what networks say that saw the rows",
            "3 networks on halves, of the same",
            "likely",
        ),
        ("one", {"two"}, "a datamodel of other data", "not of the content that the run's data had", "unknown"),
        ("", {"one"}, "a datamodel: what networks say that saw the rows", "data was not recorded", "likely"),
        ("one", set(), "a datamodel: what networks say that saw the rows", "data was not recorded", "likely"),
    ],
)
def test_a_datamodel_is_told_with_what_its_data_were(own, known, what, why, certainty, tmp_path):
    found = reason(saved(tmp_path / "d.safetensors", own), known)
    assert (found.what, found.certainty) == (what, certainty) and why in found.why


def test_one_of_gradients_is_told_as_such(tmp_path):
    assert reason(saved(tmp_path / "d.safetensors", by="trak"), set()).why.startswith("by trak from 3 networks, ")


def test_other_files_are_none(tmp_path):
    path = tmp_path / "mask.safetensors"
    store.write_tensors(path, {"weight": torch.zeros(2)}, {"kind": "excise-mask-1"})
    assert reason(path, set()) is None
    path.write_bytes(b"no tensors")
    assert reason(path, set()) is None
    assert reason(tmp_path / "notes.txt", set()) is None


def test_one_without_a_readable_origin_is_still_told(tmp_path):
    path = tmp_path / "d.safetensors"
    store.write_tensors(path, {"weights": torch.zeros(2)}, {"kind": "excise-datamodel-9", "made": "[1"})
    assert "0 networks on halves" in reason(path, set()).why


def test_it_is_found_among_the_files_of_a_project(made, tmp_path):
    folder = tmp_path / "project"
    path = saved(folder / "d.safetensors", DATA)
    found = [one for one in find_copies(made.traced(), [folder]) if one.path == str(path)]
    assert [(one.certainty, one.own) for one in found] == [("likely", False)] and "of the same data" in found[0].why
