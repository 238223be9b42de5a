import copy
import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import excise
from excise import errors
from excise.data import Split, with_ids
from excise.localize import CriticalChannels, CriticalRow
from excise.masks import Mask
from excise.methods import SwitchOff
from excise.networks import ExampleTiedDropout, tied_forward
from excise.train import Task
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, engine_for, same_bytes, snapshot, touched

every_case = pytest.mark.parametrize("name", CASES)
FORGET = [1, 4, 5, 11, 17]
EXACT = {"batch_size": 1000, "noise": 0.0}  # every retain row, no noise: nothing is drawn


class Made(nn.Module):
    """A network that is a function of one parameter and the inputs, and can be copied."""

    def __init__(self, function, weight):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, inputs):
        return self.function(self.weight, inputs[:, 0])


def fitted(name):
    """Give a network that has learnt its rows, in training mode, and the rows."""
    return copy.deepcopy(fit(name))


@cache
def fit(name):
    model, (inputs, labels) = CASES[name].make(), CASES[name].data(20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model, (inputs, labels)


def drawing(name):
    """Give a search that draws what it can: others to compare with, and noise on numbers."""
    return CriticalChannels(batch_size=6, noise=0.0 if CASES[name].tokens else 0.01)


def channels_of(model):
    """Spell out every channel as a name and an index that picks its weights."""
    for name, value in model.named_parameters():
        for row in range(value.shape[0]):
            yield name, row


def losses_of(logits, targets):
    return functional.cross_entropy(logits, targets, reduction="none")


@torch.no_grad()
def objective(model, inputs, labels, row, others, *, channel=None, factor=1.0, loss=losses_of):
    """Mean loss of the others minus the loss of the row, in eval mode, with a channel multiplied."""
    lent = {}
    if channel is not None:
        lent[channel[0]] = dict(model.named_parameters())[channel[0]].clone()
        lent[channel[0]][channel[1]] *= factor
    losses = loss(functional_call(model.eval(), lent, (inputs,)), labels)
    return float(losses[others].mean() - losses[row])


def scaled(model, channel, factor):
    """Give a copy with one channel multiplied."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        dict(other.named_parameters())[channel[0]][channel[1]] *= factor
    return other


@torch.no_grad()
def predicted(model, inputs, labels, row):
    return bool(model.eval()(inputs[row : row + 1]).argmax(1)[0] == labels[row])


# --- the choice ---------------------------------------------------------------------------------------------------------


@every_case
def test_each_channel_is_the_one_along_which_the_objective_falls_most(name):
    """Brute force: the fall of L per share of the channel taken away, by central differences, for every channel."""
    model, (inputs, labels) = fitted(name)
    split = Split((inputs, labels), forget=FORGET)
    found = CriticalChannels(max_channels=2, **EXACT).search(model, split, engine_for(model))
    others, steps, step = split.retain.ids, 0, 1e-4
    for row in found[:2]:
        work = copy.deepcopy(model)
        for place, chosen in enumerate(row.channels):
            falls = {
                channel: sum(
                    sign * objective(work, inputs, labels, row.id, others, channel=channel, factor=1 + sign * step)
                    for sign in (1, -1)
                )
                / (2 * step)
                for channel in channels_of(work)
                if channel not in row.channels[:place]
            }
            # 1e-6: second differences of a smooth loss, and its rounding over 1e-4; no two channels lie so close unless tied
            assert falls[chosen] >= max(falls.values()) - 1e-6, (row.id, chosen)
            work = scaled(work, chosen, 0.0)
            steps += 1
    assert steps >= 2


def linear_loss(logits, targets):
    return -logits.gather(1, targets[:, None])[:, 0]


def test_where_the_objective_is_linear_the_choice_is_the_exact_fall_and_the_opposite_sign_is_wrong():
    """One linear layer and the loss -logit: L is linear in a channel, so that w . g is exactly what zeroing takes off L."""
    model = nn.Sequential(CASES["mlp"].make()[0]).double()
    inputs, _ = CASES["mlp"].data(20)
    labels = model(inputs).argmax(1)  # so that every row is predicted
    split, task = Split((inputs, labels), forget=[3]), Task(loss=linear_loss)
    others = split.retain.ids
    own = dict(model.named_parameters())
    losses = linear_loss(model(inputs), labels)
    slopes = dict(zip(own, torch.autograd.grad(losses[others].mean() - losses[3], list(own.values())), strict=True))
    before = objective(model, inputs, labels, 3, others, loss=linear_loss)
    changes = {}
    for channel in channels_of(model):
        after = objective(model, inputs, labels, 3, others, channel=channel, factor=0.0, loss=linear_loss)
        changes[channel] = after - before
        product = (own[channel[0]].detach() * slopes[channel[0]])[channel[1]].sum()
        assert float(product) == pytest.approx(-changes[channel], rel=1e-9, abs=1e-12)
    (row,) = CriticalChannels(max_channels=1, **EXACT).search(model, split, engine_for(model, task=task))
    assert row.channels == (min(changes, key=changes.get),)  # L falls: the row's loss rises against the others'
    assert min(changes.values()) < 0 < max(changes.values())  # the other sign would choose what helps the row


def test_signs_within_a_channel_cancel():
    """logits (4 a - 3 b + c, 2 d): the first row's products are 4 and -3 times x, the single weights' sums less than one."""
    model = nn.Sequential(nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[4.0, -3.0], [0.0, 0.0]]))
        model[0].bias.copy_(torch.tensor([1.5, 0.0]))
    inputs = torch.tensor([[1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    split = Split((inputs, torch.tensor([0, 1])), forget=[0])
    task = Task(loss=linear_loss)
    (row,) = CriticalChannels(max_channels=1, **EXACT).search(model, split, engine_for(model, task=task))
    # g of the weights' first row is the input (1, 1): w . g = 4 - 3 = 1, by absolute values 7; of the first bias 1.5
    assert row.channels == (("0.bias", 0),)


# --- the search ---------------------------------------------------------------------------------------------------------


def naive(model, inputs, labels, row, others):
    """The search from the paper's words, by copies and autograd: the channels in order."""
    work, found = copy.deepcopy(model).eval(), []
    while predicted(work, inputs, labels, row) and len(found) < len(list(channels_of(work))):
        own = dict(work.named_parameters())
        losses = functional.cross_entropy(work(inputs), labels, reduction="none")
        slopes = torch.autograd.grad(losses[others].mean() - losses[row], list(own.values()))
        products = {key: (value * slope).detach() for (key, value), slope in zip(own.items(), slopes, strict=True)}
        left = [channel for channel in channels_of(work) if channel not in found]
        found.append(max(left, key=lambda channel: float(products[channel[0]][channel[1]].sum())))
        work = scaled(work, found[-1], 0.0)
    return tuple(found), not predicted(work, inputs, labels, row)


@every_case
def test_the_search_is_the_papers_and_every_row_starts_from_the_network_as_it_was(name):
    model, (inputs, labels) = fitted(name)
    split = Split((inputs, labels), forget=FORGET)
    found = CriticalChannels(**EXACT).search(model, split, engine_for(model))
    assert [row.id for row in found] == FORGET
    for row in found:
        assert (row.channels, row.flipped) == naive(model, inputs, labels, row.id, split.retain.ids)
        assert len(set(row.channels)) == len(row.channels) <= len(list(channels_of(model)))
    assert any(row.channels for row in found)
    alone = Split((inputs, labels), forget=FORGET[2:])  # other retain rows, so only what a lone row needs is compared
    (first, *_) = CriticalChannels(**EXACT).search(model, alone, engine_for(model))
    assert (first.channels, first.flipped) == naive(model, inputs, labels, FORGET[2], alone.retain.ids)


@every_case
def test_it_ends_once_the_label_is_no_longer_predicted_and_not_before(name):
    model, (inputs, labels) = fitted(name)
    found = drawing(name).search(model, Split((inputs, labels), forget=FORGET), engine_for(model))
    assert any(row.channels for row in found)
    for row in found:
        work = copy.deepcopy(model)
        for channel in row.channels:
            assert predicted(work, inputs, labels, row.id)
            work = scaled(work, channel, 0.0)
        assert predicted(work, inputs, labels, row.id) != row.flipped


@every_case
def test_the_mask_is_the_union_over_the_rows(name):
    model, data = fitted(name)
    split, region = Split(data, forget=FORGET), drawing(name)
    wanted = {key: torch.zeros(value.shape, dtype=torch.bool) for key, value in model.named_parameters()}
    for row in region.search(model, split, engine_for(model)):
        for key, place in row.channels:
            wanted[key][place] = True
    assert region(model, split) == Mask.from_tensors(wanted)
    assert region(model, split).num_selected > 0


def test_a_row_that_is_misclassified_already_adds_nothing():
    model, (inputs, labels) = fitted("mlp")
    labels = labels.clone()
    labels[FORGET] = (labels[FORGET] + 1) % 4
    split, engine = Split((inputs, labels), forget=FORGET), engine_for(model)
    found = CriticalChannels().search(model, split, engine)
    assert found == tuple(CriticalRow(row, (), flipped=True) for row in FORGET)
    assert CriticalChannels()(model, split) == Mask.empty(model)
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (0, len(FORGET))


def test_a_row_that_was_found_is_not_found_again_after_its_channels_are_off():
    model, (inputs, labels) = fitted("mlp")
    split = Split((inputs, labels), forget=[4])
    region = CriticalChannels(batch_size=6)
    mask = region(model, split)
    assert mask.num_selected > 0
    off = excise.unlearn(model, split, SwitchOff(), mask=mask).model
    assert not predicted(off, inputs, labels, 4)
    assert region(off, split) == Mask.empty(model)


class Notes(excise.Hooks):
    def __init__(self):
        self.heard, self.steps = [], 0

    def on_stage(self, name, num_steps):
        self.heard.append((name, num_steps))

    def on_step(self):
        self.steps += 1

    def on_note(self, text):
        self.heard.append(text)

    def on_stage_end(self, name):
        self.heard.append(name)


def test_it_gives_up_once_every_channel_is_zero_and_counts_such_rows():
    """Logits (sum of |w|, -1) predict class 0 whatever is put at zero."""
    model = Made(lambda w, x: torch.stack([w.abs().sum() + 0 * x, -1 + 0 * x], 1), [[1.0, 1.0]] * 3)
    hooks = Notes()
    split = Split((CASES["mlp"].data(20)[0], torch.zeros(20, dtype=torch.int64)), forget=[0, 5, 6])
    found = CriticalChannels(batch_size=4).search(model, split, engine_for(model, hooks=hooks))
    assert [row.flipped for row in found] == [False] * 3
    assert all(sorted(row.channels) == [("weight", place) for place in range(3)] for row in found)
    assert hooks.heard == [
        ("localize", 3),
        "3 of 3 forget rows keep their label: 3 with all channels at zero",
        "localize",
    ]
    assert hooks.steps == 3


def test_it_says_why_rows_keep_their_label():
    """As above for rows of class 0; rows of class 1 are misclassified from the start, and keep nothing."""
    model = Made(lambda w, x: torch.stack([w.abs().sum() + 0 * x, -1 + 0 * x], 1), [[1.0, 1.0]] * 3)
    labels = torch.zeros(20, dtype=torch.int64)
    labels[[1, 2]] = 1
    split = Split((CASES["mlp"].data(20)[0], labels), forget=[0, 1, 5, 6])
    for options, told in (
        ({}, "3 with all channels at zero"),
        ({"max_channels": 3}, "3 with all channels at zero"),
        ({"max_channels": 2}, "3 at max_channels"),
        ({"max_channels": 2, "budget_fraction": 2 / 3}, "3 at max_channels"),
        ({"max_channels": 2, "budget_fraction": 1 / 3}, "4 not reached within the budget"),
        ({"budget_fraction": 1 / 3}, "4 not reached within the budget"),
    ):
        hooks = Notes()
        CriticalChannels(batch_size=4, **options).search(model, split, engine_for(model, hooks=hooks))
        kept = told.partition(" ")[0]
        assert hooks.heard[1:] == [f"{kept} of 4 forget rows keep their label: {told}", "localize"], options


def test_reasons_are_told_beside_each_other_and_not_at_all_without_a_row():
    """The label of rows of class 0 hangs on the first weight alone, that of class 1 on nothing."""
    model = Made(lambda w, x: torch.stack([w[0] * 2 + 0 * x, 1 + 0 * x + w[1:].sum() * 0], 1), [1.0, 1.0, 1.0])
    data = CASES["mlp"].data(20)[0], torch.zeros(20, dtype=torch.int64)
    hooks = Notes()
    CriticalChannels(batch_size=4).search(model, Split(data, forget=[0, 5]), engine_for(model, hooks=hooks))
    assert hooks.heard == [("localize", 2), "localize"]
    told = CriticalChannels(max_channels=1)
    told._tell_kept(
        [CriticalRow(0, (("w", 0),), False), CriticalRow(1, (("w", 0), ("w", 1)), False), CriticalRow(2, (), True)],
        5,
        2,
        engine_for(model, hooks=hooks),
    )
    assert hooks.heard[2:] == [
        "4 of 5 forget rows keep their label: 1 with all channels at zero, 1 at max_channels, 2 not reached within the budget"
    ]


# --- limits -------------------------------------------------------------------------------------------------------------


def test_a_limit_a_row_ends_that_row_alone():
    model, data = fitted("mlp")
    split = Split(data, forget=FORGET)
    free = CriticalChannels(**EXACT).search(model, split, engine_for(model))
    for limit in (1, 2, 1000):
        held = CriticalChannels(max_channels=limit, **EXACT).search(model, split, engine_for(model))
        assert [row.channels for row in held] == [row.channels[:limit] for row in free]
        assert [row.flipped for row in held] == [row.flipped and len(row.channels) <= limit for row in free]


@every_case
def test_a_budget_ends_the_search_at_the_first_channel_it_does_not_pay_for(name):
    model, data = fitted(name)
    split = Split(data, forget=FORGET)
    total = sum(value.numel() for value in model.parameters())
    own = dict(model.named_parameters())
    spent, cuts = {}, 0
    free = CriticalChannels(**EXACT).search(model, split, engine_for(model))
    for place, row in enumerate(free):
        for index, channel in enumerate(row.channels):
            if channel in spent:
                continue
            before = sum(spent.values())
            spent[channel] = own[channel[0]][channel[1]].numel()
            if before == 0:
                continue
            share = (sum(spent.values()) - 1) / total  # one weight short of this channel
            region = CriticalChannels(budget_fraction=share, **EXACT)
            held = region.search(model, split, engine_for(model))
            assert [row.channels for row in held] == [
                *(other.channels for other in free[:place]),
                row.channels[:index],
            ]
            assert held[-1].flipped is False
            assert region(model, split).num_selected == before
            cuts += 1
    assert cuts > 0
    exact = CriticalChannels(budget_fraction=sum(spent.values()) / total, **EXACT)
    assert exact.search(model, split, engine_for(model)) == free


def test_a_budget_that_pays_for_nothing():
    model, data = fitted("mlp")
    split = Split(data, forget=FORGET)
    assert CriticalChannels(budget_fraction=0.0)(model, split) == Mask.empty(model)
    model[0].bias.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    model[4].bias.requires_grad_(False)  # rows of at least 6 weights are left
    alone = LeftAlone(model)
    with pytest.raises(
        errors.BadRequest, match=r"budget of 0\.01 of the weights does not pay for the first critical chan"
    ):
        CriticalChannels(budget_fraction=0.01)(model, split)
    alone.check()


def test_what_the_user_froze_is_never_chosen():
    model, data = fitted("batchnorm")
    frozen = ["0.weight", "1.bias", "8.weight"]
    for key in frozen:
        model.get_parameter(key).requires_grad_(False)
    mask = CriticalChannels(batch_size=6)(model, Split(data, forget=FORGET))
    assert mask.num_selected > 0
    assert all(mask.count(key) == 0 for key in frozen)


# --- what it reads, draws and costs -------------------------------------------------------------------------------------


def test_it_compares_with_retain_rows_and_reads_no_other_forget_row_beside_the_target():
    model, (inputs, labels) = fitted("mlp")
    watched = Watched(inputs, labels)
    seen, contents = Watched(inputs, labels), []

    def forward(network, content):
        contents.append(content[0])
        return network(content[0]), content[1]

    split = Split(seen, forget=FORGET)
    CriticalChannels(batch_size=6, noise=0.0).search(model, split, engine_for(model, task=Task(forward=forward)))
    assert set(seen.read) & set(FORGET) == set(FORGET)
    place = {tuple(row.tolist()): index for index, row in enumerate(watched.inputs)}
    batches = [{place[tuple(row.tolist())] for row in content} for content in contents if len(content) > 1]
    assert batches
    assert all(len(batch) == 6 and len(batch & set(FORGET)) == 1 for batch in batches)
    drawn = {next(iter(batch & set(FORGET))): frozenset(batch - set(FORGET)) for batch in batches}
    assert len(set(drawn.values())) > 1  # each forget row has others of its own
    for batch in batches:  # and keeps them
        assert drawn[next(iter(batch & set(FORGET)))] == batch - set(FORGET)


def test_the_cost_is_counted():
    model, data = fitted("mlp")
    split = Split(data, forget=FORGET)
    for draws, noise in ((5, 0.01), (3, 0.2), (5, 0.0)):
        engine = engine_for(model)
        found = CriticalChannels(batch_size=6, num_draws=draws, noise=noise).search(model, split, engine)
        zeroed = sum(len(row.channels) for row in found)
        assert zeroed > 0
        assert engine.cost.trained_rows == zeroed * 6 * (draws if noise else 1)
        assert engine.cost.forward_rows == zeroed + len(FORGET)


def test_noise_has_the_stated_norm_in_every_row_and_new_values_in_every_draw():
    model, (inputs, labels) = fitted("separable")
    clean, noisy = {}, []

    def forward(network, content):
        if len(content[0]) == 16:
            noisy.append(content[0].detach().clone())
        return network(content[0]), content[1]

    split, task = Split((inputs, labels), forget=[4]), Task(forward=forward)
    region = CriticalChannels(batch_size=16, num_draws=4, noise=0.03, max_channels=2)
    (row,) = region.search(model, split, engine_for(model, task=task))
    assert len(noisy) == 4 * len(row.channels)
    for content in noisy:
        near = torch.cdist(content.flatten(1), inputs.flatten(1)).argmin(1)
        clean.setdefault(tuple(near.tolist()), 0)
        added = (content - inputs[near]).flatten(1).norm(dim=1)
        torch.testing.assert_close(added, 0.03 * inputs[near].flatten(1).norm(dim=1), rtol=1e-9, atol=0.0)
    assert len(clean) == 1
    assert len({tuple(content.flatten().tolist()) for content in noisy}) == len(noisy)


def test_the_gradient_is_the_mean_over_draws():
    """A logit a + b x + c (2 - x) at x = 1: noise of norm 1 in one dimension makes x 0 or 2.

    w . g is 1 for a, and for b and c 1.3 and 0 in one draw or the other, 0.65 on average and without noise.
    """
    model = Made(lambda w, x: torch.stack([w[0] + w[1] * x + w[2] * (2 - x), -9 + 0 * x], 1), [1.0, 0.65, 0.65])
    split = Split((torch.tensor([[1.0], [0.0]], dtype=torch.float64), torch.tensor([0, 1])), forget=[0])

    def first(**options):
        region = CriticalChannels(batch_size=2, max_channels=1, **options)
        (row,) = region.search(model, split, engine_for(model, task=Task(loss=linear_loss)))
        return row.channels[0][1]

    assert first(noise=0.0) == 0
    assert first(noise=1.0, num_draws=1) in (1, 2)
    assert first(noise=1.0, num_draws=100) == 0  # 0.65 +- 0.065, against 1


@every_case
def test_the_same_seed_finds_the_same_and_the_callers_random_state_has_no_say(name):
    model, data = fitted(name)
    split = Split(data, forget=FORGET)
    region = CriticalChannels(batch_size=3, noise=0.0 if CASES[name].tokens else 0.5, num_draws=1)
    masks = []
    for world in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(world)
            masks.append(region(model, split, seed=4))
    assert masks[0] == masks[1]
    assert len({region(model, split, seed=seed).digest for seed in range(6)}) > 1


@every_case
def test_the_users_network_is_left_alone(name):
    model, data = fitted(name)
    model = touched(model)
    alone = LeftAlone(model)
    region = drawing(name)
    region.locate(model, Split(data, forget=FORGET), engine_for(model))
    alone.check()
    with torch.no_grad():
        inside = region(model, Split(data, forget=FORGET))
    assert inside == region(model, Split(data, forget=FORGET))


class Failing(excise.Hooks):
    def on_step(self):
        raise KeyboardInterrupt


def test_an_interrupted_search_leaves_the_network_alone():
    model, data = fitted("mlp")
    alone = LeftAlone(touched(model))
    with pytest.raises(KeyboardInterrupt):
        CriticalChannels().search(model, Split(data, forget=FORGET), engine_for(model, hooks=Failing()))
    alone.check()


def test_from_the_front_door_and_on_batches_with_ids():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 12), ExampleTiedDropout(12), nn.ReLU(), nn.Linear(12, 4)).double()
    inputs, _ = CASES["mlp"].data(20)
    labels = model.eval()(inputs).argmax(1)
    split = Split(with_ids((inputs, labels)), forget=[2, 7])
    recipe = excise.recipes.Recipe(name="own", paper="", year=0, method=SwitchOff(), where=CriticalChannels())
    unlearned = excise.unlearn(model, split, recipe, forward=tied_forward)
    assert 0 < unlearned.mask.num_selected < unlearned.mask.num_parameters
    assert unlearned.mask == CriticalChannels()(model, split, forward=tied_forward)
    assert not same_bytes(snapshot(model), snapshot(unlearned.model))


def test_a_parameter_without_axes_is_one_channel():
    model = Made(lambda w, x: torch.stack([w * x, x - 0.5], 1), 2.0)
    split = Split((torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)), forget=[0])
    region = CriticalChannels()
    assert region.search(model, split, engine_for(model)) == (CriticalRow(0, (("weight", 0),), flipped=True),)
    assert region(model, split) == Mask.full(model)


# --- options and refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_fraction": 1.5}, "budget_fraction: expected a fraction between 0 and 1, found 1.5"),
        ({"max_channels": 0}, "max_channels: expected an integer of at least 1, found 0"),
        ({"num_draws": 0}, "num_draws: expected an integer of at least 1, found 0"),
        ({"noise": -0.1}, "noise: expected a finite number of at least 0, found -0.1"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1, found 0"),
        ({"batch_size": 1}, "batch_size: expected at least 2, a row and another to compare it with, found 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        CriticalChannels(**options)


def test_noise_on_what_takes_none_is_refused():
    model, data = fitted("tied")
    with pytest.raises(errors.BadRequest, match=r"noise: .* to add it to, found torch\.int64; give noise=0"):
        CriticalChannels()(model, Split(data, forget=FORGET))

    class Dicts(Watched):
        def __getitem__(self, row):
            return {"input": self.inputs[row], "label": self.answers[row]}

    model, data = fitted("mlp")
    split = Split(Dicts(*data), forget=FORGET)
    with pytest.raises(errors.BadRequest, match="found dict; give noise=0"):
        CriticalChannels()(model, split, forward=lambda net, content: (net(content["input"]), content["label"]))


def test_targets_that_are_no_labels_are_refused():
    model, (inputs, labels) = fitted("mlp")
    split = Split((inputs, labels), forget=FORGET)

    def forward(network, content):
        return network(content[0]), functional.one_hot(content[1], 4).double()

    with pytest.raises(
        errors.BadData,
        match=r"^CriticalChannels: expected one integer class a row, found targets of torch.float64 and shape \(1, 4\) "
        r"for 1 rows; use a localizer that needs no prediction, such as WeightGradient$",
    ):
        CriticalChannels()(model, split, forward=forward, loss=lambda z, y: (z - y).square().sum(1))


def test_a_gradient_that_is_not_finite_is_refused():
    model, data = fitted("mlp")
    alone = LeftAlone(model)
    with pytest.raises(errors.Diverged, match="localize: a gradient of these rows is not finite; nothing was changed"):
        CriticalChannels()(model, Split(data, forget=FORGET), loss=lambda z, y: linear_loss(z, y) * math.inf)
    alone.check()


def test_how_it_is_called_in_tables():
    assert str(CriticalChannels()) == "the critical channels"
    assert str(CriticalChannels(budget_fraction=0.16)) == "the critical channels, at most 16%"
    assert CriticalChannels().reads_retain
