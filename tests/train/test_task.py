import re

import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Rows
from excise.data.batches import Batch
from excise.train import Task, cross_entropy, forward_pair
from excise.train.task import device_of, floating_inputs, require_class_targets, with_inputs
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, as_module, touched


def some_rows(num_rows=20, *, num_classes=4):
    draws = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, 6, generator=draws, dtype=torch.float64), torch.arange(num_rows) % num_classes


def test_cross_entropy_is_minus_the_log_probability_of_the_target():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-3.0, 1.0, 5.0]], dtype=torch.float64)
    targets = torch.tensor([0, 2, 1])
    odds = logits.exp()
    by_hand = -(odds[torch.arange(3), targets] / odds.sum(1)).log()
    torch.testing.assert_close(cross_entropy(logits, targets), by_hand, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_floating_inputs_take_the_networks_precision_and_integers_stay(dtype):
    seen = []
    weight = nn.Parameter(torch.zeros(1, dtype=dtype))
    model = as_module(lambda inputs: seen.append(inputs) or inputs, weight)
    for inputs in (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.int64)):
        _, targets = forward_pair(model, (inputs, torch.tensor([0, 1])))
        assert targets.tolist() == [0, 1]
    assert [value.dtype for value in seen] == [dtype, dtype, torch.int64]


@pytest.mark.parametrize("content", [torch.zeros(3), {"x": torch.zeros(3)}, (torch.zeros(3),) * 3])
def test_other_shapes_of_example_need_a_forward_of_their_own(content):
    found = type(content).__name__
    with pytest.raises(
        errors.BadData, match=rf"expected batches \(inputs, targets\), found {found}; pass forward=, a callable"
    ):
        forward_pair(CASES["mlp"].make(), content)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_reduced_loss_is_refused(reduction):
    task = Task(loss=lambda logits, targets: nn.functional.cross_entropy(logits, targets, reduction=reduction))
    inputs, labels = some_rows(5)
    with pytest.raises(
        errors.BadRequest, match=re.escape('one value for each of 5 examples, found shape (); use reduction="none"')
    ):
        task.losses(CASES["mlp"].make(), Batch(torch.arange(5), (inputs, labels)))


def test_losses_are_those_of_the_given_forward_and_loss():
    task = Task(
        forward=lambda model, content: (model(content["x"]), content["y"]),
        loss=lambda logits, targets: (logits[:, 0] - targets) ** 2,
    )
    inputs, labels = some_rows(5)
    model = CASES["mlp"].make()
    losses = task.losses(model, Batch(torch.arange(5), {"x": inputs, "y": labels}))
    assert torch.equal(losses, torch.stack([(model(inputs)[i, 0] - labels[i]) ** 2 for i in range(5)]))


@pytest.mark.parametrize("name", CASES)
def test_a_network_and_rows_that_go_together_pass_and_are_left_alone(name):
    model = touched(CASES[name].make())
    alone = LeftAlone(model)
    Task().require_fit(model, {"forget": Rows.all_of(CASES[name].data(12))})
    alone.check()


def test_the_check_runs_at_most_eight_rows_in_eval_mode_and_where_gradients_flow():
    calls = []
    model = CASES["mlp"].make()
    model.register_forward_hook(lambda module, args, out: calls.append((len(out), module.training, out.requires_grad)))
    Task().require_fit(model, {"forget": Rows.all_of(some_rows(3)), "retain": Rows.all_of(some_rows(50))})
    assert calls == [(3, False, True), (8, False, True)]


def test_every_label_is_checked_and_named_by_position():
    inputs, labels = some_rows(50)
    labels[[7, 40]] = torch.tensor([4, -1])
    rows = Rows.all_of((inputs, labels))
    with pytest.raises(
        errors.BadData,
        match=r"retain: 2 labels lie outside 0 to 3, the classes of the network's head \(at positions 7, 40 of 50\); correct",
    ):
        Task().require_fit(CASES["mlp"].make(), {"retain": rows})
    with pytest.raises(errors.BadData, match=r"forget: 1 labels lie outside 0 to 3, .* \(at position 0 of 1\)"):
        Task().require_fit(CASES["mlp"].make(), {"forget": Rows(rows.source, torch.tensor([7]))})


def test_labels_are_not_asked_for_where_the_user_says_how_to_read_a_batch():
    inputs, labels = some_rows(9)
    regression = Task(
        forward=lambda model, content: (model(content[0]), content[1]),
        loss=lambda logits, targets: (logits[:, 0] - targets) ** 2,
    )
    regression.require_fit(CASES["mlp"].make(), {"forget": Rows.all_of((inputs, labels * 1.5))})


class Twisted(nn.Module):
    """A linear layer whose output is passed through a function."""

    def __init__(self, twist):
        super().__init__()
        self.linear = nn.Linear(6, 4, dtype=torch.float64)
        self.twist = twist

    def forward(self, inputs):
        return self.twist(self.linear(inputs))


def raising(error):
    def twist(_):
        raise error

    return twist


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes cannot be multiplied\nmore"), "shapes cannot be multiplied; check"),
        (ValueError(""), "ValueError; check"),
        (NotImplementedError(), "NotImplementedError; check"),
        (TypeError("an int"), "an int; check"),
        (IndexError("index 9"), "index 9; check"),
        (KeyError("x"), "'x'; check"),
        (AttributeError("no shape"), "no shape; check"),
        (AssertionError("was expecting embedding dimension of 8, but got 6"), "was expecting embedding dimension"),
    ],
)
def test_a_network_that_cannot_take_the_rows_is_a_mistake_of_the_users(error, said):
    model = touched(Twisted(raising(error)))
    alone = LeftAlone(model)
    with pytest.raises(errors.BadData, match=f"^Twisted could not be run on forget rows: {re.escape(said)}") as caught:
        Task().require_fit(model, {"forget": Rows.all_of(some_rows())})
    assert caught.value.__cause__ is error
    alone.check()


def test_our_own_refusals_pass_through():
    with pytest.raises(errors.BadData, match=r"^expected batches \(inputs, targets\)"):
        Task().require_fit(CASES["mlp"].make(), {"forget": Rows.all_of([{"x": torch.zeros(6)}] * 3)})


@pytest.mark.parametrize(
    ("twist", "said"),
    [
        (lambda logits: logits[:, 0], r"expected logits of shape \[batch, classes\] for a batch of 8, found \(8,\)"),
        (lambda logits: logits[1:], r"for a batch of 8, found \(7, 4\)"),
        (lambda logits: {"logits": logits}, "for a batch of 8, found dict; pass forward="),
        (lambda logits: logits / 0, "Twisted gives logits that are not finite on forget rows; check the weights"),
        (lambda logits: logits * torch.nan, "Twisted gives logits that are not finite"),
    ],
)
def test_logits_of_no_use_are_refused(twist, said):
    with pytest.raises(errors.UnsupportedModel, match=said):
        Task().require_fit(Twisted(twist), {"forget": Rows.all_of(some_rows())})


def test_a_network_without_weights_that_may_change_is_refused():
    rows = {"forget": Rows.all_of(some_rows())}
    with pytest.raises(errors.UnsupportedModel, match="expected a network with parameters, found none in ReLU"):
        Task().require_fit(nn.ReLU(), rows)
    with pytest.raises(errors.UnsupportedModel, match="all 6 parameters of Sequential are frozen"):
        Task().require_fit(CASES["mlp"].make().requires_grad_(False), rows)
    with pytest.raises(errors.UnsupportedModel, match="parameter 'weight' has no shape yet; run one batch"):
        Task().require_fit(nn.LazyLinear(4), rows)


def test_a_map_style_data_set_is_read_only_where_it_must_be():
    watched = Watched(*some_rows(30), forbidden=range(10, 30))
    Task().require_fit(CASES["mlp"].make(), {"forget": Rows.all_of(watched).head(10)})
    assert set(watched.read) == set(range(10))


def test_the_device_is_the_first_parameters():
    assert device_of(nn.Linear(2, 2)) == torch.device("cpu")
    assert device_of(nn.Linear(2, 2, device="meta")) == torch.device("meta")


def test_a_forward_without_a_gradient_is_refused_before_any_work():
    @torch.no_grad()
    def forward(model, content):
        return model(content[0]), content[1]

    case = CASES["mlp"]
    with pytest.raises(errors.UnsupportedModel, match=r"the logits of .* on forget rows have no gradient"):
        Task(forward=forward).require_fit(case.make(), {"forget": Rows.all_of(case.data(4))})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_classes_of_the_network_are_accepted(dtype):
    require_class_targets(torch.tensor([0, 3, 2], dtype=dtype), torch.zeros(3, 4), "Look", remedy="stop")


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        (torch.zeros(3), r"torch\.float32 and shape \(3,\)"),
        (torch.zeros(3, dtype=torch.bool), r"torch\.bool and shape \(3,\)"),
        (torch.zeros(3, dtype=torch.complex64), r"torch\.complex64 and shape \(3,\)"),
        (torch.zeros(3, 4, dtype=torch.int64), r"torch\.int64 and shape \(3, 4\)"),
        (torch.zeros(2, dtype=torch.int64), r"torch\.int64 and shape \(2,\)"),
        (torch.zeros((), dtype=torch.int64), r"torch\.int64 and shape \(\)"),
    ],
)
def test_targets_that_are_not_one_class_a_row_are_refused(targets, found):
    message = f"^Look: expected one integer class a row, found targets of {found} for 3 rows; stop$"
    with pytest.raises(errors.BadData, match=message):
        require_class_targets(targets, torch.zeros(3, 4), "Look", remedy="stop")


@pytest.mark.parametrize("label", [-1, 4])
def test_classes_that_the_network_does_not_have_are_refused_where_they_count(label):
    targets, among = torch.tensor([0, label, 1]), torch.tensor([True, False, True])
    require_class_targets(targets, torch.zeros(3, 4), "Look", remedy="stop", among=among)
    message = f"^Look: expected classes from 0 to 3, those of the network, found {label}; correct the labels$"
    for rows in (None, ~among):
        with pytest.raises(errors.BadData, match=message):
            require_class_targets(targets, torch.zeros(3, 4), "Look", remedy="stop", among=rows)


def test_a_batch_with_other_inputs_keeps_the_rest_once_for_each_copy():
    rest = {"label": torch.tensor([5, 6]), "box": torch.arange(6).reshape(2, 3), "name": "x"}
    inputs, kept = with_inputs((torch.zeros(2, 4), rest), torch.ones(6, 4), 3)
    assert inputs.shape == (6, 4) and kept["name"] == "x"
    assert kept["label"].tolist() == [5, 6, 5, 6, 5, 6]
    assert torch.equal(kept["box"], torch.cat([rest["box"]] * 3))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(2, 3), "a tensor of torch.float32;"),
        ({"x": torch.zeros(2, 3)}, "dict;"),
        ((torch.zeros(2), torch.zeros(2), torch.zeros(2)), "tuple;"),
        ((torch.zeros(2, dtype=torch.uint8), torch.zeros(2)), "a tensor of torch.uint8 for inputs;"),
        (((torch.zeros(2),), torch.zeros(2)), "tuple for inputs;"),
    ],
)
def test_inputs_that_cannot_be_moved_a_little_are_refused(content, found):
    with pytest.raises(errors.UnsupportedModel, match=f"floating-point numbers to move a little, found {found}"):
        floating_inputs(content)


def test_labels_are_looked_at_only_where_somebody_reads_them():
    inputs, labels = some_rows(num_classes=9)
    rows = {"forget": Rows.all_of((inputs, labels))}
    Task().require_fit(CASES["mlp"].make(), rows, labelled=False)
    with pytest.raises(errors.BadData, match="labels lie outside 0 to 3"):
        Task().require_fit(CASES["mlp"].make(), rows)
