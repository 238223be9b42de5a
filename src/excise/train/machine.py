"""`Machine`: how work is done, apart from what is done; and `Way`, what that comes to for one network on one device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec
import torch
from torch import nn

from excise import errors
from excise.data.placing import ON_DEVICE, OnDevice

Precision = Literal["auto", "float32", "bfloat16"]
Layout = Literal["auto", "contiguous", "channels-last"]
Compiled = Literal["auto", "never", "always"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
COMPILED: tuple[Compiled, ...] = get_args(Compiled)

COMPILATION_SECONDS = 60.0
"""What compiling a network of ResNet-18's size, forward and backward, takes from nothing; an estimate on the high side."""
SAVED_SECONDS = 0.003
"""What a compiled step of it saves on an accelerator: mostly the launching of some hundred kernels of 10 µs each."""
WORTH_COMPILING = round(COMPILATION_SECONDS / SAVED_SECONDS)
"""Steps from which on `auto` compiles on an accelerator."""


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How work is done. On a CPU the defaults are plain PyTorch, bit for bit.

    Attributes:
        precision: of training steps. `float32`: the network's own; `bfloat16`: the forward pass under autocast, weights,
            losses and optimizer in float32; `auto`: `bfloat16` on an accelerator that has it, for networks of float32.
            Scores, masks, observations and measures are in the network's own precision always, so that no mask hangs on
            the rounding of bfloat16.
        layout: of weights of convolutions and of images while training. `auto`: `channels-last` on an accelerator, for
            networks that have such weights. Digests do not depend on it.
        compiled: whether training steps run the network through `torch.compile`. `auto`: on an accelerator, for trainings
            of `WORTH_COMPILING` steps or more.
        workers: processes that read ahead from data that are no arrays. What such data draw at random is then another
            draw than without workers, and the same for any number of them.
        on_device: whether array data are copied to an accelerator once, rather than batch by batch. `auto`: if they take
            at most half of its free memory.

    Raises:
        errors.BadRequest: a value out of range, by name.

    >>> Machine(workers=2)
    Machine(precision='auto', layout='auto', compiled='auto', workers=2, on_device='auto')
    """

    precision: Precision = "auto"
    layout: Layout = "auto"
    compiled: Compiled = "auto"
    workers: int = 0
    on_device: OnDevice = "auto"

    def __post_init__(self) -> None:
        """Check every field."""
        for name, words in (
            ("precision", PRECISIONS),
            ("layout", LAYOUTS),
            ("compiled", COMPILED),
            ("on_device", ON_DEVICE),
        ):
            if getattr(self, name) not in words:
                raise errors.BadRequest(f"{name}: expected one of {', '.join(words)}, found {getattr(self, name)!r}")
        if type(self.workers) is not int or self.workers < 0:
            raise errors.BadRequest(f"workers: expected a whole number from 0 on, found {self.workers!r}")

    def way(self, model: nn.Module, num_steps: int | None = None) -> Way:
        """Say what the settings come to for a network where it is.

        Args:
            model: looked at only.
            num_steps: of the training; None where nothing is to be compiled.

        Raises:
            errors.BadRequest: `bfloat16` for a network that is not of float32; `channels-last` on a CPU for a network with
                group normalisation, whose backward pass then ends the process in torch 2.13.
        """
        return settled(self, device_at(next(model.parameters()).device), traits_of(model), num_steps)


def require_machine(value: object) -> None:
    """Refuse what is no `Machine`."""
    if not isinstance(value, Machine):
        raise errors.BadRequest(
            f"machine: expected an excise.Machine, such as Machine(workers=4), found {type(value).__name__}"
        )


@dataclass(frozen=True)
class Device:
    """What of a device matters here.

    Attributes:
        kind: as torch names it, such as `cpu`.
        bfloat16: whether it computes in that precision, and not by emulation.
    """

    kind: str
    bfloat16: bool

    @property
    def accelerates(self) -> bool:
        """Whether it is an accelerator, which works on while the processor goes on."""
        return self.kind not in ("cpu", "meta")


@dataclass(frozen=True)
class Traits:
    """What of a network matters here.

    Attributes:
        float32: all its floating parameters are of float32.
        images: it has weights with four axes, those of convolutions over images.
        groups: it has group normalisation.
    """

    float32: bool
    images: bool
    groups: bool = False


@dataclass(frozen=True)
class Way:
    """How one network is trained on one device: `Machine` with every `auto` decided.

    Attributes:
        kind: of device.
        bfloat16: the forward pass under autocast.
        channels_last: weights with four axes, and batches of images, lie channels last.
        compiled: batches of the usual size run through `torch.compile`.
    """

    kind: str = "cpu"
    bfloat16: bool = False
    channels_last: bool = False
    compiled: bool = False

    def facts(self) -> dict[str, str]:
        """Give what changes numbers, as words for keys; nothing for plain PyTorch, so that its keys stay."""
        told = {"bfloat16": self.bfloat16, "channels-last": self.channels_last, "compiled": self.compiled}
        words = " ".join(name for name, done in told.items() if done)
        return {"machine": words} if words else {}


def settled(machine: Machine, device: Device, traits: Traits, num_steps: int | None) -> Way:
    """Decide every `auto`.

    >>> settled(Machine(), Device("cpu", bfloat16=True), Traits(float32=True, images=True), 10**9).facts()
    {}
    >>> settled(Machine(), Device("xpu", bfloat16=True), Traits(float32=True, images=True), 10**9).facts()
    {'machine': 'bfloat16 channels-last compiled'}
    """
    if machine.precision == "bfloat16" and not traits.float32:
        raise errors.BadRequest(
            "precision: bfloat16 is for networks whose parameters are of float32, found another kind; "
            "leave it at auto, which keeps their own"
        )
    if _last(machine) and traits.groups and not device.accelerates:
        raise errors.BadRequest(
            "layout: channels-last on a CPU is not for networks with group normalisation, whose backward pass torch ends the "
            "process in; leave it at auto"
        )
    halved = device.accelerates and device.bfloat16 and traits.float32
    worth = device.accelerates and (num_steps or 0) >= WORTH_COMPILING
    return Way(
        kind=device.kind,
        bfloat16=halved if machine.precision == "auto" else machine.precision == "bfloat16",
        channels_last=traits.images and (device.accelerates if machine.layout == "auto" else _last(machine)),
        compiled=num_steps is not None and (worth if machine.compiled == "auto" else machine.compiled == "always"),
    )


def _last(machine: Machine) -> bool:
    return machine.layout == "channels-last"


def traits_of(model: nn.Module) -> Traits:
    """Look at a network's parameters."""
    every = list(model.parameters())
    floating = [value for value in every if value.is_floating_point()]
    return Traits(
        float32=all(value.dtype == torch.float32 for value in floating),
        images=any(value.ndim == 4 for value in every),
        groups=any(isinstance(module, nn.GroupNorm) for module in model.modules()),
    )


def device_at(device: torch.device) -> Device:
    """Look at a device."""
    if not Device(device.type, bfloat16=False).accelerates:
        return Device(device.type, bfloat16=True)
    ask: Any = getattr(torch.get_device_module(device), "is_bf16_supported", None)
    if ask is None:
        return Device(device.type, bfloat16=False)
    try:
        return Device(device.type, bfloat16=bool(ask(including_emulation=False)))
    except TypeError:  # older ones cannot be asked whether they emulate it
        return Device(device.type, bfloat16=bool(ask()))
