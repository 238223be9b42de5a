"""Masks and end states of the published DEL reference, to the bit and to 1e-8."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from excise.data import Split
from excise.localize import Gradient, Magnitude, Mean, Top, WeightGradient
from excise.masks import Mask
from excise.methods import Ascend, Contrast, Dampen, Finetune, Influence, Reset, Sequence, Sparsify, Widened
from excise.params import named_parameters
from excise.train import Engine, Task, TrainPlan

HERE = Path(__file__).parent
SETS = ("set0", "set1")
NETS = ("convnet", "vit")
CRITERIA = {
    "grad": Gradient(accumulate="batch-means", batch_size=32),
    "weight": Magnitude(),
    "weighted_grad": WeightGradient(accumulate="batch-means", batch_size=32),
}
REDUCTIONS = {"convnet": Top(0.1, of="layer"), "vit": Mean()}
HEADS = {"convnet": "fc", "vit": "mlp_head"}
TOLERANCE = 1e-8  # relative, of the largest value of each tensor: the order of float64 sums differs between machines

_spec = importlib.util.spec_from_file_location("golden_networks", HERE / "networks.py")
networks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(networks)


def network(net, state):
    with torch.random.fork_rng():
        model = {"convnet": networks.TinyConvNet, "vit": networks.TinyViT}[net]().double()
    model.load_state_dict(state)
    return model


def problem(which, net):
    data = load_file(HERE / "data.safetensors")
    train, test = (((data["x" + part].float() / 16).double(), data["y" + part].long()) for part in ("", "_test"))
    split = Split(train, forget=data[f"{which}.forget"], test=test)
    assert torch.equal(split.retain.ids, data[f"{which}.retain"])
    trained = network(net, load_file(HERE / which / f"{net}.trained.safetensors"))
    return trained, split


def engine(model, net):
    return Engine(Task(), seed=0, besides=Mask.of_modules(model, [HEADS[net]]))


def reference_mask(which, net, criterion, granularity, budget, model):
    packed = load_file(HERE / which / f"{net}.masks.safetensors")
    prefix = f"{criterion}/{granularity}/{budget}/"
    full = {}
    for name, value in named_parameters(model).items():
        bits = np.unpackbits(packed[prefix + name].numpy(), count=value.numel()).astype(bool)
        full[name] = torch.from_numpy(bits).reshape(value.shape)
    return Mask.from_tensors(full)


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_mask_is_the_references(which, net, criterion):
    model, split = problem(which, net)
    scores = CRITERIA[criterion](model, split)
    for budget in (0.05, 0.1, 0.3, 0.5):
        ours = scores.select(budget_fraction=budget, granularity="weight")
        assert ours == reference_mask(which, net, criterion, "param", budget, model), budget
        ours = scores.select(budget_fraction=budget, reduction=REDUCTIONS[net], partial=True)
        theirs = reference_mask(which, net, criterion, "channel", budget, model)
        assert_equal_but_for_the_cut_row(ours, theirs)


def assert_equal_but_for_the_cut_row(ours, theirs):
    assert ours.num_selected == theirs.num_selected
    differing = []
    for name in ours.names:
        a, b = ours.expand(name), theirs.expand(name)
        if torch.equal(a, b):
            continue
        rows = (a != b).reshape(a.shape[0], -1).any(1).nonzero().flatten().tolist()
        differing += [(name, row) for row in rows]
        for row in rows:
            assert a[row].sum() == b[row].sum()
    assert len(differing) <= 1


def test_whole_channels_are_the_references_mask_without_its_cut_row():
    model, split = problem("set0", "convnet")
    scores = CRITERIA["weighted_grad"](model, split)
    cut = scores.select(budget_fraction=0.3, reduction=REDUCTIONS["convnet"], partial=True)
    whole = scores.select(budget_fraction=0.3, reduction=REDUCTIONS["convnet"])
    rest = cut - whole
    assert (whole - cut).num_selected == 0
    assert sum(1 for name in rest.names if rest.count(name)) == 1
    assert cut.num_selected == int(0.3 * 14490)


MASKED = ("reset_finetune", "finetune_masked", "negrad_plus_masked")
CONSTANT = ("negrad_plus", "negrad_plus_masked", "gradient_ascent")
TRAINED = ("reset_finetune", "finetune", "finetune_masked", "negrad_plus", "negrad_plus_masked", "l1_sparse")
ONE_SHOT = {
    "ssd_a10.0_l1.0": Dampen(selection=10.0, importance="batch-means", batch_size=64, forget_batch_size=32),
    "ssd_a2.0_l1.0": Dampen(selection=2.0, importance="batch-means", batch_size=64, forget_batch_size=32),
    "wfisher_alpha10": Influence(alpha=10.0, mode="reference"),
}
RUNS = (*TRAINED, "gradient_ascent", *ONE_SHOT)


def iterative(name, plan, init):
    if name == "reset_finetune":
        return Sequence((Reset(to=init), Widened(Finetune(plan=plan, buffers="adapt"))))
    if name == "gradient_ascent":
        return Ascend(plan=plan, pace="retain", buffers="adapt", forget_batch_size=32)
    if name == "l1_sparse":
        return Sparsify(plan=plan, kappa=7e-5, buffers="adapt")
    if name.startswith("negrad_plus"):
        return Contrast(plan=plan, alpha=0.99, buffers="adapt", forget_batch_size=32)
    return Finetune(plan=plan, buffers="adapt")


def method_of(name, which, net, info):
    if name in ONE_SHOT:
        return ONE_SHOT[name]
    schedule = "constant" if name in CONSTANT else "cosine"
    lr = info[net]["history"][name]["lr"]
    plan = TrainPlan(epochs=3, lr=lr, schedule=schedule, batch_size=64, shuffle=False, drop_last=True)
    return iterative(name, plan, named_parameters(network(net, load_file(HERE / which / f"{net}.init.safetensors"))))


def run(name, which, net, model, split, info):
    mask = Mask.full(model)
    if name in MASKED:
        mask = reference_mask(which, net, "weighted_grad", "channel", 0.3, model)
    ours = engine(model, net)
    method_of(name, which, net, info).unlearn_(model, split, mask, ours)
    return ours


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", RUNS)
def test_every_end_state_is_the_references(which, net, name):
    model, split = problem(which, net)
    info = json.loads((HERE / which / "info.json").read_text())
    ours = run(name, which, net, model, split, info)
    prefix = f"{name}/"
    stored = load_file(HERE / which / f"{net}.unlearned.safetensors")
    theirs = {key[len(prefix) :]: value for key, value in stored.items() if key.startswith(prefix)}
    state = model.state_dict()
    assert set(theirs) == set(state)
    for key, value in theirs.items():
        scale = max(float(value.double().abs().max()), 1e-12)
        assert float((state[key].double() - value.double()).abs().max()) <= TOLERANCE * scale, key
    if name in TRAINED:
        traced = info[net]["history"][name]["retain_loss"][1:]
        assert [trace.loss for trace in ours.trace] == pytest.approx(traced, rel=TOLERANCE)
