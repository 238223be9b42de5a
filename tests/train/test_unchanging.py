"""The tables: what stands in them does the same twice, in both modes, and draws nothing."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from excise.train import unchanging

OPTIONS = {
    "Linear": (4, 3),
    "Embedding": (5, 3),
    "Unflatten": (1, (2, 2)),
    "GLU": (1,),
    "Threshold": (0.1, 2.0),
    "LayerNorm": (4,),
    "RMSNorm": (4,),
    "GroupNorm": (2, 4),
    "LocalResponseNorm": (2,),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "ChannelShuffle": (2,),
    "Fold": (2, 1),
    "Unfold": (1,),
    "Upsample": (4,),
    "TransformerEncoderLayer": (4, 2, 4, 0.0),
    "Softmin": (1,),
    "Softmax": (1,),
    "LogSoftmax": (1,),
}
BY_SIZE = {"Conv": (4, 2, 1), "ConvTranspose": (4, 2, 1), "MaxPool": (1,), "AvgPool": (1,), "LPPool": (2, 1)}
BY_SIZE |= {"AdaptiveMaxPool": (1,), "AdaptiveAvgPool": (1,), "ConstantPad": (1, 0.5)}
INPUTS = {
    "Embedding": torch.tensor([[0, 4], [1, 1]]),
    "Softmax2d": torch.ones(2, 4, 2, 2),
    "PixelShuffle": torch.ones(2, 4, 2, 2),
    "PixelUnshuffle": torch.ones(2, 4, 2, 2),
    "ChannelShuffle": torch.ones(2, 4, 2, 2),
    "Fold": torch.ones(2, 4, 4),
    "Unfold": torch.ones(2, 4, 2, 2),
    "Upsample": torch.ones(2, 4, 2),
    "TransformerEncoderLayer": torch.ones(2, 3, 4),
    "LocalResponseNorm": torch.ones(2, 4, 2),
}
CONTAINERS = {"ModuleList", "TransformerEncoder", "Bilinear"}  # nothing to run, or not on one tensor


def made(kind):
    name = kind.__name__
    stem, size = name[:-2], name[-2:]
    if size in ("1d", "2d", "3d") and name not in INPUTS:
        inputs = torch.linspace(-1, 1, 2 * 4 * 4 ** int(size[0])).reshape(2, 4, *[4] * int(size[0]))
        return kind(*BY_SIZE.get(stem, (1,))), inputs
    return kind(*OPTIONS.get(name, ())), INPUTS.get(name, torch.linspace(-1, 1, 8).reshape(2, 4))


@pytest.mark.parametrize("kind", unchanging.MODES_ALIKE, ids=lambda kind: kind.__name__)
def test_a_module_of_the_table_does_the_same_in_both_modes_and_draws_nothing(kind):
    if kind.__name__ in CONTAINERS:
        return
    module, inputs = made(kind)
    module.requires_grad_(False)
    assert unchanging.is_unchanging_module(module.train())
    state = torch.get_rng_state()
    first = module(inputs.clone())
    assert torch.equal(first, module(inputs.clone()))
    if kind is not nn.TransformerEncoderLayer:  # which has a faster way, of other rounding, in eval mode
        assert torch.equal(first, module.eval()(inputs.clone()))
    assert torch.equal(state, torch.get_rng_state())


def frozen(module, *, training):
    return module.requires_grad_(False).train(training)


@pytest.mark.parametrize(
    ("module", "in_training", "in_eval"),
    [
        (nn.Dropout(0.5), False, True),
        (nn.Dropout2d(0.0), True, True),
        (nn.AlphaDropout(0.5), False, True),
        (nn.RReLU(), False, True),
        (nn.BatchNorm2d(2), False, True),
        (nn.BatchNorm2d(2, track_running_stats=False), False, False),  # rows depend on their batch, always
        (nn.InstanceNorm2d(2), True, True),
        (nn.InstanceNorm2d(2, track_running_stats=True), False, True),
        (nn.Embedding(3, 2, max_norm=1.0), False, False),  # writes to its table
        (nn.MultiheadAttention(4, 2), True, True),
        (nn.MultiheadAttention(4, 2, dropout=0.1), False, True),
        (nn.TransformerEncoderLayer(4, 2, 4, 0.1), False, True),
        (nn.TransformerEncoderLayer(4, 2, 4, 0.0), True, True),
        (nn.FractionalMaxPool2d(1, 1), False, False),
        (nn.LSTM(2, 2), False, False),
        (nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_draws_or_writes_stands_in_no_table(module, in_training, in_eval):
    assert unchanging.is_unchanging_module(frozen(module, training=True)) == in_training
    assert unchanging.is_unchanging_module(frozen(module, training=False)) == in_eval


def test_a_weight_that_may_change_or_a_forward_written_over_is_not_unchanging():
    module = frozen(nn.Linear(2, 2), training=True)
    assert unchanging.is_unchanging_module(module)
    module.forward = lambda inputs: inputs
    assert not unchanging.is_unchanging_module(module)
    assert not unchanging.is_unchanging_module(nn.Linear(2, 2))

    class Own(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs) + torch.rand(())

    assert not unchanging.is_unchanging_module(frozen(Own(2, 2), training=True))


def only_call(function):
    found = [node for node in fx.symbolic_trace(function).graph.nodes if node.op.startswith("call")]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("function", "unchanging_", "writes"),
    [
        (lambda x: F.dropout(x), False, False),
        (lambda x: F.dropout(x, 0.5, False), True, False),
        (lambda x: F.dropout(x, training=False), True, False),
        (lambda x: torch.dropout(x, 0.5, True), False, False),
        (lambda x: F.scaled_dot_product_attention(x, x, x), True, False),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), False, False),
        (lambda x: torch.rand_like(x), False, False),
        (lambda x: x.bernoulli(), False, False),
        (lambda x: x.relu(), True, False),
        (lambda x: x.relu_(), True, True),
        (lambda x: F.relu(x, inplace=True), True, True),
        (lambda x: x.shape, True, False),
        (lambda x: x @ x, True, False),
    ],
)
def test_a_call_is_judged_by_its_name_and_by_what_makes_it_draw(function, unchanging_, writes):
    node = only_call(function)
    assert unchanging.is_unchanging_call(node) == unchanging_
    assert unchanging.writes(node) == writes
