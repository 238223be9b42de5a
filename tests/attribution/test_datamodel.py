"""Effects beside the whole tensor of coefficients, which the value never holds; what it refuses; files."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from excise import errors, store
from excise.attribution import Datamodel, Made, Part, Shrink
from excise.attribution.datamodel import _seal
from excise.attribution.origin import network_digest, row_digests
from excise.data import Rows

TRAIN = torch.tensor([0, 2, 3, 7, 8, 9])
TEST = torch.tensor([1, 4, 5])


def made(by="means", shrink=None, dtype=torch.float64):
    """Six training rows, eight networks, three classes; weights and factors as a difference in means has them."""
    draws = torch.Generator().manual_seed(3)
    keep = torch.stack([torch.randperm(8, generator=draws) < 4 for _ in TRAIN])
    weights = (keep.double() - 0.5) / 2
    parts = {}
    for name, ids in (("train", TRAIN), ("test", TEST)):
        factors = torch.randn(len(ids), 8, 3, generator=draws, dtype=torch.float64)
        margins = torch.randn(len(ids), 8, generator=draws, dtype=torch.float64)
        parts[name] = Part(
            ids, torch.randn(len(ids), 3, generator=draws), (factors - factors.mean(1, keepdim=True)).to(dtype), margins
        )
    return Datamodel(weights=weights, parts=parts, made=Made(by=by, num_models=8), shrink=shrink or Shrink())


def whole(model, part):
    """beta `[train, rows, classes]`, entry by entry."""
    factors = model.parts[part].factors
    beta = torch.zeros(len(model.weights), len(factors), 3, dtype=torch.float64)
    for i in range(len(beta)):
        for x in range(len(factors)):
            for k in range(8):
                beta[i, x] += model.weights[i, k] * factors[x, k]
            own = part == "train" and i == x
            beta[i, x] *= model.shrink.own if own else model.shrink.other
    return beta


@pytest.mark.parametrize("shrink", [Shrink(), Shrink(own=0.7, other=0.2), Shrink(own=0.5, other=0.0)])
@pytest.mark.parametrize("part", ["train", "test"])
def test_effects_are_sums_of_the_whole_tensor(part, shrink):
    model = made(shrink=shrink)
    ids = model.parts[part].ids
    wanted = whole(model, part)[[1, 3, 4]].sum(0)
    found = model.effects(TRAIN[[1, 3, 4]], ids, part=part)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("part", ["train", "test"])
def test_effects_add_over_disjoint_rows_and_do_not_depend_on_order(part):
    model = made(shrink=Shrink(own=0.7, other=0.2))
    ids = model.parts[part].ids
    both = model.effects(TRAIN[[4, 0, 2]], ids, part=part)
    one, other = (model.effects(TRAIN[some], ids, part=part) for some in ([0], [2, 4]))
    torch.testing.assert_close(both, one + other, rtol=0, atol=1e-14)
    assert torch.equal(both, model.effects(TRAIN[[0, 2, 4]], ids, part=part))
    order = torch.tensor([2, 0, 2])
    assert torch.equal(model.effects(TRAIN[[4, 0, 2]], ids[order], part=part), both[order])
    assert not model.effects(TRAIN[:0], ids, part=part).any()


def test_the_standard_error_of_one_row_is_that_of_the_t_test():
    model = made()
    inside = model.weights[2] > 0
    factors = model.parts["test"].factors
    found = stats.ttest_ind(factors[:, inside].numpy(), factors[:, ~inside].numpy(), axis=1)
    effect = factors[:, inside].mean(1) - factors[:, ~inside].mean(1)
    torch.testing.assert_close(model.effects(TRAIN[[2]], TEST, part="test"), effect, rtol=0, atol=1e-12)
    errors_found = model.standard_errors(TRAIN[[2]], TEST, part="test").numpy()
    np.testing.assert_allclose(errors_found, np.abs(effect.numpy() / found.statistic), rtol=1e-10)


def test_the_standard_error_of_several_rows_is_that_of_a_regression_on_their_contrast():
    model = made()
    contrast = model.weights[[0, 3, 5]].sum(0).numpy()
    outputs = model.parts["test"].factors[1, :, 2].numpy()
    fit = stats.linregress(contrast, outputs)
    found = model.standard_errors(TRAIN[[0, 3, 5]], TEST[[1]], part="test")[0, 2]
    # the effect is the slope times the contrast's squared length
    np.testing.assert_allclose(float(found), fit.stderr * (contrast @ contrast), rtol=1e-10)


@pytest.mark.parametrize("part", ["train", "test"])
def test_the_matrix_of_margins_is_the_product_of_its_factors(part):
    model = made(shrink=Shrink(own=0.7, other=0.2))
    known = model.parts[part]
    wanted = torch.zeros(len(known.ids), len(TRAIN), dtype=torch.float64)
    for x in range(len(known.ids)):
        for i in range(len(TRAIN)):
            own = part == "train" and i == x
            wanted[x, i] = (known.margins[x] * model.weights[i]).sum() * (0.7 if own else 0.2)
    torch.testing.assert_close(model.matrix(known.ids, part=part), wanted, rtol=0, atol=1e-12)
    order = torch.tensor([2, 1])
    torch.testing.assert_close(model.matrix(known.ids[order], part=part), wanted[order], rtol=0, atol=1e-12)


def test_without_rows_nothing_is_known_of_them_and_nothing_else_changes():
    model = made(shrink=Shrink(own=0.7, other=0.2))
    left = model.without(TRAIN[[1, 4]])
    stay = TRAIN[[0, 2, 3, 5]]
    assert left.train.tolist() == stay.tolist()
    for part, ids in (("train", stay), ("test", TEST)):
        assert torch.equal(left.effects(stay[:2], ids, part=part), model.effects(stay[:2], ids, part=part))
    with pytest.raises(errors.BadRequest, match=r"forget: 1 ids .at position 0 of 1. are none of the 4 rows"):
        left.effects(TRAIN[[1]], TEST, part="test")
    with pytest.raises(errors.BadRequest, match="without: expected rows that stay"):
        left.without(stay)


@pytest.mark.parametrize(
    ("forget", "rows", "part", "message"),
    [
        ([1], [0], "train", "forget: 1 ids .at position 0 of 1. are none of the 6 rows that the datamodel knows"),
        ([0, 99], [0], "train", "forget: 1 ids .at position 1 of 2. are none"),
        ([-1], [0], "train", "forget: 1 ids"),
        ([0], [0], "test", "rows: 1 ids .at position 0 of 1. are none of the 3 rows"),
        ([0, 2, 0], [0], "train", "forget: 1 ids that were given before; give each row once"),
        ([0.0], [0], "train", "forget: expected row ids, integers .rows., found torch.float32"),
        ([0], [1], "holdout", "part: this datamodel knows outputs on 'train', 'test', found 'holdout'"),
    ],
)
def test_what_is_not_known_is_refused(forget, rows, part, message):
    with pytest.raises(errors.BadRequest, match=message):
        made().effects(torch.tensor(forget), torch.tensor(rows), part=part)


def test_errors_are_refused_where_factors_are_no_networks():
    with pytest.raises(errors.BadRequest, match="expected a difference in means, found a datamodel made by 'sparse'"):
        made(by="sparse").standard_errors(TRAIN[:1], TRAIN)


def test_margins_are_refused_where_labels_are_no_classes():
    model = made()
    bare = Part(TRAIN, model.parts["train"].base, model.parts["train"].factors)
    silent = Datamodel(weights=model.weights, parts={"train": bare}, made=model.made)
    with pytest.raises(errors.BadRequest, match="margins: the rows of 'train' have no class labels"):
        silent.matrix(TRAIN)


def test_parts_that_do_not_go_together_are_refused():
    model = made()
    with pytest.raises(errors.BadRequest, match=r"expected weights .train, factors. for each row of the part 'train'"):
        Datamodel(weights=model.weights[1:], parts=model.parts, made=model.made)
    wrong = {**model.parts, "test": Part(TEST.flip(0), model.parts["test"].base, model.parts["test"].factors)}
    with pytest.raises(errors.BadRequest, match="for ascending int64 ids of the part 'test'"):
        Datamodel(weights=model.weights, parts=wrong, made=model.made)


def test_other_rows_and_another_network_are_refused():
    model = made()
    data = torch.randn(10, 2, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3
    rows = Rows(Rows.all_of(data).source, TRAIN)
    network = nn.Linear(2, 3)
    known = Part(**{**vars(model.parts["train"]), "content": row_digests(rows)})
    model = Datamodel(
        weights=model.weights, parts={"train": known}, made=Made(by="means", network=network_digest(network))
    )
    model.require_rows(rows)
    model.require_rows(Rows(rows.source, TRAIN[2:]))
    other = data[0].clone(), data[1]
    other[0][3, 0] += 1e-6
    with pytest.raises(errors.BadRequest, match="datamodel: 1 of 6 rows of 'train' have another content"):
        model.require_rows(Rows(Rows.all_of(other).source, TRAIN))
    with pytest.raises(errors.BadRequest, match="train: 4 ids"):
        model.require_rows(Rows.all_of(data))
    model.require_network(nn.DataParallel(nn.Linear(2, 3)))
    with pytest.raises(errors.BadRequest, match="found another Linear; estimate a datamodel for this one"):
        model.require_network(nn.Linear(2, 4))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_file_gives_the_same_effects_and_says_by_how_much_it_errs(precision, tmp_path):
    model = made(shrink=Shrink(own=0.7, other=0.2))
    error = model.save(tmp_path / "a.safetensors", precision=precision)
    again = Datamodel.load(tmp_path / "a.safetensors")
    assert again.made == model.made and again.shrink == model.shrink and repr(again) == repr(model)
    away = max(float((again.parts[p].factors.double() - model.parts[p].factors).abs().max()) for p in model.parts)
    away = max(
        away, *(float((again.parts[p].margins.double() - model.parts[p].margins).abs().max()) for p in model.parts)
    )
    assert error == away and 0 < error < (1e-6 if precision == "float32" else 1e-2)
    difference = again.effects(TRAIN[:1], TEST, part="test") - model.effects(TRAIN[:1], TEST, part="test")
    assert difference.abs().max() <= 2 * error
    assert again.save(tmp_path / "b.safetensors", precision=precision) == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert Datamodel.of(tmp_path / "a.safetensors").made == model.made and Datamodel.of(model) is model


def test_a_file_that_is_not_what_was_written_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    made().save(path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(errors.Corrupt, match="is not the datamodel that was written there"):
        Datamodel.load(path)
    store.write_tensors(path, {"weights": torch.zeros(1)}, {"kind": "excise-mask-1"})
    with pytest.raises(errors.BadData, match="is not a datamodel written by excise; make one with `excise datamodel`"):
        Datamodel.load(path)


@pytest.mark.parametrize("strange", ["train.ids", "train.colour", "test.base", "weights"])
def test_a_file_whose_parts_do_not_go_together_is_refused(strange, tmp_path):
    path = tmp_path / "a.safetensors"
    made().save(path)
    tensors, told = store.read_tensors(path)
    del told["seal"]
    tensors[strange] = torch.zeros(2, dtype=torch.int64)
    store.write_tensors(path, tensors, {**told, "seal": _seal(tensors, told)})
    with pytest.raises(errors.BadData, match="the datamodel's header and its content disagree"):
        Datamodel.load(path)


@pytest.mark.parametrize(
    ("what", "shape"),
    [
        ("ids", (0,)),
        ("ids", (2, 1)),
        ("base", ()),
        ("factors", (3,)),
        ("margins", (2, 9)),
        ("content", (1,)),
        ("content", (2, 2)),
    ],
)
def test_a_part_with_numbers_of_another_form_is_refused(what, shape):
    fitting = {"ids": (2,), "base": (2, 3), "factors": (2, 4, 3), "margins": (2, 4), "content": (2,)}
    forms = {**fitting, what: shape}
    whole = ("ids", "content")
    part = Part(
        **{
            name: torch.arange(2)
            if (name, form) == ("ids", (2,))
            else torch.zeros(form, dtype=torch.int64 if name in whole else None)
            for name, form in forms.items()
        }
    )
    with pytest.raises(errors.BadRequest, match=r"^datamodel: expected "):
        Datamodel(weights=torch.zeros(2, 4), parts={"train": part}, made=Made(by="none"))


def test_a_precision_that_does_not_do_is_refused(tmp_path):
    with pytest.raises(errors.BadRequest, match="precision: expected one of float32, float16, found 'int8'"):
        made().save(tmp_path / "a", precision="int8")
    model = made()
    far = Part(TRAIN, model.parts["train"].base, model.parts["train"].factors * 1e6)
    with pytest.raises(errors.BadRequest, match="precision: factors of 'train' are beyond float16; save as float32"):
        Datamodel(weights=model.weights, parts={"train": far}, made=model.made).save(
            tmp_path / "a", precision="float16"
        )
