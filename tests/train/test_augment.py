"""Twin: one image after another, padded, cut and mirrored by hand."""

import msgspec
import pytest
import torch

from excise import errors
from excise.data import Rows
from excise.masks import Mask
from excise.observe import collect
from excise.train import Augment, Pass, TrainPlan, fit_, fit_together_
from excise.train.augment import augmented, draw, joined
from tests.cases import CASES
from tests.probes import engine_for, same_bytes, snapshot
from tests.train.fitting import fit


def naive(image, pad, flipped, corner):
    """Pad, cut out, mirror."""
    top, left = corner
    padded = torch.zeros(len(image), image.shape[1] + 2 * pad, image.shape[2] + 2 * pad, dtype=image.dtype)
    padded[:, pad : pad + image.shape[1], pad : pad + image.shape[2]] = image
    window = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
    return window.flip(2) if flipped else window


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("augment", [Augment(), Augment(flip=False, pad=1), Augment(pad=0), Augment(pad=9)])
def test_a_batch_is_its_images_one_by_one(augment, dtype):
    images, labels = (torch.rand(40, 3, 5, 7) * 255).to(dtype), torch.arange(40)
    before = images.clone()
    drawn = draw(augment, 40, 0, "retain", 1, 2)
    found, kept = augmented((images, labels), augment, drawn)
    twin = [
        naive(image, augment.pad, flipped, corner)
        for image, flipped, corner in zip(images, drawn.flipped.tolist(), drawn.corners.tolist(), strict=True)
    ]
    assert torch.equal(found, torch.stack(twin)) and found.dtype == dtype and found.is_contiguous()
    assert kept is labels and torch.equal(images, before)
    assert augmented(images, augment, drawn).equal(found)  # a batch may be the images alone
    assert set(drawn.flipped.tolist()) == ({True, False} if augment.flip else {False})
    assert {*drawn.corners.flatten().tolist()} <= {*range(2 * augment.pad + 1)}


def test_each_flip_and_corner_is_as_likely_as_any_other():
    drawn = draw(Augment(pad=1), 9000, 0, "retain", 0, 0)
    # five standard errors of a fraction of 9,000
    assert abs(drawn.flipped.double().mean() - 0.5) < 5 * 0.5 / 9000**0.5
    counts = torch.bincount(drawn.corners[:, 0] * 3 + drawn.corners[:, 1], minlength=9)
    assert (counts / 9000 - 1 / 9).abs().max() < 5 * (8 / 81 / 9000) ** 0.5


def test_what_is_drawn_is_a_function_of_seed_stream_epoch_and_step():
    known = [(0, "retain", 0, 0), (1, "retain", 0, 0), (0, "forget", 0, 0), (0, "retain", 1, 0), (0, "retain", 0, 1)]
    several = [draw(Augment(), 50, *place).corners for place in known]
    assert draw(Augment(), 50, *known[0]).corners.equal(several[0])
    assert len({tuple(one.flatten().tolist()) for one in several}) == len(known)
    both = joined([draw(Augment(), 3, *known[0]), draw(Augment(), 2, *known[1])])
    assert len(both.flipped) == len(both.corners) == 5


@pytest.mark.parametrize("content", [torch.zeros(2, 3), {"x": torch.zeros(2, 1, 3, 3)}, (torch.zeros(2, 4), 1), ()])
def test_what_is_no_image_is_refused(content):
    with pytest.raises(errors.BadData, match="augment: expected batches that begin with images"):
        augmented(content, Augment(), draw(Augment(), 2, 0, "retain", 0, 0))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"flip": 1}, "augment: expected flip to be true or false, found 1"),
        ({"pad": -1}, "augment: expected pad to be a whole number from 0 on, found -1"),
        ({"pad": True}, "augment: expected pad to be a whole number from 0 on, found True"),
        ({"flip": False, "pad": 0}, "augment: expected flip, or pad above 0"),
    ],
)
def test_every_field_is_checked(fields, message):
    with pytest.raises(errors.BadRequest, match=message):
        Augment(**fields)


def test_a_plan_without_it_is_written_as_before_there_was_any():
    old = b'{"epochs":2,"lr":0.1,"optimizer":"sgd","momentum":0.9,"weight_decay":0.0,"schedule":"cosine",'
    for plan in (TrainPlan(epochs=2, lr=0.1), TrainPlan(epochs=2, lr=0.1, augment=None)):
        assert msgspec.json.encode(plan).startswith(old) and b"augment" not in msgspec.json.encode(plan)
        assert "augment" not in msgspec.to_builtins(plan) and not plan.augment
        assert msgspec.convert(msgspec.to_builtins(plan), TrainPlan) == plan == plan.of_epochs(2)
    plan = TrainPlan(epochs=2, lr=0.1, augment=Augment(pad=2))
    assert msgspec.to_builtins(plan)["augment"] == {"flip": True, "pad": 2}
    assert msgspec.json.decode(msgspec.json.encode(plan), type=TrainPlan) == plan
    with pytest.raises(errors.BadRequest, match="augment: expected an Augment, or None, found str"):
        TrainPlan(epochs=1, lr=0.1, augment="flip")


PLAN = TrainPlan(epochs=2, lr=0.05, batch_size=8, augment=Augment(pad=1))


def test_training_steps_see_augmented_images_and_nothing_else_does():
    case = CASES["separable"]
    inputs, labels = case.data(20)
    model, seen = case.make(), []

    def objective(step):
        batch = step.batches["retain"]
        drawn = draw(PLAN.augment, len(batch), 4, "retain", step.epoch, step.index)
        twin = [
            naive(inputs[row], 1, bool(flipped), corner)
            for row, flipped, corner in zip(batch.ids.tolist(), drawn.flipped, drawn.corners.tolist(), strict=True)
        ]
        assert torch.equal(batch.content[0], torch.stack(twin)) and torch.equal(batch.content[1], labels[batch.ids])
        seen.append(not torch.equal(batch.content[0], inputs[batch.ids]))
        return step.mean_loss("retain")

    rows = Rows.all_of((inputs, labels))
    fit(model, rows, PLAN, objective=objective, engine=engine_for(model, seed=4))
    assert all(seen) and len(seen) == 6
    with torch.no_grad():
        expected = model.eval()(inputs)
    assert torch.equal(torch.from_numpy(collect(model, rows, engine_for(model)).logits), expected)


def test_networks_trained_together_see_what_each_would_see_alone():
    case, chosen = CASES["batchnorm"], [3, 8]
    rows = Rows.all_of(case.data(20))
    ones, others = [case.make() for _ in chosen], [case.make() for _ in chosen]
    part = Pass(lambda step: step.mean_loss("retain"), ("retain",))
    for one, seed in zip(ones, chosen, strict=True):
        engine = engine_for(one, seed=seed)
        fit_(one, lambda _: (part,), {"retain": rows}, PLAN, Mask.full(one), engine, stage="T", statistics="adapt")
    fit_together_(others, [rows, rows], PLAN, chosen, engine_for(others[0]), stage="T")
    for one, other in zip(ones, others, strict=True):
        for name, value in snapshot(one).items():
            torch.testing.assert_close(snapshot(other)[name], value, rtol=1e-8, atol=1e-9)  # sums in another order
    plain = [case.make() for _ in chosen]
    without = msgspec.structs.replace(PLAN, augment=None)
    fit_together_(plain, [rows, rows], without, chosen, engine_for(plain[0]), stage="T")
    assert not same_bytes(snapshot(plain[0]), snapshot(others[0]))
