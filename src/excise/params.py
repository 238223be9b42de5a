"""Parameters as `dict[str, Tensor]`, always matched by name: copies, digests and comparison of networks.

A network inside torch's own wrappers (`torch.compile`, `DataParallel`, `DistributedDataParallel`) has the names that it
has without them, so that a mask or a patch made of the one fits the other.
"""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from excise import errors

WRAPPERS = ("module.", "_orig_mod.")
"""What torch puts before every name of a network it wraps: (Distributed)DataParallel, and `torch.compile`."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Give the network inside torch's own wrappers, however many; a network without one is given as it is."""
    held = _held(model)
    return model if held is None else unwrapped(held)


def rewrapped(wrapper: nn.Module, inner: nn.Module) -> nn.Module:
    """Give copies of the wrappers of one network around another of the same architecture, which is not copied.

    What is compiled is compiled anew at its first use. A copy of `DistributedDataParallel` keeps the settings, but not a
    communication hook; over another group than the default one torch refuses to copy, and it is constructed anew.
    Neither way waits for other processes.

    Args:
        wrapper: the wrapped network, left alone; one without a wrapper gives `inner` itself.
        inner: what to wrap.

    Raises:
        errors.UnsupportedModel: the processes of a distributed wrapper are gone.
    """
    held = _held(wrapper)
    if held is None:
        return inner
    within = rewrapped(held, inner)
    if isinstance(wrapper, DistributedDataParallel):
        _require_processes(wrapper)
        if wrapper.process_group != distributed.group.WORLD:
            return _distributed(wrapper, within)
    memo: dict[int, object] = {id(held): within}  # a wrapper may keep a list of the parameters
    memo |= {id(value): twin for value, twin in zip(held.parameters(), within.parameters(), strict=True)}
    return copy.deepcopy(wrapper, memo)


def _held(model: nn.Module) -> nn.Module | None:
    """Give what a wrapper wraps; None for anything else."""
    if isinstance(model, DataParallel | DistributedDataParallel):
        return model.get_submodule("module")
    compiling = sys.modules.get("torch._dynamo.eval_frame")  # takes seconds to import; without it nothing is compiled
    compiled = compiling is not None and isinstance(model, compiling.OptimizedModule)
    return model.get_submodule("_orig_mod") if compiled else None


def _require_processes(wrapper: DistributedDataParallel) -> None:
    if not distributed.is_initialized():
        raise errors.UnsupportedModel(
            "the network is in a DistributedDataParallel whose process group is gone, so that its result could not be put "
            "into one; pass the network inside (model.module), or keep the process group until the result is there"
        )


def _distributed(wrapper: DistributedDataParallel, within: nn.Module) -> DistributedDataParallel:
    made = DistributedDataParallel(
        within,
        device_ids=wrapper.device_ids,
        output_device=wrapper.output_device,
        dim=wrapper.dim,
        init_sync=False,  # the processes need not meet, and nobody's weights are written over
        process_group=wrapper.process_group,
        bucket_cap_mb=wrapper.bucket_bytes_cap / 2**20,
        find_unused_parameters=wrapper.find_unused_parameters,
        gradient_as_bucket_view=wrapper.gradient_as_bucket_view,
        static_graph=wrapper.static_graph,
    )
    for name in {"broadcast_buffers", "forward_sync_buffers"} & set(vars(wrapper)):  # one or other, by torch's version
        setattr(made, name, getattr(wrapper, name))
    return made


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Give every parameter once, under the first of its names (a tied weight has one entry)."""
    return dict(unwrapped(model).named_parameters())


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Give every buffer that a state dict would hold, by name."""
    model = unwrapped(model)
    persistent = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in persistent}


def require_parameters(model: nn.Module) -> None:
    """Refuse a network that has nothing to change, or in a form whose weights cannot be changed.

    Raises:
        errors.UnsupportedModel: no parameters, none that requires a gradient, or one that holds no data; or a distributed
            wrapper whose processes are gone.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            _require_processes(module)
    model = unwrapped(model)
    found = named_parameters(model)
    if not found:
        raise errors.UnsupportedModel(
            f"expected a network with parameters, found none in {type(model).__name__}; pass the trained module itself"
        )
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise errors.UnsupportedModel(
            f"{type(model).__name__} is a scripted module, whose weights cannot be trained under a mask; "
            "pass the module it was scripted from"
        )
    extra = [name for name, value in unwrapped(model).state_dict().items() if not isinstance(value, Tensor)]
    if extra:
        raise errors.UnsupportedModel(
            f"{extra[0]!r} of {type(model).__name__} is no tensor (quantised modules, get_extra_state), and "
            "could be neither compared bit by bit nor saved; unlearn the plain float network"
        )
    lazy = [name for name, value in found.items() if nn.parameter.is_lazy(value)]
    if lazy:
        raise errors.UnsupportedModel(
            f"parameter {lazy[0]!r} has no shape yet; run one batch through the network first"
        )
    if not any(value.requires_grad for value in found.values()):
        raise errors.UnsupportedModel(
            f"all {len(found)} parameters of {type(model).__name__} are frozen (requires_grad is False); "
            "set requires_grad on those that may change"
        )


def clone_model(model: nn.Module) -> nn.Module:
    """Give a deep copy without gradients (a parameter's copy has none); tied weights stay tied, wrappers are copied too.

    A module may keep an activation as an attribute, which torch does not copy: its value is taken over, its graph is not.
    """
    inner = unwrapped(model)
    return rewrapped(model, _copied(inner, {}))


def shadow_of(model: nn.Module, *, trainable: bool = False) -> nn.Module:
    """Give a copy in eval mode whose parameters lie in the memory of the network's own.

    To be run and looked at, so that nothing happens to the network itself: its hooks on gradients do not fire, what its
    modules keep as attributes stays. Never to be trained. Buffers are copied, since a module may write to its own even in
    eval mode, and so are tables that a lookup rescales (an embedding with `max_norm`).

    Args:
        model: may be wrapped; the shadow is of the network inside.
        trainable: parameters ask for a gradient where the network's do; else none does.
    """
    inner = unwrapped(model)
    written = {id(table) for table in _rescaled_tables(inner)}
    memo: dict[int, Tensor] = {
        id(value): nn.Parameter(
            value.detach().clone() if id(value) in written else value.detach(),
            requires_grad=trainable and value.requires_grad,
        )
        for value in inner.parameters()
    }
    return _copied(inner, memo).eval()


def _copied(model: nn.Module, memo: dict[int, Tensor]) -> nn.Module:
    kept = (value for module in model.modules() for value in vars(module).values())
    graphs = {id(value): value.detach().clone() for value in kept if isinstance(value, Tensor) and not value.is_leaf}
    try:
        return copy.deepcopy(model, {**graphs, **memo})
    except (TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise errors.UnsupportedModel(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0]}); excise works on a copy, so that yours is "
            "never changed; take out what a module keeps and cannot be copied (a lock, an open file)"
        ) from error


def _rescaled_tables(model: nn.Module) -> list[Tensor]:
    """Give the tables of embeddings that rescale their rows in every lookup, in eval mode too."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return [module.weight for module in model.modules() if isinstance(module, kinds) and module.max_norm is not None]


def drop_graphs_(model: nn.Module) -> None:
    """Take the graphs off activations that modules keep as attributes, in place: with them a network cannot be copied."""
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and not value.is_leaf:
                vars(module)[name] = value.detach()


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give detached copies that later changes do not reach."""
    return {name: value.detach().clone() for name, value in tensors.items()}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Give a detached copy of the state dict, on the CPU: parameters, tied names included, and persistent buffers."""
    return {name: value.detach().to("cpu", copy=True) for name, value in unwrapped(model).state_dict().items()}


def raw_bytes(tensor: Tensor) -> memoryview:
    """Give the bytes of a tensor in row order (the machine's byte order)."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def digest(tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> str:
    """Give the SHA-256 over names (sorted), dtypes, shapes and bytes.

    Independent of insertion order, device and file format.

    >>> digest({"a": torch.ones(2), "b": torch.zeros(1)}) == digest({"b": torch.zeros(1), "a": torch.ones(2)})
    True
    """
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    return digest_in_turn({name: lambda value=value: value for name, value in items})  # type: ignore[misc]


def digest_in_turn(tensors: Mapping[str, Callable[[], Tensor]]) -> str:
    """Give the `digest` of tensors that are each made when their turn comes, so that one is held at a time."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]()
        running.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        running.update(raw_bytes(value))
    return running.hexdigest()


def model_digest(model: nn.Module) -> str:
    """Give the digest of a network's parameters and persistent buffers."""
    return digest(dict(unwrapped(model).state_dict()))


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Restore every module's training flag, every `requires_grad` and every gradient afterwards, also on failure."""
    flags = [(module, module.training) for module in model.modules()]
    held = [(value, value.requires_grad, value.grad) for value in model.parameters()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        for value, requires_grad, gradient in held:
            value.requires_grad_(requires_grad)
            value.grad = gradient


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore what `modes_restored` does, every buffer (a module may write to its own even in eval mode), and attributes.

    Attributes are those that modules set on themselves while they run, such as the last activation; of what an attribute
    holds, only the name is restored.
    """
    before = [(buffer, buffer.detach().clone()) for buffer in (*model.buffers(), *_rescaled_tables(model))]
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    held = {module: dict(module._buffers) for module in model.modules()}
    try:
        with modes_restored(model):
            yield
    finally:
        for module, known in attributes:
            for name in vars(module).keys() - known.keys():
                del vars(module)[name]
            vars(module).update(known)
        for module, buffers in held.items():
            module._buffers.update(buffers)
        with torch.no_grad():
            for buffer, value in before:
                buffer.copy_(value)


def load_strictly_(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict into `model`, in place, or refuse with every name and shape that does not fit.

    A prefix that a wrapper put before every name is left out, where the network itself has no such names; weights saved
    from a wrapped network fit the plain one, and the reverse.

    Raises:
        errors.MaskMismatch: missing, unexpected or differently shaped entries, all of them listed.
        errors.BadData: values that are not finite.
    """
    model = unwrapped(model)
    own = model.state_dict()
    state = _without_prefix(state, own)
    lines = [f"missing {name} {tuple(own[name].shape)}" for name in own if name not in state]
    lines += [f"unexpected {name} {tuple(state[name].shape)}" for name in state if name not in own]
    lines += [
        f"{name}: expected {tuple(own[name].shape)}, found {tuple(state[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if lines:
        shown = "\n  ".join(lines[:20]) + (f"\n  and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise errors.MaskMismatch(
            f"the weights in {where} do not fit {type(model).__name__} ({len(lines)} differences):\n  {shown}\n"
            "give the weights of this very architecture, or the --model that they were trained with"
        )
    broken = [  # a causal mask may be a buffer of -inf: what the network was built with, its weights may hold
        name for name, value in state.items() if bool((~value.isfinite().cpu() & own[name].isfinite().cpu()).any())
    ]
    if broken:
        raise errors.BadData(f"the weights in {where} hold values that are not finite, first in {broken[0]!r}")
    model.load_state_dict(dict(state))


def _without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in WRAPPERS:
        if state and all(name.startswith(prefix) and name not in own for name in state):
            return _without_prefix({name.removeprefix(prefix): value for name, value in state.items()}, own)
    return state
