"""Sums made and carried over a request by commands alone, and a request that names their file."""

import json

import pytest
import torch

from excise import params, store
from excise.curvature import Moments
from tests.cli import mine

ALL = ("--model", "mine:make", "--weights", "w.safetensors", "--data", "mine:train")
NEXT = "next.safetensors"
PGU = {"recipe": "PGU"}
SHORT = ("--set", "epochs=2", "--set", "gamma=0.6")


def made(excise, *words, out="moments.safetensors"):
    return excise("moments", *ALL, "--out", out, *words)


def test_a_request_by_moments_and_the_next_one(project, excise, unlearn):
    done = made(excise, "--json").json
    moments = Moments.load(project / "moments.safetensors")
    assert list(done) == ["out", "num_rows", "network", "digest", "sha256", "bytes", "layers"]
    assert done["num_rows"] == len(mine.train()[0]) and done["digest"] == moments.digest
    assert done["layers"] == {name: [1, one.shape[1]] for name, one in moments.matrices.items()}
    assert done["bytes"] == moments.num_bytes == sum(8 * size**2 for _, size in done["layers"].values())

    run = unlearn("--set", "moments=moments.safetensors", *SHORT, "--json", **PGU)
    assert run.code == 0, run.err
    record = json.loads((project / "run" / "run.json").read_text())
    assert record["request"]["files_sha256"] == {"moments": store.file_digest(project / "moments.safetensors")}
    assert record["request"]["settings"]["method"]["moments"] == done["digest"]

    carried = made(
        excise,
        "--carry",
        "moments.safetensors",
        "--forget",
        "ids.txt",
        "--into",
        "run/model.safetensors",
        out="next.safetensors",
    )
    assert carried.code == 0 and "moments.safetensors still holds the rows of the request: remove it" in carried.out
    found = Moments.load(project / "next.safetensors")
    after = mine.make()
    after.load_state_dict(store.read_weights(project / "run" / "model.safetensors"))
    assert found.network == params.model_digest(after) and found.num_rows == moments.num_rows - 10
    inputs = mine.train()[0]
    kept = inputs[~torch.isin(torch.arange(len(inputs)), torch.arange(0, 200, 20))].flatten(1).double()
    assert torch.allclose(found.matrices["0.weight"][0], kept.T @ kept, rtol=1e-6)

    (project / "more.txt").write_text("3 7\n")
    old = unlearn("--set", "moments=moments.safetensors", *SHORT, out="b", weights="run/model.safetensors", **PGU)
    assert old.code == 2 and "moments: expected those of this network" in old.err
    new = unlearn(
        "--set", "moments=next.safetensors", *SHORT, out="b", weights="run/model.safetensors", forget="more.txt", **PGU
    )
    assert new.code == 0, new.err


def test_other_layers_and_words_for_people(project, excise):
    done = made(excise, "--layers", "2")
    assert done.out.startswith(
        "Second moments over 200 rows of what 1 layers are given.\nWrote moments.safetensors, 0.0 MiB"
    )
    assert list(Moments.load(project / "moments.safetensors").matrices) == ["2.weight"]


@pytest.mark.parametrize(
    ("words", "out", "said"),
    [
        (("--carry", "m.safetensors"), "m.safetensors", "--carry, --forget and --into go together"),
        (("--data", "mine:empty"), "m.safetensors", "--data: expected at least one row, found none in mine:empty"),
        (("--data", "mine:wide"), "m.safetensors", "Sequential could not be run on training rows"),
        ((), "moments.pt", "--out: expected a .safetensors file to write, found 'moments.pt'"),
        ((), "w.safetensors", "--out: w.safetensors is there already; give another name, or remove it"),
        (
            ("--layers", "0,9"),
            "m.safetensors",
            "--layers: no linear or convolutional layer is named '9'; there are 0, 2",
        ),
        (
            ("--carry", "m", "--forget", "ids.txt", "--into", "w.safetensors", "--layers", "0"),
            "m.safetensors",
            "--layers: those of --carry are carried over; leave it out",
        ),
        (
            ("--carry", "w.safetensors", "--forget", "ids.txt", "--into", "w.safetensors"),
            "m.safetensors",
            "not a file written by",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(project, excise, words, out, said):
    done = made(excise, *words, out=out)
    assert done.code == 2 and said in done.err
    assert not (project / "m.safetensors").exists()


def test_a_file_that_is_not_there_is_refused(project, unlearn):
    done = unlearn("--set", "moments=none.safetensors", **PGU)
    assert done.code == 2 and "none.safetensors" in done.err and not (project / "run").exists()
