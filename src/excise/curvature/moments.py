"""`Moments`: the uncentred second moments of what a network's layers are given, and their algebra.

For a linear layer a row of inputs r is the vector that it is given, once for every leading axis; for a convolution it is a
patch, at each position that its stride, padding and dilation lead to, in the order of the weight's own numbers. The matrix of
a layer is the sum of r r^T. Sums over rows can be added and subtracted: with that of all training rows kept, what the retained
rows span is known when only the rows to forget can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from excise import errors, params, seeds, store
from excise.data.batches import batches, num_batches
from excise.data.rows import Rows
from excise.masks import Mask
from excise.train.engine import Engine
from excise.train.task import Task, device_of

KIND = "excise-moments-file-1"
LARGE = 2**28
"""Bytes of a matrix from which on people are told before it is made."""
CHUNK = 2**24
"""Numbers of unfolded patches at a time, 128 MiB in float64."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of moments says of them in its header; `content` is their digest."""

    num_rows: int
    network: str
    reading: str
    content: str


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums of r r^T over the inputs r of layers, for some rows of data. Immutable.

    They are sums, and tell less than the rows; they are not nothing: of a layer that is given few rows, or one row many times,
    they tell what that was. Keep them as you keep the network.

    Attributes:
        matrices: by the name of a layer's weight, float64 `[groups, d, d]`, d the numbers in a row of the weight; a
            convolution in groups has a matrix for each. Biases have none.
        num_rows: rows of data.
        network: digest of the network whose layers these are.
        reading: in words, how rows were read.
    """

    matrices: Mapping[str, Tensor]
    num_rows: int
    network: str
    reading: str

    def plus(self, other: Moments) -> Moments:
        """Give the moments over the rows of both.

        Raises:
            errors.BadRequest: of another network, or read otherwise.
        """
        self._require_alike(other)
        return self._of({name: one + other.matrices[name] for name, one in self.matrices.items()}, other.num_rows)

    def minus(self, other: Moments) -> Moments:
        """Give the moments without another one's rows, which must be among these; of that, only their number is checked.

        Raises:
            errors.BadRequest: of another network, read otherwise, or of more rows.
        """
        self._require_alike(other)
        if other.num_rows > self.num_rows:
            raise errors.BadRequest(
                f"moments: expected at most {self.num_rows} rows to take out, found {other.num_rows}; take those of the "
                "data that hold the rows"
            )
        return self._of({name: one - other.matrices[name] for name, one in self.matrices.items()}, -other.num_rows)

    def _of(self, matrices: Mapping[str, Tensor], more: int) -> Moments:
        return replace(self, matrices=matrices, num_rows=self.num_rows + more)

    def of_layers(self, names: Iterable[str]) -> Moments:
        """Give those of some layers, by the names of their weights."""
        return replace(self, matrices={name: self.matrices[name] for name in names})

    def carried_to(self, model: nn.Module) -> Moments:
        """Give the same sums, held from now on to be those of a network that was made of this one by small steps.

        Nothing is recomputed: what deeper layers are given has changed as far as the steps changed the layers before, also for
        the retained rows. How far is to be seen by `second_moments` where rows can still be read.
        """
        return replace(self, network=params.model_digest(model))

    def spectrum(self, name: str) -> tuple[Tensor, Tensor, float]:
        """Give a layer's eigenvalues `[groups, d]`, descending and none below 0, and eigenvectors `[groups, d, d]`, in columns.

        The last is the most negative eigenvalue before it was put to 0, as a share of the largest: of rounding alone it is
        of the order of 1e-13. More than that, rows were taken out that were never in.
        """
        values, vectors = torch.linalg.eigh(self.matrices[name])
        values, vectors = values.flip(1), vectors.flip(2)
        negative = float((-values[:, -1] / values[:, 0].clamp(min=torch.finfo(values.dtype).tiny)).clamp(min=0).max())
        return values.clamp(min=0), vectors, negative

    @property
    def num_bytes(self) -> int:
        """Memory that the matrices take."""
        return sum(one.nbytes for one in self.matrices.values())

    @property
    def digest(self) -> str:
        """SHA-256 over matrices, network, reading and number of rows."""
        told = torch.frombuffer(bytearray(f"{self.num_rows} {self.network} {self.reading}".encode()), dtype=torch.uint8)
        return params.digest({"": told, **{f"/{name}": one for name, one in self.matrices.items()}})

    def require_fit(self, model: nn.Module) -> None:
        """Refuse another network than the one whose inputs these are.

        Raises:
            errors.BadRequest: it has other weights or buffers.
        """
        found = params.model_digest(model)
        if found != self.network:
            raise errors.BadRequest(
                f"moments: expected those of this network ({found[:12]}…), found those of another ({self.network[:12]}…); make "
                "them with `excise moments`, or carry over those of the network before (--carry, Moments.carried_to)"
            )

    def _require_alike(self, other: Moments) -> None:
        for what, own, its in (
            ("network", self.network[:12], other.network[:12]),
            ("way of reading rows", self.reading, other.reading),
            ("layers", sorted(self.matrices), sorted(other.matrices)),
            ("form of matrices", _shapes(self.matrices), _shapes(other.matrices)),
        ):
            if own != its:
                raise errors.BadRequest(
                    f"moments: expected both of one {what}, found {own} and {its}; make both in the same way"
                )

    def save(self, path: str | Path) -> None:
        """Write them as safetensors, with what they belong to, and a digest of it all, in the header."""
        facts = Facts(self.num_rows, self.network, self.reading, self.digest)
        store.write_tensors(Path(path), self.matrices, {"kind": KIND, "facts": msgspec.json.encode(facts).decode()})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read moments back.

        Raises:
            errors.BadData: no such file, another kind of file, or a damaged header.
            errors.Corrupt: the content is not what its header says.
        """
        path = Path(path)
        matrices, metadata = store.read_tensors(path, "moments", _REMEDY)
        facts = facts_of(path, metadata)
        found = cls(matrices, facts.num_rows, facts.network, facts.reading)
        sound = found.num_rows >= 0 and all(map(_square, matrices.values()))
        if not sound or found.digest != facts.content:
            raise errors.Corrupt(f"{path} is damaged: its content is not what its header says; {_REMEDY}")
        return found

    @classmethod
    def of(cls, given: Moments | str | Path) -> Moments:
        """Give moments, or those that a file holds."""
        return given if isinstance(given, Moments) else cls.load(given)


def _shapes(matrices: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(one.shape) for name, one in sorted(matrices.items())}


_REMEDY = "make one with `excise moments`"


def _square(matrix: Tensor) -> bool:
    return (
        matrix.ndim == 3
        and matrix.shape[1] == matrix.shape[2]
        and matrix.dtype == torch.float64
        and bool(matrix.isfinite().all())
    )


def facts_of(path: Path, metadata: Mapping[str, str]) -> Facts:
    """Read the header of a file of moments, from its metadata.

    Raises:
        errors.BadData: it is of another kind, or damaged.
    """
    store.require_form(path, metadata, KIND, _REMEDY)
    try:
        return msgspec.json.decode(metadata["facts"], type=Facts)
    except (KeyError, msgspec.DecodeError) as error:
        raise errors.BadData(f"{path} is damaged: its header does not say what it belongs to; {_REMEDY}") from error


def layers_of(model: nn.Module) -> dict[str, list[Any]]:
    """Give the layers whose inputs tell how outputs hang on a weight: linear ones and convolutions, by the weight's name.

    They run torch's own `forward` on a weight that is a plain parameter. A weight that something else holds, too (a tied
    embedding), and one that is taken in different groups have none.
    """
    model = params.unwrapped(model)
    name_of = {id(value): name for name, value in params.named_parameters(model).items()}
    users: dict[str, list[nn.Module]] = {}
    for module in model.modules():
        for value in module.parameters(recurse=False):
            users.setdefault(name_of[id(value)], []).append(module)
    return {
        name: some
        for name, some in users.items()
        if all(_plain(module) and name_of[id(module.weight)] == name for module in some)
        and len({_groups(module) for module in some}) == 1
    }


def weights_of(layers: Iterable[str], names: Iterable[str], asking: str) -> dict[str, str]:
    """Give the weight, one of `layers_of`, of each layer that is named, itself or by its weight.

    Raises:
        errors.BadRequest: no such layer; the message begins with who is asking.
    """
    known, found = set(layers), {}
    for name in names:
        weight = next((one for one in (name, f"{name}.weight") if one in known), None)
        if weight is None:
            there = ", ".join(one.removesuffix(".weight") for one in layers)
            raise errors.BadRequest(
                f"{asking}: no linear or convolutional layer is named {name!r}; there are {there or 'none'}"
            )
        found[name] = weight
    return found


def _plain(module: Any) -> bool:
    if not isinstance(module._parameters.get("weight"), nn.Parameter) or "forward" in vars(module):
        return False
    kind = next((kind for kind in _CONVOLUTIONS if type(module).forward is kind.forward), None)
    if kind is None:
        return type(module).forward is nn.Linear.forward
    return type(module)._conv_forward is kind._conv_forward


def _groups(module: Any) -> int:
    return module.groups if isinstance(module, _CONVOLUTIONS) else 1


def unfolded(module: Any, inputs: Tensor) -> Tensor:
    """Give the rows of inputs that a layer multiplies its weight with.

    Args:
        module: linear, or a convolution of one to three axes.
        inputs: what it is given.

    Returns:
        `[groups, rows, d]`. The weight, `[groups, channels / groups, d]`, times these is what the layer gives, less its bias.
    """
    if not isinstance(module, _CONVOLUTIONS):
        return inputs.reshape(1, -1, inputs.shape[-1])
    axes = len(module.kernel_size)
    inputs = inputs if inputs.ndim == axes + 2 else inputs[None]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    patches: Tensor = functional.pad(inputs, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (size, stride, apart) in enumerate(
        zip(module.kernel_size, module.stride, module.dilation, strict=True), 2
    ):
        patches = patches.unfold(axis, apart * (size - 1) + 1, stride)[..., ::apart]
    channels = (module.groups, inputs.shape[1] // module.groups)
    patches = patches.reshape(len(patches), *channels, *patches.shape[2:])  # then positions and kernel, an axis each
    order = (1, 0, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes))
    patches = patches.permute(order)
    return patches.reshape(module.groups, patches.shape[1 : 2 + axes].numel(), -1)


@torch.no_grad()
def second_moments(
    model: nn.Module,
    rows: Rows | object,
    engine: Engine | None = None,
    *,
    layers: Iterable[str] | None = None,
    batch_size: int = 128,
) -> Moments:
    """Give the second moments of the inputs of a network's layers, over rows, in eval mode: no dropout, no statistics moved.

    Rows are read as the data set gives them. One that draws augmentations anew gives other inputs in each reading, and sums
    that cannot be subtracted: take the data without. A layer that runs several times in a forward pass is given all of those
    inputs; one that never runs has no matrix, or one of zeros if it is named.

    Cost: one pass forward over rows, and for each layer and position d^2 multiplications. Memory: the matrices (d = 8192 is 512
    MiB) and a chunk of patches. Several processes share the rows.

    Args:
        model: left as it was; may be wrapped.
        rows: `Rows`, or data as `Split` takes them.
        engine: task and hooks; counts the cost. The library's own task if None.
        layers: names of layers, or of their weights, see `layers_of`; all if None.
        batch_size: rows at a time.

    Raises:
        errors.BadData: a layer is given numbers whose squares have no finite sum.
        errors.BadRequest: no layer of such a name.
    """
    rows = rows if isinstance(rows, Rows) else Rows.all_of(rows)
    engine = engine or Engine(Task(), 0, Mask.empty(model))
    shadow, together = params.shadow_of(model), engine.processes
    found = layers_of(shadow)
    named = None if layers is None else set(weights_of(found, layers, "layers").values())
    chosen = [name for name in found if named is None or name in named]
    sums = {name: _Sum(name, found[name], engine) for name in chosen}
    handles = [
        module.register_forward_pre_hook(one.add_, with_kwargs=True)
        for name, one in sums.items()
        for module in found[name]
    ]
    share = Rows(rows.source, together.share(rows.ids))
    engine.hooks.on_stage(STAGE, num_batches(len(share), batch_size))
    try:
        with seeds.isolated(engine.seed, STAGE):
            for batch in batches(share, batch_size, device_of(shadow)) if len(share) else ():
                engine.task.forward(shadow, batch.content)
                engine.cost.count(forward=len(batch))
                engine.hooks.on_step()
    finally:
        for handle in handles:
            handle.remove()
    if together.several:
        engine.cost.count(forward=len(rows) - len(share))  # those of all together
    engine.hooks.on_stage_end(STAGE)
    matrices = [one.matrix for one in sums.values()]
    wanted = [one.matrix if one.ran or layers is not None else None for one in sums.values()]
    everywhere = zip(sums, together.summed(wanted, matrices), strict=True)
    matrices_of = {name: matrix.cpu() for name, matrix in everywhere if matrix is not None}
    _require_finite(matrices_of)
    return Moments(
        matrices_of,
        len(rows),
        params.model_digest(model),
        f"eval mode, {_named(engine.task.forward)}",
    )


STAGE = "moments"


def _require_finite(matrices: Mapping[str, Tensor]) -> None:
    for name, matrix in matrices.items():
        if not bool(matrix.isfinite().all()):
            raise errors.BadData(
                f"{STAGE}: what the layer of {name!r} is given has squares whose sum is not finite; correct the rows with "
                "infinite, missing or huge numbers, or scale the inputs"
            )


def _named(forward: Any) -> str:
    named = forward if hasattr(forward, "__qualname__") else type(forward)
    return f"{named.__module__}.{named.__qualname__}"


class _Sum:
    """The sum of r r^T of one weight's layers, to which each call of a layer adds what it is given."""

    def __init__(self, name: str, modules: list[Any], engine: Engine) -> None:
        weight, self._groups = modules[0].weight, _groups(modules[0])
        width = weight[0].numel()
        num_bytes = self._groups * width * width * 8
        if num_bytes >= LARGE:
            engine.hooks.on_note(
                f"{STAGE}: the second moments of {name!r} take {num_bytes / 2**20:,.0f} MiB; leave the layer out if that is "
                "too much"
            )
        self.matrix = torch.zeros(self._groups, width, width, dtype=torch.float64, device=weight.device)
        self.ran = False

    def add_(self, module: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Add what a layer is about to be given."""
        inputs: Tensor = given[0] if given else named["input"]
        self.ran = True
        size = len(inputs)
        if isinstance(module, _CONVOLUTIONS):
            inputs = inputs if inputs.ndim == len(module.kernel_size) + 2 else inputs[None]
            size = max(1, CHUNK // max(inputs[0].numel() * module.weight[0, 0].numel(), 1))
        else:
            inputs = inputs.reshape(-1, inputs.shape[-1])
            size = max(1, CHUNK // max(inputs.shape[-1], 1))
        for part in torch.split(inputs, size):
            patches = unfolded(module, part.double())
            self.matrix.baddbmm_(patches.mT, patches)
