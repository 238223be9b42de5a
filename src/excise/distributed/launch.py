"""How processes come to be and meet: started here, or by torchrun or SLURM, each running the same command.

Whoever fails first speaks for all; the others end in silence. A launcher ends them all with the exit code of that one.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from excise import errors
from excise.distributed.processes import Processes, Strategy

LOCAL = "127.0.0.1"
FIRST_PORT, NUM_PORTS = 20_000, 20_000
MEETING_SECONDS = 300.0
"""How long one waits for the others to be there."""
ALONE_SECONDS = 5.0
"""How long others may take to end by themselves once one has failed, and again once they were asked to."""
_LOOK_SECONDS = 0.05
_REACH_SECONDS = 2.0
_LAUNCHED, _THERE, _FAILURES, _FIRST = "EXCISE_LAUNCHED", "there", "failures", "first to fail"


@dataclass(frozen=True)
class Started:
    """A process's place among those that were started with it.

    Attributes:
        rank: from 0.
        size: how many there are.
        local_rank: among those on this machine, and so which accelerator it takes.
        address: where they meet.
        port: of it.
        hosted: whether someone else keeps the meeting place, rather than the first of them.
        by: who started them, for messages.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    hosted: bool
    by: str

    def __post_init__(self) -> None:
        """Check that it is one of the places."""
        if not 0 <= self.rank < self.size:
            raise errors.BadRequest(
                f"expected a rank below the number of processes, as {self.by} sets them, found rank {self.rank} of "
                f"{self.size}; see the variables RANK and WORLD_SIZE, or SLURM_PROCID and SLURM_NTASKS"
            )


def started(environ: Mapping[str, str]) -> Started | None:
    """Read from the environment how this process was started: by torchrun, by srun, or (None) by itself.

    A batch script of SLURM's that no srun started is by itself, whatever number of tasks the job has.

    Raises:
        errors.BadRequest: a variable is missing or no number, or they contradict each other.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        numbers = [_number(environ, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")]
        hosted = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        rank, size, local, port = numbers
        return Started(rank, size, local, _word(environ, "MASTER_ADDR"), port, hosted, "torchrun")
    if "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ:
        count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
        nodes = "SLURM_STEP_NODELIST" if "SLURM_STEP_NODELIST" in environ else "SLURM_JOB_NODELIST"
        address = environ.get("MASTER_ADDR") or first_host(_word(environ, nodes))
        job = _number(environ, "SLURM_JOB_ID") + 7 * _number(environ, "SLURM_STEP_ID")
        port = _number(environ, "MASTER_PORT") if "MASTER_PORT" in environ else FIRST_PORT + job % NUM_PORTS
        rank, size, local = (_number(environ, name) for name in ("SLURM_PROCID", count, "SLURM_LOCALID"))
        return Started(rank, size, local, address, port, hosted=False, by="SLURM")
    return None


def first_host(words: str) -> str:
    """Give the first host of SLURM's list of them.

    >>> [first_host(words) for words in ("node[03-05,9],gpu1", "gpu1,gpu2", "rack[1,4]n[07-09]-ib")]
    ['node03', 'gpu1', 'rack1n07-ib']
    """
    first = re.match(r"(?:[^,\[\]]|\[[^\]]*\])+", words)
    if first is None:
        raise errors.BadRequest(f"SLURM's list of nodes: expected names such as node[03-05,9], found {words!r}")
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def _word(environ: Mapping[str, str], name: str) -> str:
    if not environ.get(name):
        raise errors.BadRequest(f"expected the variable {name}, as torchrun or srun sets it, found none")
    return environ[name]


def _number(environ: Mapping[str, str], name: str) -> int:
    word = _word(environ, name)
    if not word.isdecimal():
        raise errors.BadRequest(
            f"expected a number in the variable {name}, as torchrun or srun sets it, found {word!r}"
        )
    return int(word)


def require_as_many(place: Started | None, devices: int | None, nodes: int) -> None:
    """Refuse a number of processes that is not the one that was started.

    Args:
        place: this process among those started, if it was.
        devices: processes a node that were asked for; None for as many as there are.
        nodes: machines that were asked for.

    Raises:
        errors.BadRequest: they differ, or several nodes were asked for and nothing was started on them.
    """
    if place is None and nodes > 1:
        raise errors.BadRequest(
            f"--nodes {nodes}: expected to be started once for every device of every node, found one process by itself; "
            f"start the command by srun --nodes={nodes} --ntasks-per-node={devices or 1}, or by torchrun --nnodes={nodes} "
            f"--nproc-per-node={devices or 1} --no-python"
        )
    wanted = nodes * (devices or 1)
    if place is not None and (devices is not None or nodes > 1) and place.size != wanted:
        raise errors.BadRequest(
            f"--devices: expected {wanted} processes ({nodes} nodes of {devices or 1}), found {place.size} started by "
            f"{place.by}; leave --devices and --nodes out, or give its numbers"
        )


@contextlib.contextmanager
def joined(place: Started, strategy: Strategy, device: torch.device) -> Iterator[Processes]:
    """Meet the others for the block. In it only the first one's standard output is heard.

    What is raised in it by the first that fails goes on; the others exit.

    Args:
        place: of this process.
        strategy: see `Processes`.
        device: where it computes; an accelerator's own backend is used beside the CPU's.

    Raises:
        SystemExit: another one has failed before, and speaks.
        errors.BadRequest: they did not meet.
    """
    try:
        meeting = _met(place)
        backend = "gloo" if device.type == "cpu" else None  # both kinds, the CPU's for small facts
        distributed.init_process_group(backend, store=meeting, rank=place.rank, world_size=place.size)
    except (RuntimeError, ValueError, OSError) as error:
        raise errors.BadRequest(
            f"rank {place.rank} of {place.size} did not meet the others at {place.address}:{place.port} "
            f"({str(error).splitlines()[0]}); check that all were started, and that the address can be reached"
        ) from error
    if os.environ.get(_LAUNCHED):
        threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    try:
        with contextlib.nullcontext() if place.rank == 0 else _silent():
            yield Processes.joined(strategy)
            distributed.barrier()
    except BaseException as error:
        if not _is_first(meeting, place.rank):
            raise SystemExit(getattr(error, "exit_code", 1)) from error
        raise
    distributed.destroy_process_group()


def _met(place: Started) -> Any:
    """Give the store where all of them are by now. A signal is heard meanwhile, which torch's own waiting does not let in.

    Raises:
        OSError: some are not there in time.
    """
    until, hosts = time.monotonic() + MEETING_SECONDS, place.rank == 0 and not place.hosted
    while not (hosts or _is_open(place, until)):
        time.sleep(_LOOK_SECONDS)
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        place.address,
        place.port,
        None,
        is_master=hosts,
        timeout=timedelta(seconds=MEETING_SECONDS),
        wait_for_workers=False,
    )
    meeting = distributed.PrefixStore("excise", store)  # type: ignore[attr-defined]
    there = meeting.add(_THERE, 1)
    while there < place.size:
        if time.monotonic() > until:
            raise TimeoutError(f"{there} of them were there after {MEETING_SECONDS:g} s")
        time.sleep(_LOOK_SECONDS)
        there = meeting.add(_THERE, 0)
    return meeting


def _is_open(place: Started, until: float) -> bool:
    """Say whether somebody listens where they meet; raises what is in the way when it is too late."""
    try:
        socket.create_connection((place.address, place.port), timeout=_REACH_SECONDS).close()
    except OSError:
        if time.monotonic() > until:
            raise
        return False
    return True


def _is_first(meeting: Any, rank: int) -> bool:
    """Say whether nobody has failed before; where that cannot be asked any more, somebody has."""
    try:
        if meeting.add(_FAILURES, 1) > 1:
            return False
        meeting.set(_FIRST, str(rank))
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Send what is written to standard output nowhere, by whomever."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    except BaseException:
        sys.stdout.flush()
        os.dup2(kept, 1)  # to be able to say what went wrong
        raise
    finally:
        os.close(nowhere)
        os.close(kept)


def _end_with_the_launcher() -> None:
    """Wait until the launcher's end of standard input is closed, and end then, however it died."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ALONE_SECONDS)
    os._exit(128 + signal.SIGTERM)


def launch(command: Sequence[str], size: int, stops: Mapping[type[BaseException], int]) -> int:
    """Run a command in several processes on this machine, and give the exit code of the first that fails, or 0.

    They meet at a port that the system chooses, kept by this process, and end with it, however it dies. What they say to
    each other over TCP stays on this machine, unless `GLOO_SOCKET_IFNAME` says otherwise.

    Args:
        command: program and words; it calls `joined`.
        size: how many processes.
        stops: what handlers of signals raise here while it waits, and the signal that is passed on then.
    """
    store = _local_store()
    threads = str(max(1, (os.cpu_count() or 1) // size))
    every: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(size):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            meeting = {
                "MASTER_ADDR": LOCAL,
                "MASTER_PORT": store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
                _LAUNCHED: 1,
            }
            own = {name: str(value) for name, value in {**place, **meeting}.items()}
            environ = {"OMP_NUM_THREADS": threads, **_loopback(), **os.environ, **own}
            # in a session of its own: a terminal's Ctrl-C is heard here, and passed on once
            every.append(subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, start_new_session=True))  # noqa: S603 - itself
        return _waited(every, store, stops)
    finally:
        for one in every:
            one.kill()
            one.wait()
            if one.stdin is not None:
                one.stdin.close()


def _local_store() -> Any:
    """Give a store that this machine alone can reach; by itself torch's would listen at all addresses."""
    with socket.create_server((LOCAL, 0)) as listening:
        port = listening.getsockname()[1]
        return distributed.TCPStore(  # type: ignore[attr-defined]
            LOCAL, port, None, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
        )


def _loopback() -> dict[str, str]:
    """Give the variable that has gloo talk over the loopback interface; nothing where there is none of a usual name."""
    names = {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}
    return {"GLOO_SOCKET_IFNAME": min(names)} if names else {}


def _waited(every: Sequence[subprocess.Popen[bytes]], store: Any, stops: Mapping[type[BaseException], int]) -> int:
    """Wait for all. When one has failed, the others are given time to end, then asked to, then made to."""
    stopped, failed, patience, harder = 0, None, float("inf"), False
    while None in [one.poll() for one in every]:
        try:
            if failed is None and (ended := [one for one in every if one.returncode]):
                failed = min(ended, key=lambda one: one.returncode)  # by a signal, where one was: the others follow
                patience = time.monotonic() + ALONE_SECONDS
            if time.monotonic() > patience:
                for one in every:
                    one.kill() if harder else one.terminate()
                patience, harder = time.monotonic() + ALONE_SECONDS, True
            time.sleep(_LOOK_SECONDS)
        except tuple(stops) as stop:
            stopped = stops[type(stop)]
            for one in every:
                one.send_signal(stopped)
    failed = failed or next((one for one in every if one.returncode), None)
    if failed is None:
        return 0
    if stopped:
        return 128 + stopped
    if failed.returncode < 0:
        number, rank = -failed.returncode, every.index(failed)
        reason = " (out of memory?)" if number == signal.SIGKILL else ""
        sys.stderr.write(f"excise: rank {rank} was ended by signal {number}{reason}, and so are the others\n")
        return 128 + number
    named = f"excise/{_FIRST}"
    code: int = every[int(store.get(named))].returncode if store.check([named]) else failed.returncode
    return code if code > 0 else 128 - code
