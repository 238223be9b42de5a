"""What several processes make of it is tested in test_processes, which starts them."""

import copy

import pytest
import torch
from torch import nn

from excise import errors
from excise.distributed import Processes, normalised_together

TWO = Processes(0, 2)


class Own(nn.BatchNorm1d):
    def forward(self, inputs):
        return super().forward(inputs) * 2


def test_one_process_keeps_its_layers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with normalised_together(model, Processes.alone()):
        assert "forward" not in vars(model[1])


def test_layers_are_given_back_also_on_failure():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    marked = model[1].forward
    model[1].forward = marked
    with pytest.raises(ZeroDivisionError), normalised_together(model, TWO):
        assert vars(model[1])["forward"] is not marked
        raise ZeroDivisionError
    assert "forward" not in vars(model[0])
    assert vars(model[1])["forward"] is marked


def test_a_copy_made_inside_normalises_by_its_own_statistics():
    model = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with normalised_together(model, TWO):
        twin = copy.deepcopy(model)
        twin[0].running_mean.fill_(1)
        assert twin(torch.ones(1, 2)).abs().max() == 0
    assert model(torch.ones(1, 2)).abs().min() > 0.9


@pytest.mark.parametrize("layer", [Own(2), nn.InstanceNorm1d(2, track_running_stats=True)])
def test_statistics_that_cannot_be_taken_together_are_refused_where_they_move(layer):
    model = nn.Sequential(nn.Linear(2, 2), layer)
    with (
        pytest.raises(
            errors.UnsupportedModel, match=r"'1' is a (Own|InstanceNorm1d), whose statistics of a batch cannot"
        ),
        normalised_together(model, TWO),
    ):
        pass
    with normalised_together(model.eval(), TWO):
        pass
