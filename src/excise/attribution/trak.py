"""TRAK as a datamodel: what each training row adds to each logit, from the gradients of a trained network, by dattri.

Everything that is peculiar to dattri is here. It imports torch's compiler, with warnings; shows progress bars; keeps the
settings of a projection for whoever projects next; and knows projections only on the CPU and on one kind of accelerator.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from excise import checks, errors, params, seeds
from excise.attribution.datamodel import Datamodel
from excise.attribution.estimate import engine_for
from excise.attribution.observed import parts_of
from excise.attribution.origin import Made, network_digest, row_digests
from excise.attribution.parts import TRAIN, Part
from excise.data.batches import batches, num_batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.train.engine import Engine
from excise.train.hooks import Hooks
from excise.train.machine import Machine
from excise.train.task import Forward, Task, device_of, forward_pair, require_class_targets

Output = Callable[[Mapping[str, Tensor], Any], Tensor]


def trak(
    networks: nn.Module | Sequence[nn.Module],
    rows: Split | Rows | Mapping[str, Rows],
    *,
    projection: int | None = 512,
    ridge: float = 0.0,
    batch_size: int = 32,
    seed: int = 0,
    forward: Forward = forward_pair,
    hooks: Hooks | None = None,
) -> Datamodel:
    """Estimate a datamodel from gradients of networks trained on all rows; no network is trained. Right only up to scale.

    The effect of row i on logit c of row x is g_c(x)' (G' G)^-1 g(i) (1 - p_i), with g the gradient of the margin of a row's
    own label, g_c that of the logit, G all rows' g, and p_i the confidence in the label; gradients are projected at random.
    For several networks the two factors are averaged apart, as dattri does. The method is a linearisation: effects have the
    size of what a network would do that never left the place where it is. So fit their scale to a few retrainings,
    `fit_scale`, before they are used as targets.

    The paper's output is the margin alone; here there is one for each class, which datamodel matching needs, besides the
    margin of the label. With one network, its final weights, scores are noisy; the paper averages several.

    dattri computes gradients, projections and the inverse; its `attribute` gives `[train, rows]` for one output at a time,
    while this value keeps the two factors of that product, which are less by far: features of training rows as
    `TRAKAttributor.cache` leaves them behind, and those of other rows by the same calls as `attribute`.

    Cost: a pass forward and backward over the training rows, and one over all rows for each class and the margin, for each
    network. Memory: `projection` numbers for every row and class, and weights times `projection` for the projection.

    References:
        Park, Georgiev, Ilyas, Leclerc, Madry, "TRAK: Attributing Model Behavior at Scale", ICML 2023,
        https://arxiv.org/abs/2303.14186; Deng et al., "dattri: A Library for Efficient Data Attribution", NeurIPS 2024.

    Args:
        networks: trained on all rows of `train`, one or several of one architecture; they run in eval mode and are left alone.
        rows: as in `estimate`.
        projection: numbers that a gradient is projected to, fewer than there are training rows and weights; None for no
            projection, which takes a ridge.
        ridge: added to the diagonal of G' G, whose gradients dattri divides by the root of the number of weights. Without
            one, as many features as training rows or as weights have no inverse: a margin stays where all logits move alike.
        batch_size: rows whose gradients are held at a time.
        seed: of the projection.
        forward: as in `excise.unlearn`.
        hooks: who watches.

    Raises:
        errors.MissingExtra: dattri is not installed.
        errors.BadRequest: no networks, numbers out of range, or too many features for no ridge.
        errors.BadData: labels that are no classes of the network.
    """
    given = [networks] if isinstance(networks, nn.Module) else list(networks)
    if not given or not all(isinstance(one, nn.Module) for one in given):
        raise errors.BadRequest("networks: expected a trained network, or a list of such of one architecture")
    checks.require_positive_int("batch_size", batch_size)
    checks.require_finite("ridge", ridge)
    plain, parts = [params.unwrapped(one) for one in given], parts_of(rows)
    if len({network_digest(one) for one in plain}) > 1:
        raise errors.BadRequest("networks: expected one architecture, found several")
    size = sum(value.numel() for value in params.named_parameters(plain[0]).values() if value.requires_grad)
    features = size if projection is None else checks.require_positive_int("projection", projection)
    if ridge == 0 and features >= min(size, len(parts[TRAIN])):
        raise errors.BadRequest(
            f"projection: expected fewer features than the {len(parts[TRAIN])} training rows and the {size} weights, found "
            f"{features}; project to fewer, or give a ridge"
        )
    engine = engine_for(lambda: params.clone_model(plain[0]), Task(forward), seed, hooks, Machine())
    dattri = require_dattri()
    with seeds.isolated(seed, "trak"), torch.no_grad(), _quietly(dattri):
        gradients = _Features(dattri, plain, engine, None if projection is None else features, ridge, batch_size)
        said = {name: gradients.logits(some) for name, some in parts.items()}
        solved, weights = gradients.of_train(parts[TRAIN])
        found = {name: gradients.of_part(some, said[name], weights) for name, some in parts.items()}
        _require_inverse(solved, found[TRAIN].margins, features, ridge)
    made = Made(
        by="trak",
        num_models=len(plain),
        seed=seed,
        network=network_digest(plain[0]),
        trained_rows=engine.cost.trained_rows,
        forward_rows=engine.cost.forward_rows,
    )
    return Datamodel(weights=weights, parts=found, made=made)


def require_dattri() -> SimpleNamespace:
    """Give what is used of dattri: `task`, `trak` and `projection`, its modules of these names.

    Raises:
        errors.MissingExtra: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports all of torch's compiler, which warns of itself
        try:
            from dattri import task
            from dattri.algorithm import trak as algorithm
            from dattri.func import projection
        except ImportError as cause:
            raise errors.MissingExtra(
                "trak needs dattri to attribute, and it is not installed: pip install 'excise[attribution]'"
            ) from cause
    return SimpleNamespace(task=task, trak=algorithm, projection=projection)


@contextlib.contextmanager
def _quietly(dattri: SimpleNamespace) -> Iterator[None]:
    """Hold back progress bars, and put the settings back that every attributor of the process would have from now on."""
    shared = dattri.trak.DEFAULT_PROJECTOR_KWARGS
    before = dict(shared)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        shared.clear()
        shared.update(before)


class _One(nn.Module):
    """A network as a function of one example, which gives its logits `[classes]` and its label."""

    def __init__(self, network: nn.Module, task: Task) -> None:
        super().__init__()
        self.network = network
        self._task = task

    def forward(self, example: Any) -> tuple[Tensor, Tensor]:
        """Run a batch of one."""
        logits, targets = self._task.forward(self.network, tree_map(lambda value: value[None], example))
        return logits[0], targets[0]


@dataclass(frozen=True)
class _Loader:
    """Rows in order of id, as dattri reads them; `sampler` is what it asks whether they come shuffled."""

    rows: Rows
    size: int
    device: torch.device
    engine: Engine
    sampler: None = None

    def __iter__(self) -> Iterator[Any]:
        for batch in batches(self.rows, self.size, self.device):
            yield batch.content
            self.engine.cost.count(trained=len(batch))
            self.engine.hooks.on_step()


_NO_INVERSE = (
    "trak: the projected gradients of the training rows have no inverse that this precision could tell; project to fewer "
    "features, give a ridge, or networks in float64"
)


def _require_inverse(solved: Tensor, gradients: Tensor | None, features: int, ridge: float) -> None:
    """Refuse what is no inverse: the trace of G (G' G)^-1 G' is the number of features, or less with a ridge."""
    assert gradients is not None
    for place in range(0, solved.shape[1], features):
        own = slice(place, place + features)
        trace = float((solved[:, own].double() * gradients[:, own].double()).sum())
        low = 0.0 if ridge else 0.99 * features
        if not low <= trace <= 1.01 * features:
            raise errors.BadRequest(_NO_INVERSE)


class _Features:
    """Projected gradients of networks on rows, by dattri."""

    def __init__(
        self,
        dattri: SimpleNamespace,
        networks: Sequence[nn.Module],
        engine: Engine,
        projection: int | None,
        ridge: float,
        batch_size: int,
    ) -> None:
        self._dattri, self._networks, self._engine, self._size = dattri, networks, engine, batch_size
        self._one = _One(params.clone_model(networks[0]).eval(), engine.task)
        self._device = device_of(networks[0])
        self._states = [{f"network.{name}": value for name, value in one.state_dict().items()} for one in networks]
        self._projector = {
            "proj_dim": projection or 1,
            "proj_max_batch_size": 32,
            "proj_seed": seeds.derive(engine.seed, "projection") % 2**31,
            "proj_type": "identity" if projection is None else "rademacher",
            "device": self._device.type,
        }
        self._ridge = ridge

    def logits(self, rows: Rows) -> Tensor:
        """Give the mean of the networks' logits, float64 `[rows, classes]`; refuse labels that are none of the classes."""
        each = []
        for network in self._networks:
            with params.untouched(network):
                network.eval()
                own = []
                for batch in batches(rows, 256, self._device):
                    logits, targets = self._engine.task.forward(network, batch.content)
                    require_class_targets(targets, logits, "trak", remedy="a margin is that of a class label")
                    own.append(logits.cpu().double())
                    self._engine.cost.count(forward=len(batch))
            each.append(torch.cat(own))
        return torch.stack(each).mean(0)

    def of_train(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Give (G' G)^-1 g(i) of the training rows, `[train, networks * features]`; and that times 1 - p_i over networks."""
        attributor = self._dattri.trak.TRAKAttributor(
            task=self._task(self._margin),
            correct_probability_func=self._confidence,
            projector_kwargs=self._projector,
            device=self._device.type,
            regularization=self._ridge,
        )
        self._scale = attributor.norm_scaler
        self._begin(rows, 1)
        try:
            attributor.cache(_Loader(rows, self._size, self._device, self._engine))
        except torch.linalg.LinAlgError as cause:  # type: ignore[attr-defined]
            raise errors.BadRequest(_NO_INVERSE) from cause
        self._engine.hooks.on_stage_end("trak")
        solved = torch.cat(attributor.inv_XTX_XT_list).T
        return solved.cpu(), (solved * attributor.Q[:, None] / len(self._networks)).cpu()

    def of_part(self, rows: Rows, logits: Tensor, weights: Tensor) -> Part:
        """Give what belongs to a part's rows; its base is such that all rows together predict the networks' own logits."""
        self._begin(rows, logits.shape[1] + 1)
        factors = torch.stack([self._gradients(self._logit(label), rows) for label in range(logits.shape[1])], dim=2)
        margins = self._gradients(self._margin, rows)
        self._engine.hooks.on_stage_end("trak")
        every = torch.einsum("k,rkc->rc", weights.double().sum(0), factors.double())
        return Part(rows.ids, (logits - every / 2).float(), factors, margins, row_digests(rows))

    def _begin(self, rows: Rows, outputs: int) -> None:
        steps = num_batches(len(rows), self._size) * outputs * len(self._networks)
        self._engine.hooks.on_stage("trak", steps)

    def _task(self, output: Output) -> Any:
        return self._dattri.task.AttributionTask(loss_func=output, model=self._one, checkpoints=self._states)

    def _gradients(self, output: Output, rows: Rows) -> Tensor:
        """Give the projected gradients of an output, `[rows, networks * features]`, as `TRAKAttributor.attribute` has them."""
        task = self._task(output)
        gradient = task.get_grad_target_func(in_dims=(None, 0))
        found = []
        for place in range(len(self._networks)):
            values, _ = task.get_param(ckpt_idx=place)
            own, project = [], None
            for content in _Loader(rows, self._size, self._device, self._engine):
                each = torch.nan_to_num(gradient(values, content)) / self._scale
                if project is None:  # drawn from its seed, the same for every batch
                    project = self._dattri.projection.random_project(each, len(each), **self._projector)
                own.append(project(each, ensemble_id=place).detach().cpu())
            found.append(torch.cat(own))
        return torch.cat(found, dim=1)

    def _answer(self, values: Mapping[str, Tensor], example: Any) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = functional_call(self._one, dict(values), (example,))
        return found

    def _logit(self, label: int) -> Output:
        return lambda values, example: self._answer(values, example)[0][label]

    def _margin(self, values: Mapping[str, Tensor], example: Any) -> Tensor:
        """Give ln(p / (1 - p)) of an example's label."""
        logits, target = self._answer(values, example)
        own = torch.arange(len(logits), device=logits.device) == target
        return logits.gather(0, target[None])[0] - logits.masked_fill(own, -torch.inf).logsumexp(0)

    def _confidence(self, values: Mapping[str, Tensor], example: Any) -> Tensor:
        logits, target = self._answer(values, example)
        return logits.softmax(0).gather(0, target[None])[0]
