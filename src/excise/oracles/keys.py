"""The key of a trained network: the hash of all that its weights depend on, so that one is found again or is another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import msgspec
import torch
from torch import Tensor, nn

from excise import params, seeds
from excise.data.batches import Batch, batches
from excise.data.rows import ArraySource, Rows, Source
from excise.oracles.bank import Kind
from excise.train.engine import Engine
from excise.train.plan import TrainPlan
from excise.train.statistics import running_statistics_used
from excise.train.task import device_of
from excise.version import __version__

PROBED = 8
"""Rows on which a network is run to see what it computes."""


def fingerprints(several: Sequence[Rows]) -> list[str]:
    """Give the SHA-256 of ids and content, as they come out of any transform, of each set of rows.

    Every row of a source is read once, in order of id, however many sets hold it; no other row is. Where a transform draws
    random numbers, they are lent from one seed, so that a set's fingerprint then depends on the sets it is asked with.
    """
    read: dict[int, dict[int, bytes]] = {}
    for source in {id(rows.source): rows.source for rows in several}.values():
        held = {id(rows): rows.ids for rows in several if rows.source is source}
        wanted = torch.cat(list(held.values())).unique()  # type: ignore[no-untyped-call]
        with seeds.isolated(0, "fingerprint"):
            read[id(source)] = _array_rows(source, wanted) if isinstance(source, ArraySource) else _rows(source, wanted)
    known = {id(rows): _joined(rows, read[id(rows.source)]) for rows in {id(rows): rows for rows in several}.values()}
    return [known[id(rows)] for rows in several]


def _rows(source: Source, ids: Tensor) -> dict[int, bytes]:
    """Give the digest of each row, by id."""
    return {int(row): bytes.fromhex(Rows(source, row.reshape(1)).fingerprint()) for row in ids}


def _array_rows(source: ArraySource, ids: Tensor) -> dict[int, bytes]:
    """Give the same of rows that lie in memory, many at a time."""
    found: dict[int, bytes] = {}
    for chunk in ids.split(1024):  # type: ignore[no-untyped-call]
        parts = source.read(chunk)
        head = "".join(f"{part.dtype}{tuple(part.shape[1:])}" for part in parts).encode()
        content = [(params.raw_bytes(part), part.shape[1:].numel() * part.element_size()) for part in parts]
        for place, row in enumerate(chunk.tolist()):
            running = hashlib.sha256(head + row.to_bytes(8, "little"))
            for whole, size in content:
                running.update(whole[place * size : (place + 1) * size])
            found[row] = running.digest()
    return found


def _joined(rows: Rows, read: Mapping[int, bytes]) -> str:
    return hashlib.sha256(b"".join(read[row] for row in rows.ids.tolist())).hexdigest()


def surroundings() -> dict[str, str]:
    """Give, by name, what a training depends on of the process that it runs in."""
    return {"excise": __version__, "torch": str(torch.__version__), "threads": str(torch.get_num_threads())}


def facts(
    model: nn.Module, rows: Rows, fingerprint: str, plan: TrainPlan, seed: int, engine: Engine, *, kind: Kind
) -> dict[str, str]:
    """Give, by name, everything that a network trained from `model` on `rows` by torch's own loss depends on.

    Equal weights may stand in unequal code, so the untrained network is also run: logits of a few rows in training mode,
    and the gradients they give. (Gradients to the bit on the CPU; elsewhere a sum's order may change from one run to the
    next, so there only which parameters have one.) The kind changes no weight; it stands here so that a purge of one kind
    removes all that was asked for as that kind.

    Cost: one pass forward and backward over at most `PROBED` rows on a copy of the network.
    """
    weights = params.unwrapped(model)
    return {
        **surroundings(),
        "weights": params.model_digest(weights),
        "trainable": " ".join(name for name, value in weights.named_parameters() if value.requires_grad),
        "architecture": repr(model),
        "computed": _computed(model, rows, engine),
        "rows": fingerprint,
        "plan": msgspec.json.encode(plan).decode(),
        "seed": str(seed),
        "device": str(device_of(model)),
        "kind": kind,
        **engine.machine.way(weights, plan.epochs * -(-len(rows) // plan.batch_size)).facts(),
        **({"read": "by workers"} if rows.source.workers else {}),
    }


def key(told: Mapping[str, str], *, together: bool) -> str:
    """Give the hash of what `facts` says, and of whether the network is trained alone or together with others.

    With which others is no part of it: that changes rounding alone.
    """
    whole = {**told, "training": "together" if together else "alone"}
    return hashlib.sha256(msgspec.json.encode(whole, order="deterministic")).hexdigest()


@torch.enable_grad()
def _computed(model: nn.Module, rows: Rows, engine: Engine) -> str:
    network = params.clone_model(model).train()
    with seeds.isolated(0, "probe"):
        batch: Batch = next(iter(batches(rows.head(PROBED), PROBED, device_of(network))))
        with running_statistics_used(network) if len(batch) == 1 else nullcontext():
            logits, targets = engine.task.forward(network, batch.content)
        told = {"logits": logits.detach()}
        losses = engine.task.losses_of(logits, targets, len(batch))
        if losses.requires_grad:
            losses.mean().backward()  # type: ignore[no-untyped-call]
    exact = device_of(network).type == "cpu"
    for name, value in params.named_parameters(network).items():
        if value.grad is not None:
            told[f"gradient of {name}"] = value.grad.to_dense() if exact else torch.zeros(0)
    return params.digest(told)
