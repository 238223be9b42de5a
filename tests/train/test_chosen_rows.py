"""The gradient of chosen rows against its twin: torch's whole gradient, of which the rows are then taken."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call, vmap
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from excise.masks import Mask
from excise.train import chosen_rows, enforced
from excise.train.chosen_rows import ChosenLayers, ChosenRows

CLOSE = {"rtol": 1e-12, "atol": 1e-12}  # fewer rows at once are summed in another order
THRESHOLDS = ("LEAST_LEFT_OUT_LINEAR", "LEAST_LEFT_OUT_CONVOLUTION")


@pytest.fixture(autouse=True)
def paying(monkeypatch):
    """The networks here are tiny: have the short way taken wherever it can be."""
    for name in THRESHOLDS:
        monkeypatch.setattr(chosen_rows, name, 1)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make().double()


def rows_of(weight):
    chosen = torch.arange(weight.shape[0]) % 3 == 1
    return chosen.view(-1, *[1] * (weight.ndim - 1))


def mask_of(model):
    """A third of the rows of every weight, and every bias."""
    entries = {
        name: rows_of(value) if value.ndim > 1 else torch.ones(value.shape, dtype=torch.bool)
        for name, value in model.named_parameters()
    }
    return Mask(entries, {name: tuple(value.shape) for name, value in model.named_parameters()})


# --- one layer ----------------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (3, 5)),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), (3, 5)),
    "linear of sequences": (lambda: nn.Linear(5, 7), (3, 2, 5)),
    "linear of sequences without bias": (lambda: nn.Linear(5, 7, bias=False), (3, 2, 5)),
    "linear of one row": (lambda: nn.Linear(5, 7), (5,)),
    "linear of no rows": (lambda: nn.Linear(5, 7), (0, 5)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, stride=2, padding=1), (3, 2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, (3, 2), stride=(1, 2), padding=(0, 1), dilation=(2, 1)), (2, 2, 5, 4)),
    "conv2d without bias": (lambda: nn.Conv2d(2, 4, 1, bias=False), (2, 2, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(1, 4, 2, padding=1), (2, 1, 2, 3, 2)),
    "same": (lambda: nn.Conv2d(2, 4, 3, padding="same"), (2, 2, 4, 3)),
    "valid": (lambda: nn.Conv1d(2, 4, 2, padding="valid"), (2, 2, 4)),
    "circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 2, 3, 4)),
    "reflect": (lambda: nn.Conv1d(2, 4, 3, padding="same", padding_mode="reflect"), (2, 2, 4)),
    "replicate": (lambda: nn.Conv3d(1, 4, 2, padding=1, padding_mode="replicate"), (1, 1, 2, 2, 2)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


@dataclass
class Watched:
    """A layer whose chosen rows are computed alone."""

    layer: nn.Module
    rows: ChosenRows
    layers: ChosenLayers


def watched(name):
    layer = built(LAYERS[name][0])
    index = rows_of(layer.weight).flatten().nonzero().flatten().int()
    rows = ChosenRows(layer.weight, index, layer.weight.detach()[index.long()].requires_grad_())
    return Watched(layer, rows, ChosenLayers(layer, [rows]))


@every_layer
def test_a_layers_rows_are_those_of_the_whole_gradient_and_all_else_is_torchs(name):
    ours, theirs = watched(name), built(LAYERS[name][0])
    inputs, twin = (drawn(*LAYERS[name][1]).requires_grad_() for _ in range(2))
    pull = drawn(*theirs(twin).shape, seed=2)
    assert len(ours.layers) == 1
    with ours.layers.watched():
        outputs = ours.layer(inputs)
        assert torch.equal(outputs, theirs(twin))
        ours.layers.backward((torch.relu_(outputs) * pull).sum())  # in place, as activations often are
    (torch.relu(theirs(twin)) * pull).sum().backward()
    assert ours.layer.weight.grad is None
    torch.testing.assert_close(ours.rows.leaf.grad, theirs.weight.grad[ours.rows.index.long()], **CLOSE)
    torch.testing.assert_close(inputs.grad, twin.grad, **CLOSE)
    if theirs.bias is not None:
        torch.testing.assert_close(ours.layer.bias.grad, theirs.bias.grad, **CLOSE)


@every_layer
def test_first_and_second_derivatives_are_those_of_differences(name):
    ours = watched(name)
    given = [drawn(*LAYERS[name][1]).requires_grad_(), *ours.layer.parameters()]
    with ours.layers.watched():
        assert torch.autograd.gradcheck(lambda inputs, *_: ours.layer(inputs), given, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda inputs, *_: ours.layer(inputs), given, fast_mode=True)


@pytest.mark.parametrize("name", ["linear of sequences", "conv2d"])
def test_what_is_left_out_is_not_computed(name):
    counts = []
    ours = watched(name)
    for backward in (ours.layers.backward, torch.Tensor.backward):
        with ours.layers.watched(), FlopCounterMode(display=False) as counter:
            outputs = ours.layer(drawn(*LAYERS[name][1]).requires_grad_())
            forward = counter.get_total_flops()
            backward(outputs.sum())
        counts.append(counter.get_total_flops())
    left_out = 1 - len(ours.rows.index) / len(ours.layer.weight)
    assert counts[1] == 3 * forward  # outputs, gradient of the inputs, gradient of the weight
    assert counts[1] - counts[0] == pytest.approx(left_out * forward)


# --- networks -----------------------------------------------------------------------------------------------------------


class Mlp(nn.Module):
    """Two layers, with room for what a case does to them."""

    def __init__(self, change=lambda model: None, last=nn.Linear):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), last(6, 6)
        self.change = change(self)

    def forward(self, inputs):
        return self.second(torch.relu(self.first(inputs)))


class Doubled(nn.Linear):
    def forward(self, inputs):
        return 2 * super().forward(inputs)


class Named(nn.Linear):
    """Another name for the same thing."""


class Tied(nn.Module):
    """One weight in two layers, an embedding and a functional call."""

    def __init__(self):
        super().__init__()
        self.table, self.middle, self.head = nn.Embedding(6, 4), nn.Linear(4, 4), nn.Linear(4, 6, bias=False)
        self.again = nn.Linear(4, 6)
        self.head.weight = self.again.weight = self.table.weight

    def forward(self, inputs):
        found = self.middle(inputs) + self.table(torch.tensor([0, 1, 5]))
        return self.head(found) + self.again(found) + nn.functional.linear(found, self.head.weight)


def total(model, inputs):
    return model(inputs).pow(2).sum()


def penalty(model, inputs):
    return total(model, inputs) + sum(value.abs().sum() for value in model.parameters())


def never_called(model, inputs):
    return model.first(inputs).pow(2).sum()


def called_twice(model, inputs):
    return (model.second(model.second(torch.relu(model.first(inputs)))) ** 2).sum() + total(model, 2 * inputs)


def by_keyword(model, inputs):
    return model.second(input=model.first(inputs)).pow(2).sum()


def recomputed(reentrant):
    def loss(model, inputs):
        hidden = checkpoint(model.first, inputs, use_reentrant=reentrant)
        return checkpoint(model.second, hidden, use_reentrant=reentrant).pow(2).sum()

    return loss


def mapped(model, inputs):
    return vmap(model)(inputs).pow(2).sum()


def elsewhere(model, inputs):
    other = {"first.weight": model.first.weight * 2}
    return functional_call(model, other, (inputs,)).pow(2).sum()


def slope_of_inputs(model, inputs):
    (slope,) = torch.autograd.grad(total(model, inputs), inputs, create_graph=True)
    return total(model, inputs) + slope.pow(2).sum()


def slope_of_weights(model, inputs):
    slopes = torch.autograd.grad(total(model, inputs), list(model.parameters()), create_graph=True)
    return total(model, inputs) + sum(slope.pow(2).sum() for slope in slopes)


def sharpness(model, inputs):
    """Runs backward by itself and starts anew from what it found, as sharpness-aware minimisation does."""
    total(model, inputs).backward()
    assert all(value.grad is not None for value in model.parameters() if value.requires_grad)
    size = sum(float(value.grad.sum()) for value in model.parameters())
    model.zero_grad()
    return size * total(model, inputs)


class Implicit(torch.autograd.Function):
    """Differentiates inside its backward pass, as reversible networks do."""

    @staticmethod
    def forward(ctx, model, inputs, *values):
        ctx.model, ctx.values = model, values
        ctx.save_for_backward(inputs)
        return model(inputs)

    @staticmethod
    def backward(ctx, gradient):
        with torch.enable_grad():
            inputs = ctx.saved_tensors[0].detach().requires_grad_()
            outputs = ctx.model(inputs)
        return None, *torch.autograd.grad(outputs, (inputs, *ctx.values), gradient)


def differentiated_inside(model, inputs):
    return Implicit.apply(model, inputs, *model.parameters()).pow(2).sum()


def doubled_by_a_hook(model):
    return model.first.weight.register_hook(lambda gradient: 2 * gradient)


def images(model, inputs):
    """A batch of images and a single one without a batch, all with channels last."""
    some = inputs.view(3, 1, 2, 2).contiguous(memory_format=torch.channels_last)
    return model(some).pow(2).sum() + model(some[0]).pow(2).sum()


def uneven_and_grouped():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"), nn.Conv2d(4, 4, 2, padding="same"), nn.Conv2d(4, 4, 1, groups=2)
    )


def channels_last():
    layers = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 2, padding=1), nn.Conv2d(6, 4, 2)
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


SCENES = {  # network, loss, how many layers are watched
    "plain": (Mlp, total, 2),
    "a penalty on every weight": (Mlp, penalty, 2),
    "tied": (Tied, total, 3),
    "tied, with a penalty": (Tied, penalty, 3),
    "never called": (Mlp, never_called, 2),
    "called twice": (Mlp, called_twice, 2),
    "called by keyword": (Mlp, by_keyword, 2),
    "a forward of its own": (lambda: Mlp(last=Doubled), total, 1),
    "a subclass": (lambda: Mlp(last=Named), total, 2),
    "parametrized": (lambda: Mlp(lambda model: weight_norm(model.first) and None), total, 1),
    "checkpoint, reentrant": (Mlp, recomputed(reentrant=True), 2),
    "checkpoint": (Mlp, recomputed(reentrant=False), 2),
    "vmap": (Mlp, mapped, 2),
    "functional_call": (Mlp, elsewhere, 2),
    "second derivative by inputs": (Mlp, slope_of_inputs, 2),
    "second derivative by weights": (Mlp, slope_of_weights, 2),
    "a backward pass of its own": (Mlp, sharpness, 2),
    "a backward pass within": (Mlp, differentiated_inside, 2),
    "a hook on the weight": (Mlp, total, 2),
    "uneven and grouped": (uneven_and_grouped, images, 1),
    "channels last": (channels_last, images, 3),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("scene", SCENES)
def test_however_a_gradient_comes_it_is_the_ordinary_one(scene):
    make, loss, count = SCENES[scene]
    ours, theirs = built(make), built(make)
    inputs, twin = (drawn(3, 4, seed=3).requires_grad_() for _ in range(2))
    if scene.startswith("a hook"):
        doubled_by_a_hook(ours), doubled_by_a_hook(theirs)
    mask = mask_of(theirs)
    with enforced(ours, mask, "adapt") as free:
        assert len(free.layers) == count
        found = loss(ours, inputs)
        free.backward(found)
        free.step(torch.optim.SGD(free.leaves, lr=0.0), None)  # which gathers
        gradients = [leaf.grad for leaf in free.leaves]
    wanted = loss(theirs, twin)
    wanted.backward()
    assert torch.equal(found, wanted)
    torch.testing.assert_close(inputs.grad, twin.grad, **CLOSE)
    for gradient, (name, value) in zip(gradients, theirs.named_parameters(), strict=True):
        rows = mask.expand(name)
        expected = None if value.grad is None else value.grad[rows]
        assert (gradient is None) is (expected is None), name
        if expected is not None:
            torch.testing.assert_close(gradient.flatten(), expected, **CLOSE)


@pytest.mark.filterwarnings("ignore")  # dynamo looks at the gradient of what is no leaf
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("part", [lambda model: model, lambda model: model.second])
def test_what_was_compiled_before_or_is_meanwhile_has_the_ordinary_gradient(part, backend):
    ours, theirs = built(Mlp), built(Mlp)
    inputs = drawn(3, 6)
    ours.first = theirs.first = nn.Identity()
    before = torch.compile(part(ours), backend=backend)
    before(inputs)
    mask = mask_of(theirs)
    with enforced(ours, mask, "adapt") as free:
        assert len(free.layers) == 1
        meanwhile = torch.compile(part(ours), backend=backend)
        for compiled in (before, meanwhile, before):
            free.backward(compiled(inputs).pow(2).sum())
        free.step(torch.optim.SGD(free.leaves, lr=0.0), None)
        gradients = [leaf.grad for leaf in free.leaves]
    part(theirs)(inputs).pow(2).sum().backward()
    for gradient, (name, value) in zip(gradients, theirs.named_parameters(), strict=True):
        torch.testing.assert_close(gradient.flatten() / 3, value.grad[mask.expand(name)], **CLOSE)


@pytest.mark.parametrize(
    "make", [Mlp, lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5, 3))]
)
def test_under_autocast_it_computes_in_the_precision_that_torchs_own_would(make):
    ours, theirs = (built(make).float() for _ in range(2))
    inputs, mask = (drawn(3, 4) if make is Mlp else drawn(3, 2, 3, 3)).float(), mask_of(theirs)
    with enforced(ours, mask, "adapt") as free:
        with torch.autocast("cpu", torch.bfloat16):
            losses = [total(theirs, inputs), total(ours, inputs)]
        free.backward(losses[1])
        assert all(module.weight.grad is None for module, _ in free.layers._layers)  # the short way was taken
        assert len(free.layers)
        free.step(torch.optim.SGD(free.leaves, lr=0.0), None)
        gradients = [leaf.grad for leaf in free.leaves]
    losses[0].backward()
    assert torch.equal(*losses)
    for gradient, (name, value) in zip(gradients, theirs.named_parameters(), strict=True):
        assert gradient.dtype == torch.float32
        # the same products in bfloat16 (8 bits), summed in another order
        torch.testing.assert_close(gradient.flatten(), value.grad[mask.expand(name)], rtol=2**-7, atol=2**-7)


def test_autocast_leaves_a_network_in_double_precision_alone():
    ours, theirs = built(Mlp), built(Mlp)
    inputs, mask = drawn(3, 4), mask_of(theirs)
    with enforced(ours, mask, "adapt") as free:
        with torch.autocast("cpu", torch.bfloat16):
            losses = [total(theirs, inputs), total(ours, inputs)]
        free.backward(losses[1])
        free.step(torch.optim.SGD(free.leaves, lr=0.0), None)
        gradients = [leaf.grad for leaf in free.leaves]
    losses[0].backward()
    assert torch.equal(*losses)
    for gradient, (name, value) in zip(gradients, theirs.named_parameters(), strict=True):
        assert torch.equal(gradient.flatten(), value.grad[mask.expand(name)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch imports its scripts with it
def test_under_a_dual_level_tangents_go_on():
    model, inputs, tangent = built(Mlp), drawn(3, 4), drawn(3, 4, seed=1)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(inputs, tangent)
        wanted = forward_ad.unpack_dual(model(dual)).tangent
        with enforced(model, mask_of(model), "adapt"):
            assert torch.equal(forward_ad.unpack_dual(model(dual)).tangent, wanted)


class Kept(torch.Tensor):
    """A tensor that goes on being of its type."""


def test_other_kinds_of_tensors_go_their_own_way():
    ours = watched("linear")
    pieces = torch.nested.nested_tensor([drawn(2, 5), drawn(3, 5)], layout=torch.jagged)
    with ours.layers.watched():
        assert isinstance(ours.layer(drawn(3, 5).as_subclass(Kept)), Kept)
        assert ours.layer(pieces).is_nested
        assert ours.layer(drawn(3, 5).to_sparse()).shape == (3, 7)


def test_without_gradients_nothing_is_recorded():
    ours = watched("linear")
    with ours.layers.watched():
        with torch.no_grad():
            assert ours.layer(drawn(3, 5)).grad_fn is None
        ours.layer.weight.requires_grad_(False)
        ours.layers.backward(ours.layer(drawn(3, 5)).sum())
    assert ours.rows.leaf.grad is ours.layer.weight.grad is None
    assert ours.layer.bias.grad is not None


def test_rows_outside_are_never_looked_at():
    ours = watched("linear")
    with ours.layers.watched():
        outputs = ours.layer(drawn(3, 5))
        weights = torch.full((7,), torch.nan, dtype=torch.float64)
        weights[ours.rows.index.long()] = 1.0
        ours.layers.backward((outputs * weights).sum())
    assert ours.rows.leaf.grad.isfinite().all()


# --- the network is left as it was --------------------------------------------------------------------------------------


def test_forward_is_put_back_also_on_failure_and_one_of_the_users_own_is_left_alone():
    model = built(Mlp)
    mine = lambda inputs: nn.functional.linear(inputs, model.second.weight)  # noqa: E731
    model.second.forward = mine
    with pytest.raises(ZeroDivisionError), enforced(model, mask_of(model), "adapt") as free:
        assert len(free.layers) == 1
        assert "forward" in vars(model.first)
        raise ZeroDivisionError
    assert "forward" not in vars(model.first)
    assert model.second.forward is mine
    with enforced(model, mask_of(model), "adapt"):
        model.first.forward = mine
    assert model.first.forward is mine


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_made_meanwhile_is_an_ordinary_network(how):
    model = built(lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)))
    inputs = drawn(3, 4)
    with enforced(model, mask_of(model), "adapt") as free:
        twin = how(model)
        with torch.no_grad():
            twin[0].weight.zero_()
        assert not torch.equal(twin(inputs), model(inputs))
        free.backward(total(twin, inputs))
    assert all(leaf.grad is None for leaf in free.leaves)
    assert all(value.grad.shape == value.shape for value in twin.parameters())


# --- where it pays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "rows", "expected"),
    [
        (lambda: nn.Linear(512, 256), 128, 1),  # exactly so many weights left out
        (lambda: nn.Linear(512, 256), 129, 0),
        (lambda: nn.Conv1d(64, 256, 2), 128, 1),
        (lambda: nn.Conv1d(64, 256, 2), 129, 0),
        (lambda: nn.Linear(8192, 100), 80, 1),  # exactly so large a share
        (lambda: nn.Linear(8192, 100), 81, 0),
    ],
)
def test_the_short_way_is_taken_where_enough_is_left_out(monkeypatch, layer, rows, expected):
    monkeypatch.undo()
    with torch.device("meta"):
        made = layer()
    index = torch.arange(rows)
    assert len(ChosenLayers(made, [ChosenRows(made.weight, index, made.weight[:rows])])) == expected
