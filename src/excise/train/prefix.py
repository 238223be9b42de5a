"""A network cut in two: what is the same in every step, and the rest.

A step computes the same values again wherever neither the inputs, nor a weight, nor a mode, nor a random number differs.
The network's forward is traced (torch.fx), each operation is judged by explicit tables, and what does not change is cut off.
The two halves share the network's own modules: nothing is copied, and an optimizer's leaves stay what they are.

References:
    Reed, DeVito, He, Ussery, Ansel, "torch.fx: Practical Program Capture and Transformation for Deep Learning in Python",
    MLSys 2022, arXiv:2112.08429.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from excise import errors, params, seeds
from excise.train.products import products_of
from excise.train.statistics import running_statistics_used
from excise.train.unchanging import is_unchanging_call, is_unchanging_module, writes


@dataclass(frozen=True, eq=False)
class Prefix:
    """A network in two halves; `finish(compute(inputs))` are the operations of `model(inputs)`, in the same order.

    Attributes:
        compute: from inputs to the activations at the cut, each `[batch, ...]`; none of them asks for a gradient.
        finish: from these to the network's output, with gradients for what may change.
        products: multiplications of `compute`, one row.
        share: of the multiplications of the whole forward pass.
        called: names of the modules that `finish` calls, in order.
    """

    compute: Callable[[Tensor], tuple[Tensor, ...]]
    finish: Callable[[tuple[Tensor, ...]], Any]
    products: float = 0.0
    share: float = 0.0
    called: tuple[str, ...] = ()

    def finishes(self, name: str) -> bool:
        """Say whether `finish` calls the module of that name, once, as the network does."""
        return self.called.count(name) == 1


class Uncut(Exception):
    """A network cannot be cut; a clause for people says why."""


def cut(model: nn.Module, inputs: Tensor) -> Prefix | None:
    """Cut a network behind what is the same in every step.

    Modes and `requires_grad` count as they are: call it where training happens. The network itself is not run and not changed;
    a shadow of it is traced, and run on `inputs`.

    Args:
        model: the plain network, without a wrapper.
        inputs: a few rows, in the network's precision.

    Returns:
        The halves; None where no operation is the same in every step.

    Raises:
        Uncut: the forward cannot be traced, has hooks, draws random numbers by itself, writes to its own tensors or attributes.
    """
    if any(_hooked(module) for module in model.modules()):
        raise Uncut("modules have hooks, which would not be run")
    shadow = _shadow_of(model)
    graph = _traced(shadow, inputs.shape[1:])
    root = _Alone(model)
    for name, value in vars(shadow).items():
        if name.startswith("_tensor_constant"):  # made in the forward from nothing but numbers
            setattr(root, name, value)
    _require_pure(graph)
    fixed = _fixed(graph, root)
    values = _values(graph, shadow, inputs)
    batched = {node for node in fixed if _is_batch(values.get(node), len(inputs))}
    batched &= _behind(graph, [node for node in graph.nodes if node.op == "placeholder"])
    again = _recomputed(graph, fixed, batched)
    used = {one for node in graph.nodes if node not in fixed or node in again for one in node.all_input_nodes}
    edge = [node for node in graph.nodes if node in used and node in batched and node not in again]
    if not edge or all(node.op == "placeholder" for node in edge):
        return None
    # an identity gives its very input, and what is done in place too
    same = {node: next(one for one in edge if values[one] is values[node]) for node in edge}
    before = [node for node in graph.nodes if node in fixed]
    after = [node for node in graph.nodes if node not in fixed or node in again]
    first = fx.GraphModule(root, _part(before, {}, list(dict.fromkeys(same.values()))))
    second = fx.GraphModule(root, _part(after, same, None))
    products = {node: products_of(node, values, shadow) / len(inputs) for node in values}
    own, every = sum(products[node] for node in before), sum(products.values())
    called = tuple(str(node.target).removeprefix("network.") for node in after if node.op == "call_module")
    return Prefix(first, lambda kept: second(*kept), products=own, share=own / max(every, 1), called=called)


class _Alone(nn.Module):
    """A network called with its inputs alone, so that other arguments keep their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Any:
        return self.network(inputs)


class _Inputs(fx.Proxy):
    """Stands for the inputs, of which all is known but how many rows they are: a forward may look at it and decide."""

    def __init__(self, node: fx.Node, tracer: fx.Tracer, row: Sequence[int]) -> None:
        super().__init__(node, tracer)
        self._row = tuple(row)

    @property
    def ndim(self) -> int:
        return 1 + len(self._row)

    def dim(self) -> int:
        return self.ndim

    @property
    def shape(self) -> tuple[Any, ...]:
        return (fx.proxy.Attribute(self, "shape")[0], *self._row)  # type: ignore[index]


class _Tracer(fx.Tracer):
    """Goes into every module but torch's own, whatever class inherits their forward; sees every use of a buffer."""

    proxy_buffer_attributes = True

    def __init__(self, row: Sequence[int]) -> None:
        super().__init__()
        self._row = row

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Inputs(node, self, self._row) if node.op == "placeholder" else super().proxy(node)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m).forward.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential)


def _hooked(module: nn.Module) -> bool:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _shadow_of(model: nn.Module) -> _Alone:
    """Give a network to be traced and run in the place of another: its weights, copies of its buffers, its modes."""
    try:
        shadow = params.shadow_of(model, trainable=True)
    except errors.UnsupportedModel as error:
        raise Uncut("it cannot be copied to be traced") from error
    for own, other in zip(model.modules(), shadow.modules(), strict=True):
        other.training = own.training
    return _Alone(shadow)


def _traced(shadow: _Alone, row: Sequence[int]) -> fx.Graph:
    """Give the operations of a network, for inputs whose rows have one shape."""
    before = _attributes(shadow.network)
    with seeds.isolated(0, "trace"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn, tracer = seeds.states(), _Tracer(row)
        try:
            graph = tracer.trace(shadow)
        except Exception as error:  # the user's own forward meets what is no tensor: anything may come of it
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Uncut(f"its forward cannot be traced ({what})") from error
        if any(not torch.equal(drawn[name].nan_to_num(), now.nan_to_num()) for name, now in seeds.states().items()):
            raise Uncut("its forward draws random numbers by itself")
    if _attributes(shadow.network) != before:
        raise Uncut("its forward writes to its own attributes")
    return graph


def _attributes(network: nn.Module) -> list[dict[str, tuple[int, int]]]:
    """Give what tells whether what a module holds is another object than before, a longer one, or was written to."""
    return [
        {
            name: (id(value), _state(value))
            for name, value in {**vars(module), **module._buffers, **module._parameters}.items()
        }
        for module in network.modules()
    ]


def _state(value: object) -> int:
    if isinstance(value, Tensor):
        return value._version
    return len(value) if isinstance(value, list | dict | set) else 0


def _require_pure(graph: fx.Graph) -> None:
    """Refuse a forward that writes to tensors of the network's own."""
    given = _behind(graph, [node for node in graph.nodes if node.op == "placeholder"])
    for node in graph.nodes:
        written = node.args[0] if writes(node) and node.args else None
        if isinstance(written, fx.Node) and written not in given:
            raise Uncut("its forward writes to its own tensors")


def _behind(graph: fx.Graph, sources: Iterable[fx.Node]) -> set[fx.Node]:
    """Give the nodes that depend on others, these included."""
    found = set(sources)
    for node in graph.nodes:
        if any(one in found for one in node.all_input_nodes):
            found.add(node)
    return found


def _fixed(graph: fx.Graph, root: nn.Module) -> set[fx.Node]:
    """Give the nodes whose value is the same for the same inputs in every step of a training."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if all(one in found for one in node.all_input_nodes) and _is_fixed(node, root):
            found.add(node)
    return found


def _is_fixed(node: fx.Node, root: nn.Module) -> bool:
    if node.op == "placeholder":
        return True
    if node.op == "get_attr":
        return _stays(str(node.target), root)
    if node.op == "call_module":
        return is_unchanging_module(root.get_submodule(str(node.target)))
    return node.op != "output" and is_unchanging_call(node)


def _stays(name: str, root: nn.Module) -> bool:
    """Say whether no step writes to a tensor of the network: no optimizer, and no module of torch's that keeps statistics."""
    owner, _, own = name.rpartition(".")
    module = root.get_submodule(owner)
    value = getattr(module, own)
    if isinstance(value, nn.Parameter) or own not in module._buffers:
        return not (isinstance(value, Tensor) and value.requires_grad)
    return not (module.training and type(module).forward.__module__.startswith("torch.nn"))


class _Watched(fx.Interpreter):
    """Runs a graph and remembers what each node came to."""

    def __init__(self, root: nn.Module, graph: fx.Graph) -> None:
        super().__init__(root, garbage_collect_values=False, graph=graph)
        self.values = dict[fx.Node, Any]()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node."""
        value = self.values[n] = super().run_node(n)
        return value


def _values(graph: fx.Graph, shadow: nn.Module, inputs: Tensor) -> Mapping[fx.Node, Any]:
    """Give what each node comes to for a few rows."""
    watched = _Watched(shadow, graph)
    with seeds.isolated(0, "values"), running_statistics_used(shadow) if len(inputs) == 1 else nullcontext():
        watched.run(inputs)
    return watched.values


def _is_batch(value: object, num_rows: int) -> bool:
    """Say whether a value can be kept by row: a tensor whose rows, on the first axis, lie one behind the other."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.ndim == 0 or len(value) != num_rows:
        return False
    return layout_of(value) is not None and not value.requires_grad


def layout_of(value: Tensor) -> tuple[int, ...] | None:
    """Give the order in which a tensor's axes lie in memory, the widest stride first.

    None where its rows do not lie one behind the other without gaps.

    >>> layout_of(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    (0, 2, 3, 1)
    """
    order = (0, *sorted(range(1, value.ndim), key=lambda axis: -value.stride()[axis]))
    return order if value.permute(order).is_contiguous() else None


def _recomputed(graph: fx.Graph, fixed: set[fx.Node], batched: set[fx.Node]) -> set[fx.Node]:
    """Give the fixed nodes that the rest of the network needs and that cannot be kept by row: sizes, weights, tuples."""
    found: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        needed = any(user not in fixed or user in found for user in node.users)
        if node in fixed and node not in batched and needed:
            found.add(node)
    return found


def _part(nodes: Sequence[fx.Node], given: Mapping[fx.Node, fx.Node], wanted: Sequence[fx.Node] | None) -> fx.Graph:
    """Give some of a graph's nodes as a graph, from `given`, each by the node whose value it has, to `wanted` or the output."""
    graph = fx.Graph()
    places = {node: graph.placeholder(node.name) for node in dict.fromkeys(given.values())}
    copies = {node: places[same] for node, same in given.items()}
    for node in nodes:
        if node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    if wanted is not None:
        graph.output(tuple(copies[node] for node in wanted))
    return graph
