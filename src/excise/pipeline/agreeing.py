"""That several processes do one piece of work: asked the same, and come to the same bits."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from excise import errors, params, seeds
from excise.data.rows import Rows
from excise.data.split import Split
from excise.distributed import Processes
from excise.train.hooks import Hooks
from excise.train.machine import Machine
from excise.version import __version__

PROBED_ROWS = 256
"""Retained rows whose content is compared between processes, beside every row to forget."""
ALIKE = (
    "what is not shared must come to the same bits in every process, and did not: a function of yours that draws its own "
    "random numbers, or a device that does not repeat its sums (torch.use_deterministic_algorithms makes it)"
)


def require_possible(processes: Processes, machine: Machine) -> None:
    """Refuse of a machine what several processes do not do.

    Raises:
        errors.BadRequest: compilation.
    """
    if processes.several and machine.compiled == "always":
        raise errors.BadRequest(
            "compiled: expected auto or never with several processes, which run the network as it is; found always"
        )


def require_one_request(processes: Processes, model: nn.Module, split: Split, asked: str) -> None:
    """Refuse processes that were not asked the same, before any work; `asked` is the rest of the request, as text.

    Cost: every process reads every row to forget, and `PROBED_ROWS` others.

    Raises:
        errors.BadRequest: what differs, and in which process.
    """
    if not processes.several:
        return
    with seeds.isolated(0, "processes"):  # a data set may draw
        step = max(1, -(-len(split.retain) // PROBED_ROWS))
        some = Rows(split.retain.source, split.retain.ids[::step])
        content = f"{split.forget.fingerprint()} {some.fingerprint()}"
    facts = {
        "versions of excise and torch": f"{__version__} {torch.__version__}",
        "strategy": processes.strategy,
        "weights": params.model_digest(model),
        "ids of rows": params.digest({"forget": split.forget.ids, "retain": split.retain.ids}),
        "content of rows": content,
        "recipe, mask or seed": asked,
    }
    processes.require_same(facts, "give every process the same request, data and code", errors.BadRequest)


def require_one_result(processes: Processes, model: nn.Module) -> None:
    """Refuse processes that came to different weights or buffers."""
    if processes.several:
        processes.require_same({"weights at the end": params.model_digest(model)}, ALIKE, errors.Refused)


def tell(processes: Processes, model: nn.Module, hooks: Hooks, *, checkpoints: bool) -> None:
    """Say in what several processes are not as one."""
    drawing = [name for name, module in model.named_modules() if isinstance(module, _DropoutNd) and module.p > 0]
    if processes.several and drawing:
        hooks.on_note(
            f"{drawing[0]!r} draws random numbers while it trains, each process its own: the result is as good as that of one "
            "process, and not the same"
        )
    if processes.sharded and checkpoints:
        hooks.on_note("fsdp keeps no checkpoints: a run that is killed starts anew")
