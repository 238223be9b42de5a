import pytest
import torch
from torch import nn

from excise import errors
from excise.data import Split
from excise.methods.judging import judged
from excise.train import Task
from tests.cases import CASES
from tests.probes import LeftAlone, engine_for, touched


@pytest.mark.parametrize("size", [1, 4, 50])
def test_it_says_row_by_row_what_is_wrong_and_leaves_everything_alone(size):
    model = touched(nn.Sequential(nn.Dropout(0.5), CASES["batchnorm"].make()))
    inputs, labels = CASES["batchnorm"].data(24)
    split, alone = Split((inputs, labels), forget=[2, 9, 4, 17, 23]), LeftAlone(model)
    engine = engine_for(model)
    wrong, targets = judged(model, split.forget, engine, batch_size=size, asking="Test", remedy="no")
    alone.check()
    rows = [2, 4, 9, 17, 23]
    with torch.no_grad():
        expected = model.eval()(inputs[rows]).argmax(1) != labels[rows]
    assert wrong.tolist() == expected.tolist() and targets.tolist() == labels[rows].tolist()
    assert int(wrong.sum()) > 0
    assert engine.cost.forward_rows == 5 and engine.cost.trained_rows == 0


def test_targets_that_are_no_classes_are_refused_in_the_askers_name():
    model = CASES["mlp"].make()
    task = Task(lambda network, content: (network(content[0]), content[1].double()))
    split = Split(CASES["mlp"].data(20), forget=[0, 1])
    with pytest.raises(errors.BadData, match=r"^Test: expected one integer class a row, .*; do something else$"):
        judged(
            model, split.forget, engine_for(model, task=task), batch_size=4, asking="Test", remedy="do something else"
        )
