"""Rows on their way. An accelerator is pretended: fake tensors know their device and compute no number."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from excise.data.batches import batches, read_batch
from excise.data.moving import gathered, moved, pins
from excise.data.rows import JoinedSource, Rows, as_source

CPU, ACCELERATOR = torch.device("cpu"), torch.device("cuda", 0)


def arrays(device):
    return torch.zeros(6, 2, device=device), torch.zeros(6, dtype=torch.int64, device=device)


def test_fake_tensors_refuse_ids_that_lie_elsewhere():
    """What the tests below would see if ids stayed on the CPU."""
    with FakeTensorMode(), pytest.raises(RuntimeError, match="same device"):
        arrays(ACCELERATOR)[0].index_select(0, torch.arange(2))


@pytest.mark.parametrize("target", [CPU, ACCELERATOR])
@pytest.mark.parametrize("place", [CPU, ACCELERATOR])
def test_ids_move_to_the_rows_and_rows_to_the_network(place, target):
    with FakeTensorMode(allow_non_fake_inputs=True):
        source = as_source(arrays(place))
        batch = read_batch(source, torch.tensor([4, 1]), target)
        assert [part.device for part in batch.content] == [target, target]
        assert [tuple(part.shape) for part in batch.content] == [(2, 2), (2,)]
        assert batch.ids.device == CPU
        assert {part.device for part in source.read(torch.tensor([0]))} == {CPU}
        assert source.labels(torch.tensor([0, 5])).device == CPU
        (only,) = batches(Rows.all_of(source), 6, target)
        assert only.content[0].device == target


@pytest.mark.parametrize("ids", [[0, 9], [1], [8]])
def test_rows_of_two_sources_meet_on_the_network_s_device(ids):
    meta = torch.device("meta")
    joined = JoinedSource(as_source(arrays(CPU)), as_source(arrays(CPU)))
    assert [part.device for part in read_batch(joined, torch.tensor(ids), meta).content] == [meta, meta]


def test_what_is_gathered_is_what_indexing_gives():
    inputs, labels = torch.randn(7, 3), torch.arange(7)
    found = gathered((inputs, labels), torch.tensor([5, 0, 5]), CPU)
    assert torch.equal(found[0], inputs[[5, 0, 5]]) and found[1].tolist() == [5, 0, 5]


def test_nothing_is_pinned_without_an_accelerator():
    assert not pins(CPU)
    assert not pins(torch.device("meta"))
    assert pins(ACCELERATOR) == (torch.accelerator.is_available() and ACCELERATOR.type == "cuda")


def test_content_keeps_its_form_and_what_is_no_tensor():
    found = moved({"x": [torch.ones(1), "word"], "n": 3}, torch.device("meta"))
    assert found["x"][0].is_meta and found["x"][1] == "word" and found["n"] == 3
    assert type(found["x"]) is tuple


@pytest.mark.gpu
def test_rows_on_an_accelerator_are_read_from_there():
    device = torch.accelerator.current_accelerator()
    inputs, labels = torch.randn(7, 3), torch.arange(7)
    for place in (CPU, device):
        source = as_source((inputs.to(place), labels.to(place)))
        batch = read_batch(source, torch.tensor([5, 0]), device)
        assert batch.content[0].device.type == device.type
        assert torch.equal(batch.content[0].cpu(), inputs[[5, 0]])
        assert torch.equal(source.read(torch.tensor([5, 0]))[0], inputs[[5, 0]])
