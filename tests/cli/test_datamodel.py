import pytest
import torch

from excise.attribution import Datamodel
from excise.oracles import Bank
from tests.cli.project import tree, typed

WORDS = {
    "--model": "mine:make",
    "--data": "mine:train",
    "--test": "mine:test",
    "--plan": "quick.toml",
    "--out": "d.safetensors",
    "--networks": 4,
    "--bank": "nets",
}
KEYS = {"out", "by", "networks", "rows", "shrink", "rounding_error", "trained_rows", "seconds", "num_bytes", "score"}


@pytest.fixture
def datamodel(project, excise):
    (project / "quick.toml").write_text("epochs = 2\nlr = 0.1\nbatch_size = 100\n")

    def call(*words, **changes):
        return excise("datamodel", *typed(WORDS, **changes), *words)

    return call


def test_the_file_is_written_and_described_and_people_are_warned(project, datamodel):
    done = datamodel("--json", score=4)
    assert done.code == 0 and done.json.keys() == KEYS
    found = Datamodel.load(project / "d.safetensors")
    assert done.json["rows"] == {"train": 200, "test": 150} and found.made.num_models == 4
    assert done.json["shrink"] == {"own": found.shrink.own, "other": found.shrink.other}
    assert done.json["rounding_error"] == 0 and done.json["trained_rows"] == 4 * 100 * 2
    assert done.json["score"]["test"]["num_models"] == 4 and set(done.json["score"]) == {"train", "test"}
    assert [entry.kind for entry in Bank(project / "nets").entries()] == ["half"] * 8
    before = tree(project)
    again = datamodel()
    assert again.code == 0 and "d.safetensors already holds this datamodel; nothing was trained." in again.out
    assert "4 networks on halves" in again.out and "have seen every row" in again.out
    assert tree(project) == before
    other = datamodel(seed=1)
    assert other.code == 2 and "d.safetensors holds the datamodel of another request (seed)" in other.err
    wider = datamodel(test="mine:many")
    assert wider.code == 2 and "test: 149850 ids" not in wider.err and "none of the 150 rows" in wider.err
    found = datamodel("--as-found")
    assert found.code == 2 and "holds the datamodel of another request (--as-found)" in found.err
    assert tree(project) == before
    raw = datamodel("--json", "--as-found", out="raw.safetensors")
    assert raw.json["shrink"] == {"own": 1.0, "other": 1.0} and raw.json["score"] == {}


def test_half_the_bytes_are_rounded_and_a_killed_command_goes_on(project, datamodel):
    whole, half = datamodel("--json").json, datamodel("--json", "--float16", out="h.safetensors")
    assert half.json["num_bytes"] < 0.75 * whole["num_bytes"] and 0 < half.json["rounding_error"] < 0.01
    assert "of which 0 now" in half.err
    one, other = Datamodel.load(project / "d.safetensors"), Datamodel.load(project / "h.safetensors")
    ids = torch.tensor([5])
    assert (one.effects(ids, ids) - other.effects(ids, ids)).abs().max() <= 2 * half.json["rounding_error"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "guess"}, "by: expected one of means, sparse, found 'guess'"),
        ({"networks": 3}, "num_models: expected an even number"),
        ({"model": "mine:network"}, "--model: mine has no 'network'"),
        ({"plan": "none.toml"}, "--plan: expected a file at none.toml, found none"),
        ({"out": "d.txt"}, "--out: expected a .safetensors file to write, found 'd.txt'"),
        ({"score": 2}, "score: expected an even number of networks, 4 or more, found 2"),
        ({"data": "mine:wide"}, "could not be run on train rows"),
        ({"at_once": 2}, "--at-once: says how many jobs a cluster is given"),
    ],
)
def test_a_mistake_is_one_message_and_writes_nothing(project, datamodel, changes, message):
    done = datamodel(**changes)
    assert done.code == 2 and message in done.err
    assert not (project / "d.safetensors").exists()


def test_a_network_itself_cannot_be_built_again(project, datamodel):
    (project / "made.py").write_text("import mine\nnetwork = mine.make()\n")
    done = datamodel(model="made:network")
    assert done.code == 2 and "--model: expected a callable that builds an untrained network each time" in done.err
