"""What a network's modules and parameters show without running it."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from excise.diagnosis.findings import Finding, counted, listed


def look_at(model: nn.Module) -> list[Finding]:
    """Give what stands in the way in the network itself. Reads no row and runs nothing."""
    found = (
        no_parameters(model),
        scripted(model),
        lazy(model),
        quantised(model),
        frozen(model),
        tied(model),
        untracked(model),
        dropout(model),
    )
    return [one for one in found if one is not None]


def no_parameters(model: nn.Module) -> Finding | None:
    """Find a network without parameters."""
    if next(model.parameters(), None) is not None:
        return None
    return Finding(
        f"{type(model).__name__} has no parameters, so there is nothing to change",
        _called("", model),
        "pass the trained module itself; if it was quantised, the one it was quantised from",
        "error",
    )


def scripted(model: nn.Module) -> Finding | None:
    """Find scripted or traced modules."""
    names = _named(model, torch.jit.ScriptModule)
    outermost = [name for name in names if not any(other != name and _holds(other, name) for other in names)]
    if not names:
        return None
    return Finding(
        f"{counted(len(outermost), 'module')} scripted or traced, whose weights cannot be trained under a mask",
        listed([_called(name, model) for name in outermost]),
        "pass the module it was scripted from, and script the unlearned one again",
        "error",
    )


def lazy(model: nn.Module) -> Finding | None:
    """Find parameters that have no shape yet."""
    names = [name for name, value in model.named_parameters() if nn.parameter.is_lazy(value)]
    if not names:
        return None
    return Finding(
        f"{counted(len(names), 'parameter')} without a shape: this network was never run, and so never trained",
        listed(names),
        "run one batch through the network, then load the trained weights",
        "error",
    )


def quantised(model: nn.Module) -> Finding | None:
    """Find modules whose weights are held in integers."""
    names = [
        name
        for name, module in model.named_modules()
        if _is_quantised(module) and not name.endswith("_packed_params")  # the inside of torch's own, named already
    ]
    if not names:
        return None
    return Finding(
        f"{counted(len(names), 'module')} quantised: integer weights have no gradient, and what they hold of the forget "
        "rows would stay",
        listed([_called(name, model) for name in names]),
        "unlearn the floating-point network that it was quantised from, then quantise the result",
        "error",
    )


def _is_quantised(module: nn.Module) -> bool:
    if ".quantized" in type(module).__module__:  # torch's static, dynamic and fused ones
        return True
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(value.is_quantized for value in own) or any(
        not (value.is_floating_point() or value.is_complex()) for value in module.parameters(recurse=False)
    )


def frozen(model: nn.Module) -> Finding | None:
    """Find parameters that require no gradient, and would stay as they are."""
    floating = {name: value for name, value in model.named_parameters() if value.is_floating_point()}
    names = [name for name, value in floating.items() if not value.requires_grad]
    if not names:
        return None
    if len(names) == len(floating):
        return Finding(
            f"all {len(names)} parameters of {type(model).__name__} are frozen (requires_grad is False)",
            listed(names),
            "set requires_grad on those that may change",
            "error",
        )
    return Finding(
        f"{len(names)} of {len(floating)} parameters frozen (requires_grad is False): no recipe changes them, and what "
        "they hold of the forget rows stays",
        listed(names),
        "nothing, if they were frozen in training too (a backbone trained on other rows); else set requires_grad",
        "note",
    )


def tied(model: nn.Module) -> Finding | None:
    """Find parameters that go by several names."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, value in model.named_parameters(remove_duplicate=False):
        names[id(value)].append(name)
    shared = [" = ".join(each) for each in names.values() if len(each) > 1]
    if not shared:
        return None
    return Finding(
        f"{counted(len(shared), 'tied weight')}: one parameter under several names, masked, reset and trained as one",
        listed(shared),
        "nothing to mend; know that a mask or head= that names one of them moves the others, and that masks go by the "
        "first name",
        "note",
    )


def untracked(model: nn.Module) -> Finding | None:
    """Find normalisation over the batch that keeps no running statistics."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)  # the base of all of torch's
        and not isinstance(module, nn.modules.instancenorm._InstanceNorm)
        and module.running_mean is None
    ]
    if not names:
        return None
    return Finding(
        f"{counted(len(names), 'normalisation layer')} without running statistics: what the network says of a row depends "
        "on the rows in the same batch, in eval mode too, and so does every score and every measure of an audit",
        listed(names),
        "train with track_running_stats=True, or with GroupNorm or LayerNorm",
        "warning",
    )


def dropout(model: nn.Module) -> Finding | None:
    """Find modules that drop activations in training mode."""
    names = [name for name, module in model.named_modules() if _drop_probability(module) > 0]
    if not names:
        return None
    return Finding(
        f"{counted(len(names), 'module')} with dropout: off where excise scores and audits, on where a recipe trains, with "
        "random numbers that follow from the seed",
        listed([_called(name, model) for name in names]),
        "nothing to mend; results differ more between seeds, so look at more than one",
        "note",
    )


def _drop_probability(module: nn.Module) -> float:
    inside = isinstance(module, nn.MultiheadAttention | nn.RNNBase)
    if not inside and "drop" not in type(module).__name__.lower():
        return 0.0
    values = (vars(module).get(key) for key in (("dropout",) if inside else ("p", "drop_prob")))
    return next((float(value) for value in values if isinstance(value, int | float)), 0.0)


def _named(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


def _holds(outer: str, name: str) -> bool:
    return not outer or name.startswith(f"{outer}.")


def _called(name: str, model: nn.Module) -> str:
    return name or f"{type(model).__name__} (the network itself)"
