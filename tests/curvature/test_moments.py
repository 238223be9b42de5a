"""Second moments of layers' inputs, against the layers themselves, a naive sum over patches, and their own algebra."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from excise import errors, params
from excise.curvature import Moments, layers_of, second_moments
from excise.curvature.moments import unfolded
from excise.data import Split
from excise.data.rows import Rows
from excise.train import Hooks, Task
from tests.cases import CASES
from tests.probes import LeftAlone, as_module, engine_for, touched

DRAWS = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(shape, generator=DRAWS, dtype=torch.float64)


LAYERS = {
    "conv2d": (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "strided": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
    "oblong": (nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3)), (2, 7, 6)),
    "dilated": (nn.Conv2d(2, 4, 3, dilation=2, padding="same"), (2, 7, 6)),
    "even, same": (nn.Conv2d(2, 4, 4, padding="same"), (2, 7, 6)),
    "valid": (nn.Conv2d(2, 4, 2, padding="valid", stride=3), (2, 7, 6)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, stride=2), (4, 5, 5)),
    "circular": (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 4, 5)),
    "reflect": (nn.Conv2d(2, 4, 3, padding=2, padding_mode="reflect", stride=2), (2, 4, 5)),
    "replicate": (nn.Conv1d(2, 4, 3, padding=1, padding_mode="replicate"), (2, 9)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, dilation=2, groups=2), (4, 11)),
    "conv3d": (nn.Conv3d(2, 4, 2, stride=(1, 2, 1), groups=2), (2, 3, 4, 3)),
    "linear": (nn.Linear(5, 3), (5,)),
    "linear, leading axes": (nn.Linear(5, 3), (2, 4, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)
def test_the_weight_times_the_patches_is_what_the_layer_gives(layer, shape):
    layer, inputs = layer.double(), numbers(3, *shape)
    patches = unfolded(layer, inputs)
    groups = patches.shape[0]
    weight = layer.weight.detach().reshape(groups, len(layer.weight) // groups, -1)
    products = (weight @ patches.mT).flatten(0, 1)  # [channels, rows]
    outputs = layer(inputs).detach()
    outputs = outputs - (layer.bias if isinstance(layer, nn.Linear) else layer.bias.view(-1, *[1] * (outputs.ndim - 2)))
    channels = outputs.reshape(-1, 3).T if isinstance(layer, nn.Linear) else outputs.transpose(0, 1).flatten(1)
    assert torch.allclose(products, channels.detach(), rtol=0, atol=1e-12)


def test_a_plain_convolution_has_the_patches_of_torch():
    layer, inputs = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)), numbers(2, 3, 7, 8)
    wanted = functional.unfold(inputs, (3, 2), dilation=(1, 2), padding=1, stride=2)
    assert torch.equal(unfolded(layer, inputs)[0], wanted.transpose(1, 2).flatten(0, 1))


class Mixed(nn.Module):
    """A layer run twice, one shared by two modules, one never run, and an embedding with a head tied to it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)
        self.one, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
        self.other.weight = self.one.weight
        self.never = nn.Linear(2, 2)
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(2)
        self.embed, self.tied = nn.Embedding(5, 5), nn.Linear(5, 5)
        self.tied.weight = self.embed.weight

    def forward(self, inputs):
        hidden = self.norm(self.drop(self.conv(input=self.conv(inputs))))
        return self.tied(self.other(self.one(hidden))).mean(1)


def mixed():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return Mixed().double()


def test_layers_are_those_whose_outputs_hang_on_the_weight_alone():
    model = mixed()
    assert set(layers_of(model)) == {"conv.weight", "one.weight", "never.weight"}
    nn.utils.parametrizations.weight_norm(model.never)
    assert set(layers_of(model)) == {"conv.weight", "one.weight"}
    model.conv.forward = lambda inputs: inputs
    assert set(layers_of(torch.nn.DataParallel(model))) == {"one.weight"}
    assert set(layers_of(CASES["transformer"].make())) >= {"head.weight", "layers.0.linear1.weight"}


def test_the_sums_are_those_of_a_naive_pass_over_single_rows():
    """Layers that run twice, or are shared, add up; dropout sleeps and normalisation takes its running statistics."""
    model, inputs = mixed(), numbers(7, 2, 5)
    found = second_moments(model, (inputs, torch.zeros(7, dtype=torch.int64)), batch_size=3)
    model.eval()
    wanted = {"conv.weight": torch.zeros(6, 6).double(), "one.weight": torch.zeros(5, 5).double()}
    for row in inputs[:, None]:
        first = model.conv(row)
        second = model.norm(model.conv(first))
        for given in (row, first):
            padded = functional.pad(given[0], (1, 1))
            for place in range(5):
                patch = padded[:, place : place + 3].reshape(-1)
                wanted["conv.weight"] += torch.outer(patch, patch).detach()
        for given in (second, model.one(second)):
            for vector in given[0]:
                wanted["one.weight"] += torch.outer(vector, vector).detach()
    assert set(found.matrices) == set(wanted) and found.num_rows == 7
    for name, matrix in wanted.items():
        assert found.matrices[name].shape == (1, *matrix.shape) and found.matrices[name].dtype == torch.float64
        assert torch.allclose(found.matrices[name][0], matrix, rtol=1e-12, atol=1e-12)


def test_neither_batch_size_nor_chunks_change_more_than_rounding(monkeypatch):
    case = CASES["separable"]
    data = case.data(9)
    one = second_moments(case.make(), data)
    monkeypatch.setattr("excise.curvature.moments.CHUNK", 100)
    other = second_moments(case.make(), data, batch_size=4)
    assert list(one.matrices) == list(other.matrices) == ["0.weight", "2.weight", "3.weight", "7.weight"]
    for name, matrix in one.matrices.items():
        assert torch.allclose(matrix, other.matrices[name], rtol=1e-12, atol=1e-12)
    assert one.matrices["2.weight"].shape == (6, 9, 9)


def whole_numbers(num_rows):
    """Give a network and rows whose sums are whole numbers, in which nothing is rounded."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)).double()
    for value in model.parameters():
        value.data = (value.data * 8).round()
    inputs = torch.randint(-3, 4, (num_rows, 2, 3, 3), generator=torch.Generator().manual_seed(2)).double()
    return model, (inputs, torch.arange(num_rows) % 4)


def test_sums_add_and_subtract_exactly_and_two_requests_are_one():
    model, data = whole_numbers(20)
    split = Split(data, forget=[1, 5, 6, 11])
    full = second_moments(model, split.train)
    parts = {ids: second_moments(model, Rows(split.train.source, torch.tensor(ids))) for ids in ((1, 5), (6, 11))}
    retained, forgotten = second_moments(model, split.retain), second_moments(model, split.forget)
    in_turn = full.minus(parts[1, 5]).minus(parts[6, 11])
    for one, other in (
        (full.minus(forgotten), retained),
        (retained.plus(forgotten), full),
        (in_turn, retained),
        (parts[1, 5].plus(parts[6, 11]), forgotten),
    ):
        assert one.digest == other.digest and one.num_rows == other.num_rows
        assert all(torch.equal(matrix, other.matrices[name]) for name, matrix in one.matrices.items())
    assert full.digest != retained.digest


def test_the_spectrum_takes_the_matrix_apart_and_none_is_negative():
    factors = numbers(2, 6, 4)
    matrix = factors @ factors.mT
    found = Moments({"w": matrix}, 4, "", "")
    values, vectors, negative = found.spectrum("w")
    assert bool((values[:, :-1] >= values[:, 1:]).all()) and bool((values >= 0).all()) and negative < 1e-13
    assert torch.allclose(vectors @ (values[:, :, None] * vectors.mT), matrix, atol=1e-12)
    less = Moments({"w": matrix[:1] - torch.eye(6) * matrix.diagonal(dim1=1, dim2=2).max()}, 4, "", "")
    values, _, negative = less.spectrum("w")
    assert bool((values >= 0).all()) and negative > 0.1
    assert Moments({"w": torch.zeros(1, 3, 3).double()}, 4, "", "").spectrum("w")[2] == 0


def test_a_file_gives_back_what_was_saved_and_fits_one_network(tmp_path):
    model, data = whole_numbers(5)
    found = second_moments(model, data)
    path = tmp_path / "moments.safetensors"
    found.save(path)
    back = Moments.load(path)
    assert back.digest == found.digest and back.num_rows == 5 and back.network == params.model_digest(model)
    assert back.reading == "eval mode, excise.train.task.forward_pair"
    back.require_fit(model)
    with torch.no_grad():
        model[0].bias.add_(1)
    with pytest.raises(errors.BadRequest, match=r"moments: expected those of this network .*, found those of another"):
        back.require_fit(model)
    back.carried_to(model).require_fit(model)
    assert back.carried_to(model).matrices is back.matrices


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "moments.safetensors"
    second_moments(*whole_numbers(5)).save(path)
    content = bytearray(path.read_bytes())
    bad, changed = errors.BadData, "is damaged: its content is not what its header says; make one with `excise moments`"
    for place, kind, said in (
        (len(content) - 3, errors.Corrupt, changed),
        (content.index(b"num_rows"), bad, "is damaged: its header does not say what it belongs to"),
        (content.index(b"excise-moments"), bad, "is not a file written by excise; make one with `excise moments`"),
        (3, bad, "is not a readable safetensors file"),
    ):
        broken = bytearray(content)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(kind, match=said):
            Moments.load(path)
    with pytest.raises(errors.BadData, match=r"expected moments at .*none.safetensors, found no such file; make one"):
        Moments.load(tmp_path / "none.safetensors")


def test_what_is_no_sum_of_squares_is_damaged_too(tmp_path):
    for wrong in (torch.zeros(1, 2, 3).double(), torch.zeros(1, 2, 2), torch.full((1, 2, 2), float("nan")).double()):
        Moments({"w": wrong}, 1, "", "").save(tmp_path / "m.safetensors")
        with pytest.raises(errors.Corrupt, match="is damaged: its content"):
            Moments.load(tmp_path / "m.safetensors")


def test_moments_that_do_not_go_together_are_refused():
    model, data = whole_numbers(6)
    found = second_moments(model, data)
    few = second_moments(model, Rows.all_of(data).head(2))
    with pytest.raises(errors.BadRequest, match="expected at most 2 rows to take out, found 6"):
        few.minus(found)
    other_way = engine_for(model, task=Task(forward=lambda net, batch: net(batch[0])))
    others = {
        "network": second_moments(whole_numbers(6)[0].float(), data),
        "way of reading rows": second_moments(model, data, other_way),
        "layers": second_moments(model, data, layers=["3.weight"]),
    }
    for what, other in others.items():
        for operation in (found.plus, found.minus):
            with pytest.raises(errors.BadRequest, match=f"moments: expected both of one {what}, found"):
                operation(other)


def test_matrices_of_another_form_are_refused():
    model, data = whole_numbers(6)
    found = second_moments(model, data)
    other = Moments({name: one[:, 1:, 1:] for name, one in found.matrices.items()}, 6, found.network, found.reading)
    with pytest.raises(errors.BadRequest, match="moments: expected both of one form of matrices, found"):
        other.minus(found)


@pytest.mark.parametrize("strange", [torch.inf, torch.nan, 1e200])
def test_sums_that_are_not_finite_are_refused(strange):
    model, (inputs, labels) = whole_numbers(6)
    inputs = inputs.index_fill(0, torch.tensor([4]), strange)
    with pytest.raises(
        errors.BadData, match=r"moments: what the layer of '.*weight' is given has squares whose sum is not finite"
    ):
        second_moments(model, (inputs, labels))


def test_layers_can_be_named_and_one_that_never_runs_is_told_by_zeros():
    model, data = mixed(), (numbers(3, 2, 5), torch.zeros(3, dtype=torch.int64))
    found = second_moments(model, data, layers=["never.weight", "one.weight"])
    assert set(found.matrices) == {"never.weight", "one.weight"} and not found.matrices["never.weight"].any()
    assert found.num_bytes == 8 * (4 + 25)
    assert set(found.of_layers(["one.weight"]).matrices) == {"one.weight"}
    assert set(second_moments(model, data, layers=["one"]).matrices) == {"one.weight"}
    with pytest.raises(
        errors.BadRequest, match="layers: no linear or convolutional layer is named 'on'; there are conv, "
    ):
        second_moments(model, data, layers=["one", "on"])


def test_the_network_and_random_numbers_are_left_alone():
    model = touched(mixed())
    alone = LeftAlone(model)
    second_moments(model, (numbers(3, 2, 5), torch.zeros(3, dtype=torch.int64)))
    alone.check()
    broken = as_module(lambda inputs: inputs @ numbers(2, 2), nn.Parameter(torch.zeros(1)))
    with pytest.raises(RuntimeError):
        second_moments(broken, (numbers(3, 5), torch.zeros(3, dtype=torch.int64)))


def test_people_hear_of_steps_and_of_large_matrices(monkeypatch):
    class Ear(Hooks):
        def __init__(self):
            self.said = []

        def on_stage(self, name, num_steps):
            self.said.append((name, num_steps))

        def on_step(self):
            self.said.append("step")

        def on_note(self, text):
            self.said.append(text)

    ear, (model, data) = Ear(), whole_numbers(5)
    monkeypatch.setattr("excise.curvature.moments.LARGE", 12 * 12 * 8)
    engine = engine_for(model, hooks=ear)
    second_moments(model, data, engine, batch_size=2)
    assert ear.said == [
        "moments: the second moments of '3.weight' take 0 MiB; leave the layer out if that is too much",
        ("moments", 3), "step", "step", "step",
    ]  # fmt: skip
    assert engine.cost.forward_rows == 5 and engine.cost.trained_rows == 0
