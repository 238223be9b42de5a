"""What several processes make of it is tested in distributed/test_processes, which starts them."""

import pytest
from torch import nn

from excise import errors
from excise.data import Split
from excise.distributed import Processes
from excise.pipeline import agreeing
from excise.train import Hooks
from excise.train.machine import Machine
from tests.cases import CASES
from tests.probes import Watched

TWO = Processes(0, 2)


class Heard(Hooks):
    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


def test_one_process_is_asked_nothing():
    watched = Watched(*CASES["mlp"].data(12))
    agreeing.require_one_request(Processes.alone(), CASES["mlp"].make(), Split(watched, forget=[1]), "")
    agreeing.require_one_result(Processes.alone(), CASES["mlp"].make())
    assert watched.read == []


@pytest.mark.parametrize(
    ("processes", "layer", "checkpoints", "expected"),
    [
        (TWO, nn.Dropout(0.1), False, ["'1' draws random numbers while it trains, each process its own"]),
        (TWO, nn.Dropout(0.0), True, []),
        (Processes.alone(), nn.Dropout(0.1), True, []),
        (Processes(0, 2, "fsdp"), nn.ReLU(), True, ["fsdp keeps no checkpoints"]),
        (Processes(0, 2, "fsdp"), nn.ReLU(), False, []),
    ],
)
def test_in_what_several_are_not_as_one_is_told(processes, layer, checkpoints, expected):
    heard = Heard()
    agreeing.tell(processes, nn.Sequential(nn.Linear(2, 2), layer), heard, checkpoints=checkpoints)
    assert [note.startswith(one) for note, one in zip(heard.notes, expected, strict=True)] == [True] * len(expected)


def test_several_processes_compile_nothing():
    agreeing.require_possible(Processes(0, 2), Machine())
    agreeing.require_possible(Processes.alone(), Machine(compiled="always"))
    with pytest.raises(errors.BadRequest, match="compiled: expected auto or never with several processes"):
        agreeing.require_possible(Processes(0, 2), Machine(compiled="always"))
