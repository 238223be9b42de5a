import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.localize import Gradient, Localizer, Magnitude, Scores, WeightGradient
from tests.cases import CASES
from tests.probes import LeftAlone, Watched, touched

FORGET = [1, 4]


class Ones(Localizer):
    """A user's own criterion."""

    def score(self, model, split, engine):
        shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
        self.engine = engine
        return Scores({key: torch.ones(shape) for key, shape in shapes.items()}, shapes)


def test_a_localizer_of_the_users_own_is_called_with_the_users_task():
    def forward(model, content):
        return model(content[0]), content[1]

    def loss(logits, targets):
        return logits[:, 0]

    own, model = Ones(), CASES["mlp"].make()
    scores = own(model, Split(CASES["mlp"].data(12), forget=FORGET), forward=forward, loss=loss)
    assert (own.engine.task.forward, own.engine.task.loss) == (forward, loss)
    assert own.engine.besides.num_selected == 0
    assert scores.select(budget_fraction=0.5, granularity="weight").num_selected == 97


@pytest.mark.parametrize(
    "localizer", [Gradient(), WeightGradient(), Magnitude(), Ones()], ids=lambda localizer: type(localizer).__name__
)
def test_without_asking_no_retain_row_is_touched(localizer):
    watched = Watched(*CASES["mlp"].data(12), forbidden=set(range(12)) - set(FORGET))
    localizer(touched(CASES["mlp"].make()), Split(watched, forget=FORGET))
    assert set(watched.read) == set(FORGET)
    assert not localizer.reads_retain


@pytest.mark.parametrize("make", [Gradient, WeightGradient])
def test_scoring_every_row_reads_every_row_and_checks_it_first(make):
    inputs, labels = CASES["mlp"].data(12)
    watched = Watched(inputs, labels)
    assert make(rows="train").reads_retain
    make(rows="train")(CASES["mlp"].make(), Split(watched, forget=FORGET))
    assert set(watched.read) == set(range(12))
    labels[7] = 9
    with pytest.raises(errors.BadData, match="retain: 1 labels lie outside 0 to 3"):
        make(rows="train")(CASES["mlp"].make(), Split((inputs, labels), forget=FORGET))
    make()(CASES["mlp"].make(), Split((inputs, labels), forget=FORGET))


@pytest.mark.parametrize(
    "localizer", [Gradient(), WeightGradient(), Magnitude(), Ones()], ids=lambda localizer: type(localizer).__name__
)
@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (lambda model, labels: labels.fill_(4), errors.BadData, "forget: 2 labels lie outside 0 to 3"),
        (
            lambda model, labels: nn.init.constant_(model[4].bias, torch.nan),
            errors.UnsupportedModel,
            "gives logits that are not finite on forget rows",
        ),
        (lambda model, labels: model.requires_grad_(False), errors.UnsupportedModel, "all 6 parameters .* are frozen"),
    ],
    ids=["labels", "weights", "frozen"],
)
def test_network_and_rows_that_do_not_go_together_are_refused(localizer, spoil, error, said):
    model = CASES["mlp"].make()
    inputs, labels = CASES["mlp"].data(12)
    spoil(model, labels)
    alone = LeftAlone(model)
    with pytest.raises(error, match=said):
        localizer(model, Split((inputs, labels), forget=FORGET))
    alone.check()
