import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from excise import errors, store
from excise.cli import tables
from excise.data.rows import as_source
from excise.masks import Mask
from excise.networks import tiny_resnet
from excise.recipes import RECIPES
from excise.train.plan import TrainPlan
from tests.cli import mine
from tests.cli.project import tree


class Bomb:
    """Unpickling it creates a file."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def text(name, content):
    return lambda: Path(name).write_text(content, encoding="utf-8")


def raw(name, content):
    return lambda: Path(name).write_bytes(content)


def array(values):
    return lambda: np.save("ids.npy", values)


def weights(change):
    """Write the network's weights after a change."""

    def prepare():
        state = store.read_weights(Path("w.safetensors"))
        store.write_tensors(Path("w.safetensors"), change(state))

    return prepare


def pipe():
    os.mkfifo("pipe")


def cut():
    Path("w.safetensors").write_bytes(Path("w.safetensors").read_bytes()[:-40])


def mask_of_another():
    Mask.full(mine.unlike()).save("mask.safetensors")


def digits_of_cifar():
    Path("data/cifar10").mkdir(parents=True)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        Path("data/cifar10", name).write_bytes(b"")


class Bad(NamedTuple):
    """A mistake: what lies there, what is typed, and the message it must get."""

    message: str
    words: tuple
    prepare: Callable
    command: str
    changes: dict


def bad(message, *words, prepare=lambda: None, command="unlearn", **changes):
    return Bad(message, words, prepare, command, changes)


INSIDE = r"the data has rows 0 to 199"
BAD = {
    # ids
    "ids missing": bad(r"--forget: expected a file of row ids at no\.txt, found none", forget="no.txt"),
    "ids empty": bad(r"forget: expected at least one row, found none", prepare=text("ids.txt", "\n# none\n")),
    "ids negative": bad(
        r"--forget: found 2 ids that are negative \(at positions 1, 2 of 3\); ids are counted from 0 to 199",
        prepare=text("ids.txt", "3\n-1\n-7\n"),
    ),
    "ids repeated": bad(
        r"--forget: found 1 ids that were given before \(at position 2 of 3\); give each row once",
        prepare=text("ids.txt", "3, 4, 3"),
    ),
    "ids out of range": bad(rf"found 1 ids that are out of range \(at position 1 of 2\); {INSIDE}", forget="high.txt"),
    "ids words": bad(
        r"--forget: expected integers, row ids from 0 to 199; found something else in line 2 of ids\.txt",
        prepare=text("ids.txt", "3\nAlice\n"),
    ),
    "ids floats": bad(r"something else in line 1 of ids\.txt", prepare=text("ids.txt", "3.0\n")),
    "ids with underscores": bad(r"something else in line 1 of ids\.txt", prepare=text("ids.txt", "1_2\n")),
    "ids signs only": bad(r"something else in line 3 of ids\.txt", prepare=text("ids.txt", "1\n2\n-\n")),
    "ids huge": bad(r"something else in line 2 of ids\.txt", prepare=text("ids.txt", f"3\n{10**30}\n")),
    "ids as large as 18 digits": bad(INSIDE, prepare=text("ids.txt", "9" * 18)),
    "ids no text": bad(r"--forget: ids\.txt cannot be read as row ids: .*utf-8", prepare=raw("ids.txt", b"\xff\xfe1")),
    "ids in other digits": bad(r"something else in line 2 of ids\.txt", prepare=text("ids.txt", "1\n\u0663\n")),
    "ids a pipe": bad(r"--forget: pipe cannot be read as row ids: .*a pipe or a device", prepare=pipe, forget="pipe"),
    "ids a device": bad(r"/dev/zero cannot be read as row ids: .*a pipe or a device", forget="/dev/zero"),
    "ids a name that is too long": bad(r"cannot be read as row ids: .*File name too long", forget="x" * 300),
    "ids more than twice the rows": bad(
        r"found 400 ids that were given before \(at positions", prepare=text("ids.txt", "7 " * 402 + "Alice")
    ),
    "ids a folder": bad(r"--forget: \. cannot be read as row ids: .*directory", forget="."),
    "ids all rows": bad(
        r"forget: all 200 training rows; nothing is left to retain", prepare=text("ids.txt", str([*range(200)])[1:-1])
    ),
    "npy flags of wrong length": bad(
        r"a boolean mask needs one value for each of the 200 rows, found 199",
        prepare=array(np.ones(199, dtype=bool)),
        forget="ids.npy",
    ),
    "npy flags all false": bad(
        r"forget: expected at least one row, found none", prepare=array(np.zeros(200, dtype=bool)), forget="ids.npy"
    ),
    "npy flags all true": bad(r"nothing is left to retain", prepare=array(np.ones(200, dtype=bool)), forget="ids.npy"),
    "npy floats": bad(
        r"found values of type float64; convert them to integers", prepare=array(np.ones(3)), forget="ids.npy"
    ),
    "npy two axes": bad(
        r"in one dimension; found shape \(3, 1\)", prepare=array(np.ones((3, 1), dtype=int)), forget="ids.npy"
    ),
    "npy objects": bad(
        r"--forget: ids\.npy cannot be read as row ids: .*allow_pickle=False",
        prepare=lambda: np.save("ids.npy", np.array([Bomb()], dtype=object), allow_pickle=True),
        forget="ids.npy",
    ),
    "npy a bare pickle": bad(
        r"--forget: ids\.npy cannot be read as row ids",
        prepare=raw("ids.npy", pickle.dumps(Bomb())),
        forget="ids.npy",
    ),
    "npy nothing in it": bad(r"ids\.npy cannot be read as row ids", prepare=raw("ids.npy", b""), forget="ids.npy"),
    # weights
    "weights missing": bad(r"expected weights at no\.safetensors, found no such file", weights="no.safetensors"),
    "weights of another network": bad(
        r"the weights in w\.safetensors do not fit Sequential \(5 differences\):\n"
        r"  missing 3\.weight \(3,\)\n  missing 3\.bias \(3,\)\n"
        r"  0\.weight: expected \(16, 8\), found \(32, 8\)\n.*give the weights of this very architecture",
        model="mine:unlike",
    ),
    "weights cut short": bad(r"w\.safetensors is not a readable safetensors file", prepare=cut),
    "weights of code": bad(
        r"w\.pt cannot be read without running code from it, or is damaged \(.*save the state dict alone",
        prepare=lambda: torch.save({"0.weight": Bomb()}, "w.pt"),
        weights="w.pt",
    ),
    "weights of another suffix": bad(
        r"expected weights as \.safetensors, or \.pt/\.pth holding only tensors; found 'w\.bin'; convert with",
        prepare=raw("w.bin", b"x"),
        weights="w.bin",
    ),
    "weights a folder": bad(r"expected weights as \.safetensors.*found ''", weights="."),
    "weights a folder of the right name": bad(
        r"d\.safetensors is not a readable safetensors file",
        prepare=lambda: Path("d.safetensors").mkdir(),
        weights="d.safetensors",
    ),
    "weights a whole checkpoint": bad(
        r"w\.pt holds a dict, expected a state dict of tensors; save model\.state_dict\(\) alone",
        prepare=lambda: torch.save({"state_dict": {"a": torch.zeros(1)}, "epoch": 3}, "w.pt"),
        weights="w.pt",
    ),
    "weights not finite": bad(
        r"the weights in w\.safetensors hold values that are not finite, first in '0\.weight'",
        prepare=weights(lambda state: {**state, "0.weight": state["0.weight"] * torch.nan}),
    ),
    # networks
    "model without a colon": bad(
        r"--model, without a colon: expected one of resnet18, .*; found 'resnet19'; did you mean 'resnet18'\?",
        model="resnet19",
    ),
    "model a file": bad(r"--model: expected pkg\.mod:name .*, found 'mine\.py:make'", model="mine.py:make"),
    "model without a name": bad(r"--model: expected pkg\.mod:name .*, found 'mine:'", model="mine:"),
    "model no module": bad(r"--model: no module 'nine'; looked in .*work and where Python looks", model="nine:make"),
    "model no attribute": bad(r"--model: mine has no 'mke'; did you mean 'make'\?", model="mine:mke"),
    "model not callable": bad(
        r"--model: expected mine:number to be a callable or a network, found int", model="mine:number"
    ),
    "model raises": bad(
        r"--model: mine:raises\(\) raised ValueError: the disk is on fire; correct it there", model="mine:raises"
    ),
    "model wants arguments": bad(
        r"--model: mine:needs\(\) raised TypeError: needs\(\) missing 1 required positional argument: 'width'",
        model="mine:needs",
    ),
    "model quits": bad(r"--model: mine:quits\(\) raised SystemExit: 0", model="mine:quits"),
    "model no network": bad(r"--model: expected mine:text\(\) to give a network, it gave str", model="mine:text"),
    "model without parameters": bad(
        r"expected a network with parameters, found none in Flatten; pass the trained module itself",
        model="mine:barren",
    ),
    "model frozen": bad(r"all 4 parameters of Sequential are frozen \(requires_grad is False\)", model="mine:frozen"),
    "module that does not parse": bad(
        r"--model: importing broken raised SyntaxError: .*broken\.py, line 1",
        prepare=text("broken.py", "def make(:\n"),
        model="broken:make",
    ),
    "module that needs another": bad(
        r"--model: importing wants raised ModuleNotFoundError: No module named 'no_such_thing'",
        prepare=text("wants.py", "import no_such_thing\n"),
        model="wants:make",
    ),
    # data
    "data unknown": bad(
        r"data set: expected one of the names below, found 'digit'; did you mean 'digits'\?\n  digits ", data="digit"
    ),
    "data missing": bad(
        r"cifar10: found none of its files\. Expected:\n  data_batch_1\.bin\n.*Searched:\n  data/cifar-10-batches-bin\n"
        r".*To get them: .*--data-root .*EXCISE_DATA",
        data="cifar10",
    ),
    "data incomplete": bad(
        r"cifar10: expected all its files in .*found data_batch_1\.bin, test_batch\.bin without data_batch_2\.bin",
        prepare=digits_of_cifar,
        data="cifar10",
    ),
    "data root missing": bad(
        r"data_root: expected a folder, found nothing .* at nowhere", data="cifar10", data_root="nowhere"
    ),
    "data no attribute": bad(r"--data: mine has no 'trian'; did you mean 'train'\?", data="mine:trian"),
    "data raise": bad(r"--data: mine:raises\(\) raised ValueError: the disk is on fire", data="mine:raises"),
    "data labels out of range": bad(
        r"forget: 10 labels lie outside 0 to 2, the classes of the network's head \(at positions 0, 1, 2, 3, 4 of 10\)",
        data="mine:high",
    ),
    "data labels no integers": bad(r"expected one integer label a row, found torch\.float32", data="mine:real"),
    "data of another shape": bad(r"Sequential could not be run on forget rows: mat1 and mat2 shapes", data="mine:wide"),
    "data of unequal lengths": bad(
        r"inputs and labels of one length, found arrays of lengths \[200, 199\]", data="mine:uneven"
    ),
    "data empty": bad(r"expected training rows, found an empty data set", data="mine:empty", forget="none.txt"),
    "data that only iterate": bad(
        r"map-style dataset with __len__ and __getitem__; found .*iterator", data="mine:endless"
    ),
    "data no rows at all": bad(r"a map-style dataset .*; found int", data="mine:number"),
    # recipes and settings
    "recipe unknown": bad(r"--recipe: expected one of DEL, .*; found 'DELL'; did you mean 'DEL'\?", recipe="DELL"),
    "setting unknown": bad(
        r"--set: expected key=value, once for each key of DEL \(budget_fraction, .*\); found 'epoch=3'; "
        r"did you mean 'epochs'\?",
        "--set",
        "epoch=3",
    ),
    "setting without a value": bad(r"--set: expected key=value.*; found 'epochs'", "--set", "epochs"),
    "setting given twice": bad(r"once for each key.*found 'lr=2'", "--set", "lr=1", "--set", "lr=2"),
    "setting of a recipe that has none": bad(r"of Nothing \(it has none\)", "--set", "lr=2", recipe="Nothing"),
    "setting of the wrong kind": bad(
        r"--set epochs=many: Expected `int`, got `str`, which is what DEL takes as epochs", "--set", "epochs=many"
    ),
    "setting of the wrong word": bad(r"--set granularity=row: Invalid enum value 'row'", "--set", "granularity=row"),
    "setting out of range": bad(
        r"budget_fraction: expected a fraction between 0 and 1, found 1\.5", "--set", "budget_fraction=1.5"
    ),
    "setting not finite": bad(r"lr: expected a finite number of at least 0, found nan", "--set", "lr=nan"),
    "setting zero epochs": bad(r"epochs: expected an integer of at least 1, found 0", "--set", "epochs=0"),
    "setting a reduction malformed": bad(
        r"reduction: expected mean or top:SHARE such as top:0\.1, found 'top'", "--set", "reduction=top"
    ),
    "setting no such head": bad(r"no module or parameter named 'fc'", "--set", "head=fc"),
    "setting no such initial weights": bad(r"expected weights at no\.safetensors", "--set", "initial=no.safetensors"),
    "recipe without what it needs": bad(r"--recipe: Retrain needs plan; give it as --set plan=…", recipe="Retrain"),
    # masks
    "mask missing": bad(
        r"--mask: expected a mask of `excise localize` at no\.safetensors, found no such file", mask="no.safetensors"
    ),
    "mask no mask": bad(r"w\.safetensors is not a mask written by excise; make one with", mask="w.safetensors"),
    "mask of another network": bad(
        r"the mask does not fit Sequential:\n  3\.weight: in the mask, not in the network\n.*"
        r"cut it from scores of this very network",
        prepare=mask_of_another,
        mask="mask.safetensors",
    ),
    # plans
    "plan missing": bad(r"--plan: expected a file at no\.toml, found none", plan="no.toml"),
    "plan of another kind": bad(
        r"--plan: expected a \.toml or \.json file, or pkg\.mod:name; found 'plan\.yaml'", plan="plan.yaml"
    ),
    "plan unknown field": bad(
        r"--plan: plan\.toml: Object contains unknown field `epoch`; a plan has the fields epochs, lr, ",
        prepare=text("plan.toml", "epoch = 3\nlr = 0.1\n"),
        plan="plan.toml",
    ),
    "plan lacks a field": bad(
        r"missing required field `lr`", prepare=text("plan.toml", "epochs = 3\n"), plan="plan.toml"
    ),
    "plan out of range": bad(
        r"--plan: plan\.toml: lr: expected a finite number of at least 0, found -0\.1",
        prepare=text("plan.toml", "epochs = 3\nlr = -0.1\n"),
        plan="plan.toml",
    ),
    "plan deep": bad(
        r"--plan: plan\.toml .*nested too deeply", prepare=text("plan.toml", "a=" + "[" * 9999), plan="plan.toml"
    ),
    "plan with a field twice": bad(
        r"--plan: plan\.json .*the key 'lr' is given twice",
        prepare=text("plan.json", '{"epochs": 3, "lr": 0.1, "lr": 9.0}'),
        plan="plan.json",
    ),
    "plan no TOML": bad(
        r"--plan: plan\.toml cannot be read as TOML", prepare=text("plan.toml", "epochs: 3"), plan="plan.toml"
    ),
    "plan no text": bad(r"--plan: plan\.json is not JSON", prepare=raw("plan.json", b"\xff\xfe"), plan="plan.json"),
    "plan a folder": bad(
        r"--plan: p\.toml is not a readable file: .*directory", prepare=lambda: Path("p.toml").mkdir(), plan="p.toml"
    ),
    "plan no plan": bad(
        r"--plan: expected mine:number to be an excise\.TrainPlan or train\(.*found int", plan="mine:number"
    ),
    # machine and directories
    "device unknown": bad(r"--device: 'banana' cannot be used here: Expected one of cpu, ", device="banana"),
    "device that holds no numbers": bad(r"--device: 'meta' cannot be used here", device="meta"),
    "out a file": bad(r"expected a directory for --out, found a file at plan\.toml; choose another", out="plan.toml"),
    "out below a file": bad(r"expected a directory for --out, found a file at .*plan\.toml", out="plan.toml/a/b"),
    "out with strangers in it": bad(
        r"expected an empty or new directory for --out, found \. with '.*' in it; choose another", out="."
    ),
    # localize
    "budget above 1": bad(r"--budget: expected a fraction between 0 and 1, found 1\.5", command="localize", budget=1.5),
    "budget negative": bad(r"--budget: expected a fraction .* found -0\.5", command="localize", budget=-0.5),
    "budget not a number": bad(r"--budget: expected a fraction .* found nan", command="localize", budget="nan"),
    "budget too small": bad(
        r"a budget of 1 weights does not pay for the first channel, of '.*' \(\d+ weights\); raise the budget",
        command="localize",
        budget=0.004,
    ),
    "reduction malformed": bad(
        r"reduction: expected mean or top:SHARE such as top:0\.1, found 'top:'", command="localize", reduction="top:"
    ),
    "reduction out of range": bad(
        r"share: expected a fraction between 0 and 1, found 3\.0", command="localize", reduction="top:3"
    ),
    "granularity unknown": bad(
        r"--granularity: expected one of weight, channel, module; found 'row'", command="localize", granularity="row"
    ),
    "criterion unknown": bad(
        r"--criterion: expected one of weight-gradient, .*; found 'gradients'; did you mean 'gradient'\?",
        command="localize",
        criterion="gradients",
    ),
}


@pytest.mark.parametrize("mistake", BAD.values(), ids=BAD)
def test_a_mistake_is_one_message_and_nothing_is_written(project, unlearn, localize, mistake):
    (project / "high.txt").write_text("3 200")
    (project / "none.txt").write_text("0")
    mistake.prepare()
    before = tree(project)
    call = {"unlearn": unlearn, "localize": localize}[mistake.command]
    done = call(*mistake.words, **mistake.changes)
    assert done.code == 2, done.err
    assert re.search(f"^excise: .*{mistake.message}", done.err, re.DOTALL | re.MULTILINE), done.err
    assert done.err.count("excise: ") == 1 and "Traceback" not in done.err and done.out == ""
    assert "an error that excise did not foresee" not in done.err
    assert tree(project) == before
    again = call(*mistake.words, "--json", **mistake.changes)
    assert again.code == 2 and again.err == done.err
    assert again.json == {"error": done.err.rpartition("excise: ")[2].removesuffix("\n"), "exit_code": 2}
    assert tree(project) == before and not (project / "ran").exists()


def test_there_are_many_mistakes():
    assert len(BAD) >= 40


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0\n199\n7\n", [0, 7, 199]),
        ("  3, 1\t2 # the last three\n\n# none here 9\n4,5,", [1, 2, 3, 4, 5]),
        ("\ufeff12\r\n13\r\n", [12, 13]),  # as Windows writes it
        ("+4 007", [4, 7]),
    ],
)
def test_ids_are_read_from_text(project, content, expected):
    (project / "ids.txt").write_text(content, encoding="utf-8", newline="")
    assert tables.read_ids(Path("ids.txt"), 200).tolist() == expected


@pytest.mark.parametrize("values", [np.array([5, 3]), np.array([3, 5], dtype=np.uint8), np.arange(200) % 100 == 3])
def test_ids_are_read_from_an_array(project, values):
    np.save("ids.npy", values)
    assert tables.read_ids(Path("ids.npy"), 200).tolist() == ([3, 5] if values.dtype != bool else [3, 103])


@pytest.mark.parametrize("words", ["plan.toml", "plan.json", "own:plan"])
def test_a_plan_is_a_file_or_an_object(project, words):
    expected = TrainPlan(epochs=200, optimizer="adam", lr=0.02, schedule="constant", batch_size=200)
    (project / "plan.json").write_bytes(
        b'{"epochs": 200, "optimizer": "adam", "lr": 0.02, "schedule": "constant", "batch_size": 200}'
    )
    (project / "own.py").write_text(f"import excise\nplan = excise.{expected!r}\n")
    assert tables.read_plan(words) == expected
    assert tables.plan_values(expected)["epochs"] == 200


def test_a_plan_may_be_the_users_own_code(project):
    found = tables.read_plan("mine:make")
    assert found.__name__ == "make" and tables.plan_values(found) is None and tables.read_plan(None) is None


def test_a_built_in_network_takes_its_sizes_from_built_in_data(project):
    train, test, found = tables.read_data("digits", None, None)
    assert len(as_source(train)) == 1280 and len(as_source(test)) == 517
    fresh, network = tables.build_model("tiny-resnet", found)
    expected = {name: value.shape for name, value in tiny_resnet(num_classes=10, in_channels=1).state_dict().items()}
    for one in (fresh(), network):
        assert {name: value.shape for name, value in one.state_dict().items()} == expected


def test_test_rows_of_ones_own_win_over_those_of_a_built_in_set(project):
    assert len(as_source(tables.read_data("digits", "mine:test", None)[1])) == 150


def test_a_network_may_be_an_object(project):
    (project / "own.py").write_text("import mine\nnetwork = mine.make()\n")
    fresh, network = tables.build_model("own:network", None)
    assert fresh is None and isinstance(network, torch.nn.Module)


@pytest.mark.parametrize("kind", ["function", "class", "object", "pair", "partial"])
def test_data_may_be_made_or_be_there(project, kind):
    (project / "own.py").write_text(
        "import functools, mine\n"
        "function, object, pair, partial = mine.train, mine.Listed(), mine.train(), functools.partial(mine.blobs, 0, 200)\n"
        "from mine import Listed\nglobals()['class'] = Listed\n"
    )
    train, test, known = tables.read_data(f"own:{kind}", None, None)
    assert len(as_source(train)) == 200 and test is known is None


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_weights_saved_in_a_wrapper_or_by_torch_load(project, prefix, suffix):
    state = store.read_weights(Path("w.safetensors"))
    wrapped = {prefix + name: value for name, value in state.items()}
    path = Path(f"wrapped{suffix}")
    if suffix == ".safetensors":
        store.write_tensors(path, wrapped)
    else:
        torch.save(wrapped, path)
    problem = tables.read_problem(
        model="mine:make", weights=path, data="mine:train", forget=Path("ids.txt"), device="cpu"
    )
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, state[name])


def test_a_problem_says_what_it_was_read_from(project):
    problem = tables.read_problem(
        model="mine:make", weights=Path("w.safetensors"), data="mine:train", forget=Path("ids.txt"), device="cpu"
    )
    assert problem.request["weights_sha256"] == store.file_digest(Path("w.safetensors"))
    assert problem.request["num_rows"] == 200 and problem.request["num_forget"] == 10
    assert problem.request["forget_commitment"] == store.commitment(problem.split.forget.ids)
    assert problem.split.forget.ids.tolist() == list(range(0, 200, 20))


def test_nearest_helps_only_where_it_can():
    assert tables.nearest("DELL", RECIPES) == "; did you mean 'DEL'?"
    assert tables.nearest("zzz", RECIPES) == ""


def test_memory_that_runs_out_in_the_users_code_is_no_mistake_of_words(project):
    with pytest.raises(MemoryError):
        tables.build_model("mine:bottomless", None)
    with pytest.raises(errors.BadRequest, match="raised SystemExit"):
        tables.build_model("mine:quits", None)
