"""The doctor's visit: every examination, once, in an order in which an illness does not hide the others."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from excise import errors, params, seeds
from excise.data.batches import batches
from excise.data.rows import Rows
from excise.data.split import Split
from excise.diagnosis import buffers, copies, networks, request
from excise.diagnosis import rows as data
from excise.diagnosis.findings import SEVERITIES, Finding, examined, theirs
from excise.train.hooks import Hooks
from excise.train.task import Forward, Loss, Task, cross_entropy, device_of, forward_pair


def doctor(
    model: nn.Module,
    split: Split,
    *,
    forward: Forward = forward_pair,
    loss: Loss = cross_entropy,
    groups: object = None,
    loader: DataLoader[object] | None = None,
    hooks: Hooks | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Name, before any work, what stands in the way of forgetting these rows, each with a remedy.

    Looked for are: normalisation layers and whose rows their buffers remember, tied weights, dropout, frozen parameters,
    quantised, scripted or lazy modules, a head of one class, rows or labels that do not fit the network, inputs that are
    not finite, data that differ between two reads, forget rows that stand again in retain or test, people whose rows stand
    in forget and in retain, a loader that leaves rows out, and a forget set so large that retraining is the right method.

    It reads forget, retain and test, trains nothing and changes nothing: network, its modes, hooks and gradients, and the
    global random numbers are as before. Cost: one reading of every row, and again of at most 500 retain rows
    (the yardstick for near copies), 64 rows of each data set twice (not of arrays), and 16 rows of each part. A forward pass
    over those 16; and, only where there are running statistics, over at most 2,000 forget and 2,000 retain rows, read again.

    Args:
        model: the trained network.
        split: which rows to forget, which to retain, which to test on.
        forward: as in `excise.unlearn`.
        loss: as in `excise.unlearn`.
        groups: one value a training row, by id (a person, a source), to find those with rows on both sides.
        loader: the loader the network was trained with, to find rows it leaves out. It is not asked for a row.
        hooks: who watches.
        seed: of the samples that are drawn.

    Returns:
        Findings, errors first, then warnings, then notes; none for a healthy patient.

    Raises:
        errors.BadRequest: arguments of another kind, or not one group a row. What is wrong with the network or the rows is
            a finding, not raised.

    >>> from excise.data import Split
    >>> network = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.1), nn.Linear(4, 3))
    >>> rows = (torch.arange(24.0).reshape(12, 2).sin(), torch.arange(12) % 3)
    >>> [(found.severity, found.where) for found in doctor(network, Split(rows, forget=[0, 7]))]
    [('note', '1')]
    """
    _require_kinds(model, split, loader)
    values = None if groups is None else request.as_groups(groups, len(split.train.source))
    task, watching = Task(forward, loss), hooks or Hooks()
    with seeds.isolated(seed, "doctor"):
        found = networks.look_at(model)
        found += request.size(split)
        found += [] if values is None else request.groups(split, values)
        found += [] if loader is None else request.loader(split, loader)
        found += examined("the data", lambda: data.read_twice(split, seed))
        heard: dict[str, Rows] = {}
        found += examined("the data", lambda: _rows(split, seed, watching, heard))
        if not any(one.severity == "error" for one in found):
            found += examined(
                "the network",
                lambda: _runs(params.shadow_of(model, trainable=True), split, heard, task, seed, watching),
            )
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def _require_kinds(model: object, split: object, loader: object) -> None:
    kinds = (("model", model, nn.Module), ("split", split, Split), ("loader", loader, DataLoader))
    for name, value, kind in kinds:
        if not (isinstance(value, kind) or (value is None and name == "loader")):
            raise errors.BadRequest(
                f"{name}: expected a {kind.__name__}, found {type(value).__name__}; call doctor(model, split, loader=...)"
            )


def _rows(split: Split, seed: int, hooks: Hooks, heard: dict[str, Rows]) -> list[Finding]:
    """Read every row once; the labels that were heard are handed on in `heard`."""
    found = data.census(split, seed, hooks)
    for name, rows in data.parts(split).items():
        heard[name] = Rows(data.Heard(rows.source, found.labels[name]), rows.ids)
    return data.infinite(found) + data.one_label(found) + copies.exact(found) + copies.near(found)


def _runs(model: nn.Module, split: Split, heard: dict[str, Rows], task: Task, seed: int, hooks: Hooks) -> list[Finding]:
    """Run the network, a few rows of each part first; running statistics only where that went well."""
    found = _head(model, heard["forget"], task)
    for name, rows in heard.items():
        found += examined(f"{name} rows", functools.partial(_fits, model, name, rows, task))
    if split.retain and not any(one.severity == "error" for one in found):
        found += examined("the running statistics", lambda: buffers.remembered(model, split, task, seed, hooks))
    return found


def _fits(model: nn.Module, name: str, rows: Rows, task: Task) -> list[Finding]:
    """Find rows, labels or a loss that do not go with the network. Runs at most 16 rows."""
    task.require_fit(model, {name: rows})
    with params.untouched(model), torch.no_grad():
        model.eval()
        batch = next(iter(batches(rows.head(8), 8, device_of(model))))
        with theirs(
            f"the loss could not be computed on {name} rows", "check loss=, and what forward= gives as targets"
        ):
            losses = task.losses(model, batch)
    if bool(losses.isfinite().all()):
        return []
    return [
        Finding(
            f"the loss is not finite on {name} rows",
            f"among the first {len(batch)} {name} rows",
            "check the weights, the scaling of the inputs, and loss=",
            "error",
        )
    ]


def _head(model: nn.Module, rows: Rows, task: Task) -> list[Finding]:
    """Find a head of one class. Runs one row; a network that cannot be run is told of elsewhere."""
    try:
        with params.untouched(model), torch.no_grad(), theirs("not run", "see its fit"):
            model.eval()
            logits, _ = task.forward(model, next(iter(batches(rows.head(1), 1, device_of(model)))).content)
    except errors.ExciseError:
        return []
    if not isinstance(logits, Tensor) or logits.ndim < 2 or logits.shape[1] > 1:
        return []
    plain = task.loss is cross_entropy
    return [
        Finding(
            "the head gives one number a row"
            + (
                ", and the cross-entropy of one class is zero whatever the network says: nothing would be learned or "
                "forgotten"
                if plain
                else ": accuracies and margins need two classes, and would be the same for every network"
            ),
            f"logits of shape {tuple(logits.shape)} for one row",
            "give the network two outputs, or let forward= give [batch, 2] logits: torch.cat([0 * z, z], 1) for a binary "
            "logit z" + (" with targets 0 and 1" if plain else ""),
            "error" if plain else "warning",
        )
    ]
