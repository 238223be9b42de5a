import copy
import hashlib
import itertools

import pytest
import torch
from torch import nn

from excise import errors, params
from excise.masks import Mask
from excise.train import TrainPlan, enforced, frozen_digest, held_modules, write_
from excise.train.masked import STATISTICS, MaskedParameters, effective, require_statistics
from tests.cases import CASES
from tests.naive.training import MAKE, masked_step_
from tests.probes import KINDS, Bag, LeftAlone, moved, raw, same_bytes, snapshot, spelled_out, touched

every_case = pytest.mark.parametrize("name", CASES)


OPTIMIZERS = ("sgd", "adam", "adamw")
IMPLEMENTATIONS = ("default", "foreach", "fused")


def loss_of(model, case):
    """Cross-entropy, and a pull towards 1 that gives every weight a slope of its own.

    Without it a bias before a normalisation and a key's bias have gradients of pure rounding noise, which Adam divides by
    their own size.
    """
    inputs, labels = case.data(12)
    pull = sum((value - 1).pow(2).sum() for value in model.parameters())
    return nn.functional.cross_entropy(model(inputs), labels) + 0.1 * pull


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_a_masked_step_is_the_full_step_masked_and_put_back(name, kind):
    case = CASES[name]
    for optimizer, implementation, clip in itertools.product(OPTIMIZERS, IMPLEMENTATIONS, (None, 0.05)):
        ours, theirs = case.make(), case.make()
        tensors = spelled_out(ours, kind)
        mask = Mask.from_tensors(tensors)
        plan = TrainPlan(
            epochs=1, lr=0.05, optimizer=optimizer, weight_decay=0.3, clip_norm=clip, implementation=implementation
        )
        with enforced(ours, mask, "adapt") as free:
            made = plan.make_optimizer(free.leaves)
            for _ in range(4):
                loss_of(ours, case).backward()
                free.step(made, clip)
                made.zero_grad()
        naive = MAKE[optimizer](list(theirs.parameters()), 0.05, 0.3)
        for _ in range(4):
            naive.zero_grad()
            loss_of(theirs, case).backward()
            masked_step_(dict(theirs.named_parameters()), tensors, naive, clip)
        for key, value in ours.named_parameters():
            frozen = ~tensors[key]
            assert torch.equal(raw(value[frozen]), raw(dict(case.make().named_parameters())[key][frozen])), key
        for key, value in snapshot(theirs).items():
            # 1e-12: foreach and fused loops, and the norm over compact leaves, sum in another order
            torch.testing.assert_close(snapshot(ours)[key], value, rtol=1e-12, atol=1e-12)


@every_case
def test_gradient_clipping_sees_only_what_may_change(name):
    case = CASES[name]
    model = case.make()
    tensors = spelled_out(model, "weights")
    with enforced(model, Mask.from_tensors(tensors), "adapt") as free:
        loss_of(model, case).backward()
        for key, value in model.named_parameters():
            if value.grad is not None:
                value.grad[~tensors[key]] = 1e6
        before = [leaf.detach().clone() for leaf in free.leaves]
        free.step(torch.optim.SGD(free.leaves, lr=1.0), 0.1)
        length = (
            sum(float((leaf - old).detach().pow(2).sum()) for leaf, old in zip(free.leaves, before, strict=True)) ** 0.5
        )
    assert length == pytest.approx(0.1, rel=1e-4)  # torch divides by norm + 1e-6


@every_case
def test_the_optimizer_holds_state_for_what_may_change_and_nothing_else(name):
    model = CASES[name].make()
    mask = Mask.from_tensors(spelled_out(model, "mixed"))
    with enforced(model, mask, "adapt") as free:
        made = torch.optim.Adam(free.leaves)
        loss_of(model, CASES[name]).backward()
        free.step(made, None)
    held = sum(state["exp_avg"].numel() for state in made.state.values())
    assert held == mask.num_selected < mask.num_parameters


@every_case
def test_inside_the_block_only_the_mask_asks_for_gradients_and_afterwards_all_is_as_it_was(name):
    model = touched(CASES[name].make())
    mask = Mask.from_tensors(spelled_out(model, "mixed"))
    alone = LeftAlone(model)
    with enforced(model, mask, "follow-mask") as free:
        asked = {key for key, value in model.named_parameters() if value.requires_grad}
        assert asked == {key for key in mask.names if mask.count(key)} < set(mask.names)
        assert all(value.grad is None for value in model.parameters())
        assert all(leaf.requires_grad and leaf.is_leaf for leaf in free.leaves)
    alone.check()
    with pytest.raises(ZeroDivisionError), enforced(model, mask, "hold"):
        loss_of(model, CASES[name]).backward()
        raise ZeroDivisionError
    alone.check()


def test_a_users_frozen_parameters_leave_the_mask():
    model = CASES["mlp"].make()
    model[0].weight.requires_grad_(False)
    allowed = effective(Mask.full(model), model)
    assert allowed == Mask.full(model) - Mask.of_modules(model, ["0.weight"])
    with enforced(model, Mask.full(model), "follow-mask") as free:
        assert len(free.leaves) == len(list(model.parameters())) - 1
        assert not model[0].weight.requires_grad
    assert not model[0].weight.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_values_taken_can_be_put_back(name, kind):
    model = CASES[name].make()
    mask = Mask.from_tensors(spelled_out(model, kind))
    before = snapshot(model)
    with enforced(model, mask, "follow-mask") as free:
        taken = free.values()
        free.restore_([torch.full_like(value, 7.0) for value in taken])
        for key, value in model.named_parameters():
            assert torch.equal(value.detach() == 7.0, mask.expand(key))
        assert free.finite()
        free.restore_([torch.full_like(value, torch.inf) for value in taken])
        assert not free.finite()
        free.restore_(taken)
    assert same_bytes(before, snapshot(model))


def channels_last(model):
    return model.to(memory_format=torch.channels_last)


def transposed(model):
    for value in model.parameters():
        if value.ndim > 1:
            value.data = value.data.transpose(0, -1).contiguous().transpose(0, -1)
    return model


@pytest.mark.parametrize("layout", [channels_last, transposed])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_of_weights_in_memory_does_not_matter(layout, kind):
    case = CASES["separable"]
    plain, other = case.make(), layout(case.make())
    assert not all(value.is_contiguous() for value in other.parameters())
    tensors = spelled_out(plain, kind)
    for model in (plain, other):
        with enforced(model, Mask.from_tensors(tensors), "adapt") as free:
            made = torch.optim.SGD(free.leaves, lr=0.1, momentum=0.9, weight_decay=0.1)
            for _ in range(3):
                loss_of(model, case).backward()
                free.step(made, None)
                made.zero_grad()
    for key, value in other.named_parameters():
        frozen = ~tensors[key]
        assert torch.equal(raw(value[frozen]), raw(dict(case.make().named_parameters())[key][frozen]))
        torch.testing.assert_close(value, dict(plain.named_parameters())[key], rtol=1e-12, atol=1e-12)  # kernels differ


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_gradients_are_stepped_along_as_dense_ones_are(kind):
    for optimizer in OPTIMIZERS:
        found = []
        for sparse in (False, True):
            model = Bag(sparse=sparse)
            tensors = spelled_out(model, kind)
            if kind == "modules":  # which leaves out the first
                tensors["embed.weight"] = torch.ones(11, 6, dtype=torch.bool)
            plan = TrainPlan(epochs=1, lr=0.1, optimizer=optimizer, weight_decay=0.1)
            with enforced(model, Mask.from_tensors(tensors), "adapt") as free:
                made = plan.make_optimizer(free.leaves)
                for _ in range(3):
                    inputs, labels = CASES["tied"].data(12)
                    nn.functional.cross_entropy(model(inputs), labels).backward()
                    assert model.embed.weight.grad.is_sparse is sparse
                    free.step(made, 1.0)
                    made.zero_grad()
            found.append(snapshot(model))
        for key, value in found[0].items():
            torch.testing.assert_close(found[1][key], value, rtol=1e-12, atol=1e-12)  # duplicates summed otherwise


# --- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_writing_is_a_where_on_every_coordinate(name, kind):
    model = CASES[name].make()
    tensors = spelled_out(model, kind)
    new = {key: torch.full_like(value, 3.0) for key, value in model.named_parameters()}
    before = snapshot(model)
    write_(model, new, Mask.from_tensors(tensors))
    for key, value in model.named_parameters():
        assert torch.equal(raw(value), raw(torch.where(tensors[key], new[key], before[key])))
    assert {key for key in before if key not in dict(model.named_parameters(remove_duplicate=False))}.isdisjoint(
        moved(before, snapshot(model))
    )


def test_parameters_without_a_new_value_and_those_the_user_froze_keep_theirs():
    model = CASES["mlp"].make()
    model[2].weight.requires_grad_(False)
    before = snapshot(model)
    write_(model, {key: torch.zeros_like(before[key]) for key in ("0.weight", "2.weight")}, Mask.full(model))
    assert moved(before, snapshot(model)) == {"0.weight"}


def test_writing_takes_the_parameters_precision():
    model = CASES["mlp"].make()
    new = torch.rand(10, 6, generator=torch.Generator().manual_seed(0))
    write_(
        model, {"0.weight": new}, Mask.from_tensors(spelled_out(model, "rows")) | Mask.of_modules(model, ["0.weight"])
    )
    assert model[0].weight.dtype == torch.float64
    assert torch.equal(model[0].weight, new.double())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"9.weight": torch.zeros(2)}, r"new value for '9.weight' of shape \(2,\): the network has no such parameter"),
        ({"0.bias": torch.zeros(3)}, r"new value for '0.bias' of shape \(3,\): the network has \(10,\)"),
    ],
)
def test_a_value_that_fits_no_parameter_is_refused(wrong, said):
    model = CASES["mlp"].make()
    with pytest.raises(errors.MaskMismatch, match=said):
        write_(model, wrong, Mask.full(model))


@pytest.mark.parametrize(
    "use", [lambda model, mask: effective(mask, model), lambda model, mask: write_(model, {}, mask)]
)
def test_a_mask_of_another_network_is_refused(use):
    with pytest.raises(errors.MaskMismatch, match="the mask does not fit Sequential"):
        use(CASES["mlp"].make(), Mask.full(CASES["three-classes"].make()))


# --- buffers ------------------------------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Holds a buffer and no parameter, as an exponential mean of activations would."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs):
        if self.training:
            self.seen.add_(len(inputs))
        return inputs


def normalised():
    return nn.Sequential(
        nn.Linear(6, 5),
        nn.BatchNorm1d(5),
        Counting(),
        nn.Dropout(0.5),
        nn.Linear(5, 4),
        nn.BatchNorm1d(4, affine=False),
    ).double()


@pytest.mark.parametrize(
    ("chosen", "statistics", "held"),
    [
        (["0"], "follow-mask", ["1"]),  # modules without parameters move with anything
        (["1"], "follow-mask", []),
        (["1.bias"], "follow-mask", []),
        (["4"], "follow-mask", ["1"]),
        ([], "follow-mask", ["1", "2", "5"]),
        ([], "adapt", []),
        (["0", "1"], "adapt", []),
        (["0", "1"], "hold", ["1", "2", "5"]),
    ],
)
def test_which_buffers_stay(chosen, statistics, held):
    model = normalised()
    mask = Mask.of_modules(model, chosen)
    assert held_modules(model, mask, statistics) == held
    before = snapshot(model)
    with enforced(model, mask, statistics):
        modes = {name for name, module in model.named_modules() if not module.training}
        model(torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert modes == set(held)  # and dropout trains
    stays = {name for name, _ in model.named_buffers() if name.rpartition(".")[0] in held}
    assert moved(before, snapshot(model)) == {name for name, _ in model.named_buffers()} - stays


def test_one_row_of_a_normalisation_in_the_mask_moves_its_statistics():
    model = normalised()
    tensors = {key: torch.zeros(value.shape, dtype=torch.bool) for key, value in model.named_parameters()}
    tensors["1.weight"][2] = True
    assert held_modules(model, Mask.from_tensors(tensors), "follow-mask") == []


def test_the_rules_are_three_words():
    for word in STATISTICS:
        require_statistics(word)
    with pytest.raises(errors.BadRequest, match="buffers: expected one of follow-mask, adapt, hold, found 'freeze'"):
        require_statistics("freeze")


# --- the proof ----------------------------------------------------------------------------------------------------------


def naive_digest(model, tensors, held):
    """The digest by hand: every frozen coordinate and held buffer, by name, with type, shape and bytes."""
    parts = {key: value.detach()[~tensors[key]] for key, value in model.named_parameters()}
    parts |= {key: value for key, value in model.named_buffers() if key.rpartition(".")[0] in held}
    text = b""
    for key in sorted(parts):
        text += f"{key}\0{parts[key].dtype}\0{tuple(parts[key].shape)}\0".encode() + parts[key].numpy().tobytes()
    return hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@every_case
def test_the_frozen_digest_covers_exactly_what_is_frozen(name, kind):
    model = CASES[name].make()
    tensors = spelled_out(model, kind)
    mask = Mask.from_tensors(tensors)
    held = held_modules(model, mask, "follow-mask")
    before = frozen_digest(model, mask)
    assert before == naive_digest(model, tensors, held)
    for key, value in model.named_parameters():
        for inside in (True, False):
            places = (tensors[key] if inside else ~tensors[key]).nonzero()
            if len(places):
                with torch.no_grad():
                    kept = value[tuple(places[0])].clone()
                    value[tuple(places[0])] = kept * (1 + 2**-52) if kept else 1.0  # the smallest change there is
                    assert (frozen_digest(model, mask) == before) is inside, key
                    value[tuple(places[0])] = kept
    for key, buffer in model.named_buffers():
        kept = buffer.clone()
        buffer.add_(1)
        assert (frozen_digest(model, mask) != before) is (key.rpartition(".")[0] in held), key
        buffer.copy_(kept)
    assert frozen_digest(model, mask) == before


def test_the_frozen_digest_follows_the_rule_for_buffers_and_the_users_own_freezing():
    model = CASES["batchnorm"].make()
    digests = {rule: frozen_digest(model, Mask.full(model), rule) for rule in STATISTICS}
    assert digests["adapt"] == digests["follow-mask"] != digests["hold"]
    model[0].weight.requires_grad_(False)
    assert frozen_digest(model, Mask.full(model)) == frozen_digest(
        model, Mask.full(model) - Mask.of_modules(model, ["0"])
    )


def test_a_copy_has_the_same_digest_and_the_sign_of_zero_counts():
    model = CASES["mlp"].make()
    with torch.no_grad():
        model[0].bias[3] = 0.0
    other = copy.deepcopy(model)
    assert frozen_digest(model, Mask.empty(model)) == frozen_digest(other, Mask.empty(model))
    with torch.no_grad():
        other[0].bias[3] = -0.0
    assert frozen_digest(model, Mask.empty(model)) != frozen_digest(other, Mask.empty(model))


def test_parameters_without_axes_are_in_or_out():
    model = nn.Module()
    model.scale, model.other = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(3.0))
    model.forward = lambda inputs: inputs * model.scale * model.other
    free = MaskedParameters(model, Mask.where(model, lambda key: key == "scale"))
    model(torch.tensor(5.0)).backward()
    free.step(torch.optim.SGD(free.leaves, lr=1.0), None)
    assert (model.scale.item(), model.other.item()) == (2.0 - 15.0, 3.0)


@pytest.mark.parametrize("kind", ["rows", "weights", "whole", "none"])
def test_the_digest_of_what_is_frozen_is_that_of_its_coordinates_one_after_another(kind):
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 1), nn.Linear(1, 3))
    own = dict(model.named_parameters())
    drawn = {
        "rows": lambda value: (torch.arange(len(value)) % 2 == 0).reshape(-1, *(1,) * (value.ndim - 1)),
        "weights": lambda value: torch.arange(value.numel()).reshape(value.shape) % 3 == 0,
        "whole": lambda value: torch.ones((1,) * value.ndim, dtype=torch.bool),
        "none": lambda value: torch.zeros((1,) * value.ndim, dtype=torch.bool),
    }[kind]
    mask = Mask({name: drawn(value) for name, value in own.items()}, {name: tuple(v.shape) for name, v in own.items()})
    outside = {name: value.detach()[~mask.expand(name)] for name, value in own.items()}
    assert frozen_digest(model, mask) == params.digest(outside)
