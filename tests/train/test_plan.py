import itertools
import math

import msgspec
import pytest
import torch

from excise import errors
from excise.train import TrainPlan
from excise.train.plan import IMPLEMENTATIONS, OPTIMIZERS, require_plan


def naive_sgd(weight, gradients, lr, *, momentum, decay):
    velocity = torch.zeros_like(weight)
    for number, gradient in enumerate(gradients):
        slope = gradient + decay * weight
        velocity = slope if number == 0 else momentum * velocity + slope
        weight = weight - lr * velocity
    return weight


def naive_adam(weight, gradients, lr, *, decay, decoupled):
    """Kingma and Ba 2015, algorithm 1; Loshchilov and Hutter 2019, algorithm 2, for the decoupled decay."""
    first = second = torch.zeros_like(weight)
    for number, gradient in enumerate(gradients, start=1):
        slope = gradient if decoupled else gradient + decay * weight
        weight = weight * (1 - lr * decay) if decoupled else weight
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        unbiased = first / (1 - 0.9**number), second / (1 - 0.999**number)
        weight = weight - lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    return weight


TWINS = {
    "sgd": lambda weight, gradients: naive_sgd(weight, gradients, 0.1, momentum=0.8, decay=0.03),
    "adam": lambda weight, gradients: naive_adam(weight, gradients, 0.1, decay=0.03, decoupled=False),
    "adamw": lambda weight, gradients: naive_adam(weight, gradients, 0.1, decay=0.03, decoupled=True),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_optimizer_follows_its_papers_update(optimizer, implementation):
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=draws, dtype=torch.float64)
    gradients = torch.randn(4, 7, generator=draws, dtype=torch.float64)
    plan = TrainPlan(
        epochs=1, lr=0.1, optimizer=optimizer, momentum=0.8, weight_decay=0.03, implementation=implementation
    )
    weight = start.clone().requires_grad_()
    made = plan.make_optimizer([weight])
    for gradient in gradients:
        weight.grad = gradient.clone()
        made.step()
    # 1e-12: the order of float64 operations inside torch's loops
    torch.testing.assert_close(weight.detach(), TWINS[optimizer](start, gradients), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_asked_for_loop_is_the_one_that_runs(optimizer, implementation):
    made = TrainPlan(epochs=1, lr=0.1, optimizer=optimizer, implementation=implementation).make_optimizer(
        [torch.zeros(2, requires_grad=True)]
    )
    assert {name for name in ("foreach", "fused") if made.defaults[name]} == {implementation} - {"default"}


def test_the_cosine_starts_at_lr_and_ends_one_step_before_its_floor():
    plan = TrainPlan(epochs=4, lr=0.2, final_lr_fraction=0.1)
    assert plan.lr_at(0) == pytest.approx(0.2, rel=1e-15)
    assert plan.lr_at(2) == pytest.approx(0.2 * (0.1 + 1) / 2, rel=1e-15)  # half way: the mean of start and floor
    assert plan.lr_at(4) == pytest.approx(0.02, rel=1e-15)
    half = math.sqrt(0.5)
    assert [plan.lr_at(epoch) for epoch in (1, 3)] == pytest.approx([0.11 + 0.09 * half, 0.11 - 0.09 * half], rel=1e-14)


def test_a_constant_schedule_is_constant():
    plan = TrainPlan(epochs=4, lr=0.2, schedule="constant")
    assert {plan.lr_at(epoch) for epoch in range(4)} == {0.2}


def test_a_plan_survives_being_saved():
    plan = TrainPlan(epochs=3, lr=0.1, optimizer="adamw", clip_norm=0.5, shuffle=False, implementation="fused")
    assert msgspec.json.decode(msgspec.json.encode(plan), type=TrainPlan) == plan
    with pytest.raises(msgspec.ValidationError, match="unknown field `epoch`"):
        msgspec.json.decode(b'{"epochs": 1, "lr": 0.1, "epoch": 2}', type=TrainPlan)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs: expected an integer of at least 1, found 0"),
        ({"epochs": 1.5}, "epochs: expected an integer of at least 1, found 1.5"),
        ({"batch_size": True}, "batch_size: expected an integer of at least 1, found True"),
        ({"lr": -0.1}, "lr: expected a finite number of at least 0, found -0.1"),
        ({"lr": math.nan}, "lr: expected a finite number of at least 0, found nan"),
        ({"momentum": math.inf}, "momentum: expected a finite number of at least 0, found inf"),
        ({"weight_decay": -1}, "weight_decay: expected a finite number of at least 0, found -1"),
        ({"final_lr_fraction": "a"}, "final_lr_fraction: expected a finite number of at least 0, found 'a'"),
        ({"clip_norm": -1.0}, "clip_norm: expected a finite number of at least 0, found -1.0"),
        ({"optimizer": "lars"}, "optimizer: expected one of sgd, adam, adamw, found 'lars'"),
        (
            {"schedule": "step"},
            "schedule: expected one of constant, cosine, milestones, triangle, exponential, found 'step'",
        ),
        (
            {"schedule": "milestones"},
            r"milestones: expected epochs with schedule milestones and none with another, found \(\) with milestones",
        ),
        (
            {"milestones": (3,)},
            r"milestones: expected epochs with schedule milestones and none with another, found \(3,\) with cosine",
        ),
        (
            {"schedule": "milestones", "milestones": (3, 2)},
            r"milestones: expected epochs from 1 on, ascending, found \(3, 2\)",
        ),
        (
            {"schedule": "milestones", "milestones": (0,)},
            r"milestones: expected epochs from 1 on, ascending, found \(0,\)",
        ),
        ({"implementation": "jit"}, "implementation: expected one of default, foreach, fused, found 'jit'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(wrong, message):
    with pytest.raises(errors.BadRequest, match=f"^{message}$"):
        TrainPlan(**{"epochs": 1, "lr": 0.1, **wrong})


def test_milestones_multiply_from_their_epoch_on():
    plan = TrainPlan(epochs=10, lr=0.5, schedule="milestones", milestones=(5, 8, 9))  # SCRUB's, counted from 0
    assert [plan.lr_at(epoch) for epoch in range(10)] == pytest.approx([0.5] * 5 + [0.05] * 3 + [0.005, 0.0005])
    half = TrainPlan(epochs=3, lr=1.0, schedule="milestones", milestones=(1,), milestone_factor=0.5)
    assert [half.lr_at(epoch) for epoch in range(3)] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("epochs", "shares"),
    [(1, [1]), (2, [1, 1 / 2]), (4, [1 / 2, 1, 2 / 3, 1 / 3]), (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])],
)
def test_the_triangle_goes_up_to_the_middle_and_down_to_zero_after_the_last(epochs, shares):
    """Up for the first (E + 1) // 2 epochs, down so that epoch E + 1 would have a rate of 0."""
    plan = TrainPlan(epochs=epochs, lr=0.3, schedule="triangle")
    assert [plan.lr_at(epoch) for epoch in range(epochs)] == pytest.approx([0.3 * share for share in shares])


def test_the_exponential_falls_by_one_factor_to_its_end_one_step_after_the_last():
    plan = TrainPlan(epochs=4, lr=0.05, schedule="exponential", final_lr_fraction=0.2)
    rates = [plan.lr_at(epoch) for epoch in range(5)]
    torch.testing.assert_close(rates[0], 0.05, rtol=0, atol=0)
    torch.testing.assert_close(rates[4], 0.01)
    assert all(math.isclose(after / before, 0.2**0.25) for before, after in itertools.pairwise(rates))


def test_a_training_function_is_no_plan():
    def train(model, dataset, seed):
        return model

    for value, name in ((train, "train"), (None, "NoneType"), ({"epochs": 1}, "dict")):
        with pytest.raises(
            errors.BadRequest, match=f"Retrain: expected plan to be an excise.TrainPlan.* found {name}$"
        ):
            require_plan(value, "Retrain")
    require_plan(TrainPlan(epochs=1, lr=0.1), "Retrain")


def test_a_plan_over_other_epochs_is_the_same_but_for_them():
    plan = TrainPlan(epochs=20, lr=0.1, weight_decay=5e-4)
    short = plan.of_epochs(4)
    assert (short.epochs, short.lr, short.weight_decay, short.schedule) == (4, 0.1, 5e-4, "cosine")
    assert short.lr_at(0) == plan.lr_at(0) and short.lr_at(3) < short.lr_at(0) / 2
    steps = TrainPlan(epochs=20, lr=0.1, schedule="milestones", milestones=(5, 10))
    assert (steps.of_epochs(8).milestones, steps.of_epochs(8).schedule) == ((5,), "milestones")
    assert (steps.of_epochs(3).milestones, steps.of_epochs(3).schedule) == ((), "constant")
    assert steps.of_epochs(20) == steps
