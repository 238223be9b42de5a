"""An untrained network of a user's architecture: built by the user's callable, or a copy re-initialised in place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from excise import errors, params, seeds


def fresh_builder(model: nn.Module, fresh: Callable[[], nn.Module] | None, seed: int) -> Callable[[], nn.Module]:
    """Give a callable that builds the same untrained network each time, on the device and in the precision of `model`.

    Args:
        model: the trained network.
        fresh: the user's callable, called with global random numbers seeded from `seed`; None to re-initialise a copy.
        seed: of the initial weights.

    Raises:
        errors.UnsupportedModel: (when called) some parameter has no module that re-initialises it.
        errors.BadRequest: `fresh` is a network itself; (when called) it gave no network, or the trained one.
        errors.MaskMismatch: (when called) `fresh` built another architecture.
    """

    if isinstance(fresh, nn.Module):
        raise errors.BadRequest(
            "fresh: expected a callable that builds an untrained network each time, found a network; pass make_model, "
            "not make_model()"
        )

    def build() -> nn.Module:
        with seeds.isolated(seed, "fresh"):
            made = reinitialised(model) if fresh is None else fresh()
        if not isinstance(made, nn.Module):
            raise errors.BadRequest(
                f"fresh: expected a callable that builds the network, it gave {type(made).__name__}"
            )
        if {id(value) for value in made.parameters()} & {id(value) for value in model.parameters()}:
            raise errors.BadRequest("fresh: expected an untrained network, it gave the trained one; build a new one")
        made = made.to(next(model.parameters()).device)
        _require_same_shapes(model, made)
        _alike_(made, model)
        return made

    return build


def untrained(model: nn.Module, before: nn.Module, fresh: Callable[[], nn.Module] | None) -> Callable[[], nn.Module]:
    """Give a callable that draws new initial weights at each call, on the model's device, after checking that it can."""
    fresh_builder(model, fresh, 0)()
    first = next(model.parameters())
    if fresh is not None:
        with seeds.isolated(0, "fresh"):
            made = [params.unwrapped(one) for one in (fresh(), fresh())]
        known = [{id(value) for value in one.parameters() if value.requires_grad} for one in (*made, model, before)]
        if any(known[0] & other for other in known[1:]):
            raise errors.BadRequest(
                "fresh: expected a new untrained network at each call, it gave weights of the network under audit, of its "
                "original, or the same ones twice; build the network inside the callable"
            )

    def build() -> nn.Module:
        made = (reinitialised(model) if fresh is None else params.unwrapped(fresh())).to(first.device)
        _alike_(made, model)
        return made

    return build


def reinitialised(model: nn.Module) -> nn.Module:
    """Give a copy with every parameter drawn anew by its own module's `reset_parameters`, inner modules before outer ones.

    Parameters that the user froze (`requires_grad` False) keep their values. Every other is first set to NaN; what is still
    NaN afterwards was not re-initialised. Normalisation layers reset their running statistics themselves; a buffer that
    no module resets keeps its value, since nothing tells a constant from a statistic.

    Raises:
        errors.UnsupportedModel: names the parameters that would have kept their trained values.
    """
    copy = params.clone_model(model)
    frozen = {name: value.detach().clone() for name, value in copy.named_parameters() if not value.requires_grad}
    with torch.no_grad():
        for value in copy.parameters():
            if value.is_floating_point() or value.is_complex():
                value.fill_(torch.nan)
    for module in reversed(list(copy.modules())):  # as when built: a module made its parts, then changed their draws
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            try:
                reset()
            except (ValueError, TypeError, RuntimeError, AttributeError) as error:
                raise errors.UnsupportedModel(
                    f"{type(module).__name__}.reset_parameters failed ({error}); pass fresh=, a callable that builds it"
                ) from error
    with torch.no_grad():
        for name, before in frozen.items():  # never trained on the rows: a backbone that only carries a head stays
            copy.get_parameter(name).copy_(before)
    kept = [name for name, value in copy.named_parameters() if bool(value.isnan().any())]
    if kept:
        shown = ", ".join(kept[:5]) + (f" and {len(kept) - 5} more" if len(kept) > 5 else "")
        raise errors.UnsupportedModel(
            f"no module re-initialises {shown}, which would keep trained values; "
            "pass fresh=, a callable that builds the untrained network"
        )
    return copy


@torch.no_grad()
def _alike_(made: nn.Module, model: nn.Module) -> None:
    """Give an untrained network the trained one's precisions, tensor by tensor, in place."""
    made = params.unwrapped(made)
    own = {**params.named_parameters(model), **dict(model.named_buffers())}
    for name, value in (*params.named_parameters(made).items(), *made.named_buffers()):
        if name in own and value.dtype != own[name].dtype:
            value.data = value.to(own[name].dtype)


def _require_same_shapes(model: nn.Module, made: nn.Module) -> None:
    want = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
    have = {name: tuple(value.shape) for name, value in params.named_parameters(made).items()}
    if want != have:
        differing = sorted(name for name in {*want, *have} if want.get(name) != have.get(name))
        raise errors.MaskMismatch(
            f"fresh: built another architecture than the trained network; {differing[0]!r} is "
            f"{have.get(differing[0])} there and {want.get(differing[0])} in the trained one ({len(differing)} differ)"
        )
