"""Networks in two halves: the same bits, the same gradients, and no cut where something might differ from step to step."""

import random

import pytest
import torch
from torch import nn

from excise.masks import Mask
from excise.networks import tiny_resnet, vit_small
from excise.train import enforced
from excise.train.prefix import Prefix, Uncut, cut, layout_of
from tests.cases import CASES
from tests.probes import LeftAlone, raw, same_bytes, snapshot

ROWS = 5


def halves(model, modules, inputs, statistics="follow-mask"):
    """Cut a network under the mask of some modules."""
    with enforced(model, Mask.of_modules(model, modules), statistics):
        return cut(model, inputs[:3])


class Shared(nn.Module):
    """A frozen normalisation by buffers, a value that two later layers use, sizes, a constant, a table from a parameter."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((6,), 0.25))
        self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, inputs, extra=None):
        hidden = (inputs - self.mean) * torch.tensor(2.0)
        hidden = torch.relu(self.first(hidden)) * self.scale
        if extra is not None:
            hidden = hidden + extra
        later = self.second(hidden).view(hidden.size(0), 2, 3).mean(1)
        return self.third(hidden + torch.cat([later, later], dim=1))


class Normalising(nn.Sequential):
    """In place, as published networks are written."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(4, 4),
        )


def vit():
    return vit_small(4, image_size=8, patch_size=4, width=8, depth=2, heads=2, head_width=4, mlp_width=8, in_channels=1)


def images():
    return torch.randn(ROWS, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def vectors():
    return torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(3))


CUTS = {
    "mlp": (CASES["mlp"].make, ["2", "4"], lambda: CASES["mlp"].data(ROWS)[0], [(ROWS, 10)]),
    "separable": (CASES["separable"].make, ["3"], lambda: CASES["separable"].data(ROWS)[0], [(ROWS, 6, 5, 5)]),
    "transformer": (CASES["transformer"].make, ["head"], lambda: CASES["transformer"].data(ROWS)[0], [(ROWS, 8)]),
    "tokens": (CASES["tied"].make, ["middle"], lambda: CASES["tied"].data(ROWS)[0], [(ROWS, 6)]),
    "residual": (tiny_resnet, ["layer3.0.conv2", "fc"], images, [(ROWS, 32, 2, 2), (ROWS, 32, 2, 2)]),
    "identity": (lambda: tiny_resnet(width=4), ["layer1"], images, [(ROWS, 4, 8, 8)]),
    "shared": (Shared, ["second", "third"], vectors, [(ROWS, 6)]),
    "looks at shapes": (vit, ["transformer.layers.1", "mlp_head"], images, [(ROWS, 5, 8)]),
    "in place": (Normalising, ["3", "8"], images, [(ROWS, 4, 6, 6)]),
}


@pytest.mark.parametrize("name", CUTS)
def test_the_halves_give_the_bits_and_the_gradients_of_the_whole(name):
    make, modules, inputs, shapes = CUTS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    x = inputs()
    with enforced(model, Mask.of_modules(model, modules), "follow-mask"), torch.random.fork_rng():
        found = cut(model, x[:3])
        results = []
        for run in (model, lambda x: found.finish(found.compute(x))):
            torch.manual_seed(1)  # for dropout in the second half
            before = snapshot(model)
            logits = run(x)
            logits.square().sum().backward()
            gradients = [raw(value.grad) for value in model.parameters() if value.grad is not None]
            results.append((raw(logits), *gradients, *(raw(value) for value in snapshot(model).values())))
            model.zero_grad()
            with torch.no_grad():
                for key, value in model.named_buffers():
                    value.copy_(before[key])
        kept = found.compute(x)
    assert [tuple(value.shape) for value in kept] == shapes
    assert not any(value.requires_grad for value in kept)
    assert len(results[0]) > 1 and len(results[0]) == len(results[1])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_cutting_leaves_the_network_alone():
    model = tiny_resnet()
    before = LeftAlone(model)
    assert halves(model, ["fc"], images()) is not None
    before.check()


def test_the_first_half_does_not_see_what_only_the_second_one_holds():
    model = CASES["mlp"].make()
    found = halves(model, ["4"], CASES["mlp"].data(ROWS)[0])
    kept = found.compute(CASES["mlp"].data(ROWS)[0])
    before = found.finish(kept)
    with torch.no_grad():
        model[4].bias += 1
    torch.testing.assert_close(found.finish(kept), before + 1)  # the network's own module, and no copy
    assert torch.equal(found.compute(CASES["mlp"].data(ROWS)[0])[0], kept[0])


@pytest.mark.parametrize(
    ("modules", "statistics"), [(["0"], "follow-mask"), (["1"], "follow-mask"), (["8"], "adapt")], ids=str
)
def test_there_is_little_to_cut_before_what_trains(modules, statistics):
    found = halves(Normalising(), modules, images(), statistics)
    if modules == ["0"]:
        assert found is None
    else:  # the first convolution alone: batch normalisation that trains is another one in each step
        assert [tuple(value.shape) for value in found.compute(images())] == [(ROWS, 4, 6, 6)]


def test_what_does_not_lie_row_by_row_is_computed_again():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(4, 3)

        def forward(self, inputs):
            return self.last(self.first(inputs).view(-1, 2, 4).transpose(0, 1)).sum(0)

    model, x = Turned(), vectors()
    found = halves(model, ["last"], x)
    (kept,) = found.compute(x)
    assert kept.shape == (ROWS, 2, 4)
    assert torch.equal(found.finish((kept,)), model(x))


class Wrong(nn.Module):
    """A layer that nobody may cut behind, and one that trains."""

    def __init__(self, what):
        super().__init__()
        self.first, self.last, self.what = nn.Linear(6, 6), nn.Linear(6, 4), what
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.kept, self.table = 0, [], torch.zeros(6)

    def forward(self, inputs):
        return self.last(self.what(self, self.first(inputs)))


def counting(model, hidden):
    model.calls += 1
    return hidden


def keeping(model, hidden):
    model.kept.append(1)
    return hidden


def writing(model, hidden):
    model.seen.add_(1)
    return hidden * model.seen


def writing_unseen(model, hidden):
    model.table.add_(1)
    return hidden * model.table


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (lambda model, hidden: hidden if hidden.sum() > 0 else -hidden, r"cannot be traced \(symbolically traced"),
        (lambda model, hidden: hidden if random.random() < 2 else -hidden, "draws random numbers by itself"),
        (lambda model, hidden: hidden + torch.randn(6), "draws random numbers by itself"),
        (counting, "writes to its own attributes"),
        (keeping, "writes to its own attributes"),
        (writing, "writes to its own tensors"),
        (writing_unseen, "writes to its own attributes"),
    ],
)
def test_a_forward_that_may_differ_from_step_to_step_is_not_cut(what, reason):
    model = Wrong(what)
    before = LeftAlone(model)
    with pytest.raises(Uncut, match=reason):
        halves(model, ["last"], vectors())
    before.check()
    assert (model.calls, model.kept, model.table.sum()) == (0, [], 0)


def test_a_network_with_hooks_or_that_cannot_be_copied_is_not_cut():
    model = CASES["mlp"].make()
    handle = model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(Uncut, match="modules have hooks"):
        halves(model, ["4"], CASES["mlp"].data(ROWS)[0])
    handle.remove()
    model[0].lock = (one for one in ())
    with pytest.raises(Uncut, match="cannot be copied"):
        halves(model, ["4"], CASES["mlp"].data(ROWS)[0])


def test_a_forward_may_decide_by_the_shape_of_its_inputs_but_not_by_how_many_there_are():
    def choosing(model, hidden):
        return hidden

    class Choosing(Wrong):
        def forward(self, inputs):
            if inputs.ndim != 2 or inputs.dim() != 2 or inputs.shape[1:] != (6,) or inputs.shape[-1] % 2:
                raise AssertionError
            return super().forward(inputs) * inputs.shape[0]

    class Counting(Wrong):
        def forward(self, inputs):
            return super().forward(inputs) * (2 if inputs.shape[0] == 3 else 1)

    model, x = Choosing(choosing), vectors()
    with torch.no_grad():
        found = halves(model, ["last"], x)
        assert torch.equal(found.finish(found.compute(x)), model(x))
    with pytest.raises(Uncut, match="cannot be traced"):
        halves(Counting(choosing), ["last"], x)


def test_what_draws_in_every_step_stays_in_the_second_half():
    model, x = Wrong(lambda model, hidden: hidden + torch.rand_like(hidden)), vectors()
    found = halves(model, ["last"], x)
    kept = found.compute(x)
    assert torch.equal(kept[0], model.first(x))
    assert not torch.equal(found.finish(kept), found.finish(kept))


def test_the_layout_is_the_order_of_the_axes_in_memory():
    plain = torch.zeros(2, 3, 4, 5)
    assert layout_of(plain) == (0, 1, 2, 3)
    assert layout_of(plain.permute(0, 3, 1, 2)) == (0, 2, 3, 1)
    assert layout_of(plain.transpose(0, 1)) is None
    assert layout_of(plain[:, 1]) is None
    assert layout_of(torch.zeros(1, 3).expand(2, 3)) is None


def test_two_cuts_share_nothing_but_the_network():
    model = CASES["mlp"].make()
    before = snapshot(model)
    x = CASES["mlp"].data(ROWS)[0]
    one, other = halves(model, ["4"], x), halves(model, ["2", "4"], x)
    assert (len(one.compute(x)[0][0]), len(other.compute(x)[0][0])) == (8, 10)
    assert same_bytes(before, snapshot(model))


@pytest.mark.parametrize(("trained", "called"), [("2", ("2", "3", "4")), ("4", ("4",))])
def test_the_second_half_says_which_modules_it_calls(trained, called):
    model = CASES["mlp"].make()
    for name, value in model.named_parameters():
        value.requires_grad_(name.startswith(trained))
    prefix = cut(model, CASES["mlp"].data(ROWS)[0])
    assert prefix.called == called
    assert [prefix.finishes(name) for name in ("0", "2", "4", "5")] == [False, "2" in called, True, False]
    heard = []
    for name in called:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: heard.append(name))
    prefix.finish(prefix.compute(CASES["mlp"].data(ROWS)[0]))
    assert heard == list(called)


def test_a_module_that_is_called_twice_is_not_finished_as_the_network_does():
    assert not Prefix(lambda inputs: (inputs,), lambda kept: kept, called=("a", "b", "a")).finishes("a")
