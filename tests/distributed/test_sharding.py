import pytest
import torch
from torch import nn

from excise import errors
from excise.distributed import Processes, require_shardable, shard_of, sharded, sharding
from excise.distributed.sharding import Shard
from tests.distributed import requests
from tests.distributed.ranks import together
from tests.distributed.test_processes import require_equal

NAMES = {2: tuple(name for name in requests.asked() if name != "PGU"), 4: ("DEL", "L1Sparse", "mixed")}
TWO = Processes(0, 2, "fsdp")


@pytest.mark.parametrize("size", [2, 4])
def test_networks_held_in_parts_come_to_what_one_process_does(size):
    found = together(size, requests.everything_sharded, NAMES[size], strategy="fsdp")
    require_equal([own["unlearned"] for own in found], requests.all_of_them(requests.ALONE, NAMES[size]))
    require_equal([own["grouped"] for own in found], requests.grouped(requests.ALONE))
    require_equal([own["of nothing"] for own in found], requests.of_nothing(requests.ALONE))
    shapes = {2: [((3, 3), 0, [0.0]), ((2, 3), 3, [9.0])]}
    shapes[4] = [((2, 3), 0, [0.0]), ((2, 3), 2, [6.0]), ((1, 3), 4, [12.0]), ((0, 3), 5, [])]
    assert [own["held"]["shapes"] for own in found] == shapes[size]
    alone = requests.scored(requests.ALONE)
    for name in ("weight x gradient", "gradient"):
        assert [own["scored"][name]["digests"] for own in found] == [alone[name]["digests"]] * size
        here = [own["scored"][name]["here"] for own in found]
        assert sum(here) == alone[name]["here"] and max(here) < 0.7 * alone[name]["here"]  # nobody holds them all
    for own in found:
        assert (
            own["refused"] == "Project: a projection needs whole weights, and fsdp divides them; use the strategy ddp"
        )
        assert "not finite" in own["scored"]["broken"]
        assert own["held"]["written back"]
        assert own["held"]["plain"] is None
        assert (
            own["broken"]["trespass"]
            == "Trespasses: something outside the mask moved in a shard; the result was dropped"
        )
        assert "sums over weights by step.total" in own["broken"]["past the engine"]
        assert own["broken"]["diverged"]


def test_a_shard_takes_its_rows_of_an_entry_and_of_one_that_broadcasts():
    shard = Shard(torch.zeros(2, 3), 1)
    assert shard.of(torch.arange(12).reshape(4, 3)).tolist() == [[3, 4, 5], [6, 7, 8]]
    assert shard.of(torch.tensor([[False], [True], [False], [True]])).tolist() == [[True], [False]]
    assert shard.of(torch.tensor([[True]])).tolist() == [[True], [True]]
    assert shard_of(torch.zeros(2)) is None


@pytest.mark.parametrize("processes", [Processes.alone(), Processes(0, 2)])
def test_a_network_is_its_own_twin_where_nothing_is_sharded(processes):
    model = nn.Linear(2, 2)
    with sharded(model, processes) as twin:
        assert twin.network is model
        twin.write_back_()


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(Scaled()),
            "'0.scale' has no rows, and cannot be divided between processes; use the strategy ddp",
        ),
        (nn.Sequential(nn.Embedding(3, 2, sparse=True)), "'0' has a sparse gradient, and cannot be divided"),
    ],
)
def test_what_cannot_be_divided_is_refused(model, message):
    require_shardable(model, Processes(0, 2))
    with pytest.raises(errors.UnsupportedModel, match=message):
        require_shardable(model, TWO)


class Block(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)


def test_groups_are_whole_blocks_inner_ones_first(monkeypatch):
    inner = Block(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    outer, small = Block(nn.Sequential(inner), nn.Linear(4, 8, bias=False)), Block(nn.Linear(1, 1))
    model = nn.Sequential(outer, small, nn.Linear(4, 30))
    monkeypatch.setattr(sharding, "GROUP_WEIGHTS", 64)
    assert sharding._groups(model) == [outer]
    monkeypatch.setattr(sharding, "GROUP_WEIGHTS", 63)
    assert sharding._groups(model) == [inner, outer]
    monkeypatch.setattr(sharding, "GROUP_WEIGHTS", 32)
    assert sharding._groups(model) == [inner, outer, small]
    inner.layers[0].weight = inner.layers[1].weight
    assert sharding._groups(model) == []
