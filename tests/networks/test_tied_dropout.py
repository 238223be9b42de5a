import copy
import math

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import with_ids
from excise.networks import ExampleTiedDropout, tied_forward
from tests.probes import LeftAlone, raw, same_bytes, snapshot


def ones(num_rows, num_channels, *more):
    return torch.ones(num_rows, num_channels, *more, dtype=torch.float64)


def on(module, ids):
    """Give what a training pass makes of ones: the masks themselves."""
    module.train()
    with module.knowing(torch.tensor(ids)):
        return module(ones(len(ids), module.num_channels))


def test_a_row_has_the_same_mask_in_every_epoch_batch_and_layer_of_the_seed():
    module = ExampleTiedDropout(40, tied_fraction=0.4)
    every = on(module, list(range(50)))
    assert torch.equal(on(module, list(range(50))), every)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(on(module, order.tolist()), every[order])
    for row in (0, 17, 49):
        assert torch.equal(on(module, [row])[0], every[row])
        assert torch.equal(on(module, [row, row])[1], every[row])
    assert torch.equal(on(copy.deepcopy(module), list(range(50))), every)
    on(ExampleTiedDropout(7), [3])  # another layer, of another width, has no say
    assert torch.equal(on(ExampleTiedDropout(40, tied_fraction=0.4), list(range(50))), every)


def test_another_seed_or_id_has_another_mask():
    one, other = (on(ExampleTiedDropout(40, tied_fraction=0.4, seed=seed), list(range(50))) for seed in (0, 1))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({tuple(row.tolist()) for row in one}) == 50


def test_the_fixed_prefix_is_always_on_and_tied_to_nobody():
    for num_channels, fraction, wanted in ((10, 0.2, 2), (64, 0.2, 13), (3, 0.3, 1), (8, 1.0, 8)):
        module = ExampleTiedDropout(num_channels, fixed_fraction=fraction, tied_fraction=0.3)
        assert module.num_fixed == wanted
        assert bool((on(module, list(range(100)))[:, :wanted] == 1).all())
        assert not module.tied(torch.arange(100))[:, :wanted].any()
        assert torch.equal(on(module, list(range(100)))[:, wanted:] == 1, module.tied(torch.arange(100))[:, wanted:])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_rows_are_independent_and_channels_are_on_with_the_stated_probability(p):
    """Counts against the binomial's mean, within 5 standard deviations (one test in 1.7 million would miss)."""
    module = ExampleTiedDropout(220, fixed_fraction=20 / 220, tied_fraction=p)
    tied = module.tied(torch.arange(400))[:, 20:]

    def close(count, number, chance):
        return abs(count - number * chance) < 5 * math.sqrt(number * chance * (1 - chance))

    assert close(int(tied.sum()), tied.numel(), p)
    agreed = int((tied[0::2] == tied[1::2]).sum())  # rows with consecutive ids, each in one pair
    assert close(agreed, tied.numel() // 2, p**2 + (1 - p) ** 2)
    across = int((tied[:, 0::2] == tied[:, 1::2]).sum())  # and channels of one row
    assert close(across, tied.numel() // 2, p**2 + (1 - p) ** 2)


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("gate", ["open", "some", "all tied"])
def test_eval_mode_is_the_mean_of_the_training_masks(gate, rescale):
    module = ExampleTiedDropout(30, fixed_fraction=0.2, tied_fraction=0.3, rescale=rescale).double()
    with torch.no_grad():
        module.gate[{"open": slice(0, 0), "some": slice(4, 11), "all tied": slice(6, 30)}[gate]] = 0
    mean = on(module, list(range(4000))).mean(0)
    module.eval()
    expected = module(ones(1, 30))[0]
    factor = float(expected[0])  # of a channel that is always on
    assert float((mean - expected).abs().max()) < 5 * factor * math.sqrt(0.3 * 0.7 / 4000)
    plain = torch.tensor([1.0] * 6 + [0.3] * 24, dtype=torch.float64)
    torch.testing.assert_close(expected, factor * plain * module.gate.detach(), rtol=1e-14, atol=0.0)
    # with rescale, the expected sum over channels of equal mean is that of the open gates: 6 + 24 * 0.3 = 13.2
    wanted = 13.2 if rescale else {"open": 13.2, "some": 13.2 - 2 - 5 * 0.3, "all tied": 6.0}[gate]
    assert float(expected.sum()) == pytest.approx(wanted, rel=1e-12)
    if rescale and gate == "all tied":
        fixed, tied = 0.2, 0.3
        assert factor == pytest.approx((fixed + (1 - fixed) * tied) / fixed, rel=1e-12)
        assert (fixed + tied) / fixed - factor == pytest.approx(tied, rel=1e-12)  # the published factor


def test_with_every_gate_closed_nothing_comes_through_rescaled_or_not():
    module = ExampleTiedDropout(5, rescale=True).eval()
    nn.init.zeros_(module.gate)
    assert torch.equal(module(ones(2, 5)), 0 * ones(2, 5))


def test_images_are_switched_by_channel_and_the_input_stays():
    module = ExampleTiedDropout(6, fixed_fraction=0.5, tied_fraction=0.5)
    images = torch.randn(
        3, 6, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True
    )
    before = raw(images)
    masks = on(module, [5, 1, 2])
    with module.knowing(torch.tensor([5, 1, 2])):
        found = module(images)
    assert found.dtype == torch.float64
    assert torch.equal(found, images * masks[:, :, None, None])
    assert torch.equal(raw(images), before)
    found.sum().backward()
    assert torch.equal(images.grad, masks[:, :, None, None].expand(images.shape))


def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Linear(4, 12),
            ExampleTiedDropout(12, tied_fraction=0.5),
            nn.ReLU(),
            nn.Sequential(nn.Linear(12, 9), ExampleTiedDropout(9, tied_fraction=0.5, seed=1)),
            nn.Linear(9, 3),
        ).double()


CONTENT = (
    torch.randn(5, 4, generator=torch.Generator().manual_seed(1)),
    torch.tensor([4, 9, 2, 30, 1]),
    torch.arange(5) % 3,
)


def test_the_ids_reach_every_module_inside_for_the_call_alone():
    model = network()
    alone = LeftAlone(model)
    logits, targets = tied_forward(model, CONTENT)
    hidden = model[0](CONTENT[0].double()) * on(model[1], CONTENT[1].tolist())
    hidden = model[3][0](hidden.relu()) * on(model[3][1], CONTENT[1].tolist())
    assert torch.equal(logits, model[4](hidden))
    assert torch.equal(targets, CONTENT[2])
    alone.check()
    with pytest.raises(errors.BadData, match="needs the ids of the 5 rows of the batch, found none"):
        model(CONTENT[0].double())


def test_what_was_known_is_put_back_after_a_failure():
    model = network()
    with model[1].knowing(torch.tensor([7])), pytest.raises(RuntimeError):
        tied_forward(model, (torch.zeros(5, 3), *CONTENT[1:]))  # of another width
    with pytest.raises(errors.BadData, match="found none"):
        model(CONTENT[0].double())
    with model[1].knowing(torch.tensor([7])):
        with pytest.raises(RuntimeError):
            tied_forward(model, (torch.zeros(5, 3), *CONTENT[1:]))
        assert torch.equal(model[1](ones(1, 12)), on(model[1], [7]))


def test_eval_mode_needs_no_ids():
    model = network().eval()
    found = tied_forward(model, CONTENT)[0]
    assert torch.equal(found, tied_forward(model, (CONTENT[0], CONTENT[2].int()))[0])
    assert torch.equal(found, tied_forward(model, (CONTENT[0], CONTENT[1] + 1, CONTENT[2]))[0])
    assert torch.equal(found, model(CONTENT[0].double()))
    assert tied_forward(model, (CONTENT[0], CONTENT[2].int()))[1].dtype == torch.int64


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_training_never_moves_the_gate_and_one_that_is_closed_stays_closed(kind):
    model = network()
    with torch.no_grad():
        model[1].gate[5] = 0
    before = snapshot(model)
    optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        logits, targets = tied_forward(model, CONTENT)
        nn.functional.cross_entropy(logits, targets).backward()
        optimizer.step()
    after = snapshot(model)
    gates = {"1.gate", "3.1.gate"}
    assert same_bytes({name: after[name] for name in gates}, {name: before[name] for name in gates})
    assert not any(torch.equal(after[name], before[name]) for name in set(before) - gates)
    assert model[1].gate.requires_grad  # or a mask would take it for one that the user froze


def test_a_reset_opens_the_gate():
    module = ExampleTiedDropout(4)
    nn.init.constant_(module.gate, torch.nan)
    module.reset_parameters()
    assert torch.equal(module.gate, torch.ones(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_channels": 0}, "num_channels: expected an integer of at least 1, found 0"),
        ({"num_channels": 9, "fixed_fraction": 1.2}, "fixed_fraction: expected a fraction between 0 and 1, found 1.2"),
        ({"num_channels": 9, "tied_fraction": -0.1}, "tied_fraction: expected a fraction between 0 and 1, found -0.1"),
        ({"num_channels": 2}, "fixed_fraction: 0.2 of 2 channels leaves none that is always on; raise it"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        ExampleTiedDropout(**options)


def test_inputs_that_do_not_fit_are_refused():
    module = ExampleTiedDropout(4, fixed_fraction=0.5)
    for inputs in (ones(2, 5), torch.ones(4)):
        with pytest.raises(errors.BadData, match=r"expected inputs \[batch, 4, ...\], found \(.*\); build it with"):
            module(inputs)
    with (
        module.knowing(torch.arange(3)),
        pytest.raises(errors.BadData, match=r"ids of the 2 rows .*, found 3 of them; run"),
    ):
        module(ones(2, 4))
    for content, found in (({"a": 1}, "dict"), ((1, 2, 3, 4), "tuple")):
        with pytest.raises(errors.BadData, match=rf"expected batches \(inputs, ids, targets\), found {found}; make"):
            tied_forward(module, content)


def test_the_data_and_the_forward_fit():
    inputs, _, targets = CONTENT
    logits, _ = tied_forward(network(), with_ids((inputs, targets)))
    assert torch.equal(logits, tied_forward(network(), (inputs, torch.arange(5), targets))[0])
