"""One command as several processes: started here, by torchrun, or by SLURM's srun."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from excise import errors
from excise.cli.stopping import Terminated
from excise.cli.tables import require_device
from excise.distributed import STRATEGIES, Processes, Strategy, launch

COMMAND = (sys.executable, "-P", "-c", "from excise.cli.main import run; run()")


def run(room: str, options: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Run the module of a command that may be several processes, with the options that were typed."""
    words = {name: options.pop(name) for name in ("devices", "nodes", "strategy", "device", "quiet")}
    with several(**words) as (processes, device, quiet):
        module = importlib.import_module(f"excise.cli.{room}")
        return module.run(**options, device=device, quiet=quiet, processes=processes)  # type: ignore[no-any-return]


def several_of(processes: Processes) -> dict[str, Any]:
    """Give what a request's record says of several processes, whose sums round otherwise; nothing of one."""
    return {"processes": processes.size, "strategy": processes.strategy} if processes.several else {}


@contextmanager
def several(
    *, devices: int | None, nodes: int, strategy: Strategy, device: str, quiet: bool
) -> Iterator[tuple[Processes, str, bool]]:
    """Meet the other processes for the block; gives them, the device of this one, and whether it is to be quiet.

    Where this command is to be several and is not yet, it is started so often, and this process ends with them.

    Raises:
        SystemExit: what was started has ended.
        errors.BadRequest: numbers that do not go together.
    """
    if strategy not in STRATEGIES:
        raise errors.BadRequest(f"--strategy: expected {' or '.join(STRATEGIES)}, found {strategy!r}")
    place = launch.started(os.environ)
    if place is None or place.size == 1:
        launch.require_as_many(place, devices, nodes)
    if place is None and devices is not None and devices > 1:
        stops = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
        raise SystemExit(launch.launch([*COMMAND, *sys.argv[1:]], devices, stops))
    if place is None or place.size == 1:
        if strategy == "fsdp":
            raise errors.BadRequest(
                "--strategy: fsdp divides a network between processes, found one; give --devices, or leave it out"
            )
        yield Processes.alone(), device, quiet
        return
    own = _own_device(device, place.local_rank)
    with launch.joined(place, strategy, torch.device(own)) as processes:
        launch.require_as_many(place, devices, nodes)  # here one of them tells it for all
        yield processes, own, quiet or not processes.is_first


def _own_device(device: str, local_rank: int) -> str:
    """Give this process's device, one of its own where there are several of a kind."""
    require_device(device)
    kind = torch.device(device)
    if kind.type == "cpu":
        return device
    if ":" in device:
        raise errors.BadRequest(f"--device: expected a kind for several processes, such as {kind.type}, found {device}")
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise errors.BadRequest(
            f"--devices: expected at most {count} processes on this machine, one a device, found more"
        )
    torch.accelerator.set_device_index(local_rank)
    return f"{kind.type}:{local_rank}"
