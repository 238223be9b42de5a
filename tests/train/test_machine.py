"""How work is done. Accelerators are pretended: what is decided is a function of a description."""

import msgspec
import pytest
import torch
from torch import nn

from excise import errors
from excise.train import Machine
from excise.train.machine import WORTH_COMPILING, Device, Traits, Way, device_at, require_machine, settled, traits_of
from tests.cases import CASES

CPU, NEW, OLD = Device("cpu", bfloat16=True), Device("cuda", bfloat16=True), Device("cuda", bfloat16=False)
IMAGES, WORDS, DOUBLE = Traits(True, True), Traits(True, False), Traits(False, True)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("precision", "half", "precision: expected one of auto, float32, bfloat16, found 'half'"),
        ("layout", "nchw", "layout: expected one of auto, contiguous, channels-last, found 'nchw'"),
        ("compiled", True, "compiled: expected one of auto, never, always, found True"),
        ("on_device", "yes", "on_device: expected one of auto, never, always, found 'yes'"),
        ("workers", -1, "workers: expected a whole number from 0 on, found -1"),
        ("workers", True, "workers: expected a whole number from 0 on, found True"),
        ("workers", 1.0, "workers: expected a whole number from 0 on, found 1.0"),
    ],
)
def test_every_field_is_checked(field, value, message):
    with pytest.raises(errors.BadRequest, match=message):
        Machine(**{field: value})


@pytest.mark.parametrize("traits", [IMAGES, WORDS, DOUBLE])
def test_on_a_cpu_the_default_is_plain_pytorch(traits):
    assert settled(Machine(), CPU, traits, 10**9) == Way()
    assert Way().facts() == {}


@pytest.mark.parametrize(
    ("machine", "device", "traits", "num_steps", "expected"),
    [
        (Machine(), NEW, IMAGES, 10, "bfloat16 channels-last"),
        (Machine(), NEW, WORDS, 10, "bfloat16"),
        (Machine(), NEW, DOUBLE, 10, "channels-last"),
        (Machine(), OLD, IMAGES, 10, "channels-last"),
        (Machine(), NEW, WORDS, WORTH_COMPILING - 1, "bfloat16"),
        (Machine(), NEW, WORDS, WORTH_COMPILING, "bfloat16 compiled"),
        (Machine(), NEW, WORDS, None, "bfloat16"),
        (Machine(precision="float32", layout="contiguous", compiled="never"), NEW, IMAGES, 10**9, ""),
        (Machine(precision="bfloat16", layout="channels-last", compiled="always"), CPU, IMAGES, 1, None),
        (Machine(layout="channels-last"), CPU, WORDS, 1, ""),
        (Machine(compiled="always"), CPU, WORDS, None, ""),
    ],
)
def test_what_the_settings_come_to(machine, device, traits, num_steps, expected):
    words = "bfloat16 channels-last compiled" if expected is None else expected
    assert settled(machine, device, traits, num_steps).facts() == ({"machine": words} if words else {})


def test_bfloat16_is_refused_for_a_network_of_another_precision():
    with pytest.raises(errors.BadRequest, match="precision: bfloat16 is for networks whose parameters are of float32"):
        Machine(precision="bfloat16").way(CASES["mlp"].make())
    assert Machine(precision="bfloat16").way(nn.Linear(2, 2)).bfloat16


def test_what_ends_the_process_in_torch_is_refused():
    grouped = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4))
    Machine().way(grouped)
    with pytest.raises(errors.BadRequest, match="layout: channels-last on a CPU is not for networks with group norm"):
        Machine(layout="channels-last").way(grouped)
    settled(Machine(layout="channels-last"), Device("xpu", bfloat16=True), traits_of(grouped), 1)


def test_networks_and_devices_are_looked_at():
    assert traits_of(CASES["batchnorm"].make()) == Traits(float32=False, images=True)
    assert traits_of(nn.Linear(2, 2)) == Traits(float32=True, images=False)
    assert device_at(torch.device("cpu")) == CPU
    assert not device_at(torch.device("meta")).accelerates


def test_a_machine_is_written_without_what_is_left_out_and_read_back():
    assert msgspec.to_builtins(Machine()) == {}
    machine = Machine(precision="bfloat16", workers=2)
    assert msgspec.to_builtins(machine) == {"precision": "bfloat16", "workers": 2}
    assert msgspec.convert(msgspec.to_builtins(machine), Machine) == machine


def test_something_else_is_no_machine():
    with pytest.raises(errors.BadRequest, match=r"machine: expected an excise.Machine, .* found str"):
        require_machine("fast")


@pytest.mark.gpu
def test_an_accelerator_is_used_as_it_can_be():
    device = torch.accelerator.current_accelerator()
    way = Machine().way(nn.Conv2d(1, 1, 1).to(device))
    assert way.channels_last and way.bfloat16 == device_at(device).bfloat16
