"""`OnRay`: jobs on the machines of a Ray cluster, or on the cores of this one. The only file that uses Ray.

What goes to a worker is pickled by Ray, and so runs code there: a cluster is to be reached only by those who may run anything
on it. That is Ray's nature, not this file's; see docs/cluster.md.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Self

import torch

from excise import checks, errors
from excise.cluster.fleet import Fleet, Item, Result, Shared

LOCAL = "local"
"""The address that stands for a cluster on this machine alone, started here."""
DEAF_SECONDS = 5.0
"""That a job is given to end when it is interrupted."""
REACH_SECONDS = 10.0
"""How long a cluster may take to answer at all."""
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""Nothing goes out; and Ray leaves the variables that name accelerators as they are where a job asks for none."""


class OnRay(Fleet):
    """Runs jobs on the workers of a Ray cluster, at most `at_once` of them at a time.

    Ray is joined by the first run. A connection that this process has already is used as it is; one that was made here ends
    with `close`, with the `with` block, or with the process.

    A worker that dies, or its machine, has its job run again elsewhere, `retries` times. Workers compute with as many threads
    as this process does, since results depend on that.

    Args:
        address: of a running cluster, such as `10.0.0.1:6379`, or `auto` for the one that `ray start` began on this machine.
            `local` starts one on this machine, with no dashboard and reachable from nowhere else; so does None where this
            process has no connection yet.
        at_once: jobs under way at a time, and so lost at most when this process dies; as many as the cluster has room for if
            None.
        cpus: processors that a job is given.
        accelerators: of these as many; a share of one is a fraction.
        retries: how often a job is run again whose worker died.

    Raises:
        errors.BadRequest: a number that makes no sense.
    """

    here = False

    def __init__(
        self,
        address: str | None = None,
        *,
        at_once: int | None = None,
        cpus: int = 1,
        accelerators: float = 0,
        retries: int = 3,
    ) -> None:
        self.address = address
        self.at_once = None if at_once is None else checks.require_positive_int("at_once", at_once)
        self.cpus = checks.require_positive_int("cpus", cpus)
        self.accelerators = checks.require_finite("accelerators", accelerators)
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise errors.BadRequest(f"retries: expected a whole number from 0 on, found {retries!r}")
        self.retries = retries
        self._joined = False

    def __repr__(self) -> str:
        return f"OnRay({self.address!r}, at_once={self.at_once})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster if it was joined here, and end it if it was started here."""
        if self._joined:
            _require_ray().shutdown()
            self._joined = False

    def run(
        self, job: Callable[[Shared, Item], Result], shared: Shared, items: Iterable[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Run jobs on workers, see `Fleet.run`.

        Raises:
            errors.MissingExtra: Ray is not installed.
            errors.ClusterError: there is no cluster at the address; it has no room for one job; what a job is given cannot be
                sent to another process; workers died over an item, once and at every further attempt, or of want of memory.
        """
        ray = _require_ray()
        coming = enumerate(items)
        first = next(coming, None)
        if first is None:  # nothing to do: no cluster is started for that
            return
        self._join(ray)
        room = self._room(ray)
        task = ray.remote(_carried).options(
            num_cpus=self.cpus,
            num_gpus=self.accelerators,
            max_retries=self.retries,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": str(torch.get_num_threads())}},
        )
        both = _sent(ray.put, (job, shared))
        under_way: dict[Future[Any], tuple[int, Any]] = {}
        waiting = itertools.chain([first], coming)
        try:
            while True:
                for place, item in itertools.islice(waiting, room - len(under_way)):
                    sent = _sent(task.remote, both, item)
                    under_way[sent.future()] = place, sent
                if not under_way:
                    return
                # not ray.wait, which no signal interrupts
                done = next(iter(wait(under_way, return_when=FIRST_COMPLETED).done))
                place, _ = under_way.pop(done)
                yield place, self._result(ray, done, place)
        finally:
            _give_up(ray, under_way)

    def _join(self, ray: ModuleType) -> None:
        if ray.is_initialized():
            return
        own = self.address in (None, LOCAL)
        options: dict[str, Any] = {"address": self.address}
        if own:
            # A name for itself that no other machine can reach, and that is found without asking one.
            options = {"address": LOCAL, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            if self.at_once is not None:
                options |= {"num_cpus": self.at_once * self.cpus}
        try:
            if not own:
                _require_open(str(self.address))
            with _environment(_QUIET), _own_signal():
                ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            what = "start a Ray cluster on this machine" if own else f"find a Ray cluster at {self.address}"
            raise errors.ClusterError(
                f"cluster: could not {what}: {str(error).strip().splitlines()[0]}; see that `ray status` knows it, and that "
                "both have one version of Ray and of Python"
            ) from error
        self._joined = True

    def _room(self, ray: ModuleType) -> int:
        """Give how many jobs may be under way."""
        there = ray.cluster_resources()
        room = int(there.get("CPU", 0) // self.cpus)
        if self.accelerators:
            room = min(room, int(there.get("GPU", 0) // self.accelerators))
        if not room:
            raise errors.ClusterError(
                f"cluster: expected room for a job of {self.cpus} CPU and {self.accelerators:g} accelerators, found "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g} in all; ask for less, or add machines"
            )
        return self.at_once or room

    def _result(self, ray: ModuleType, done: Future[Any], place: int) -> Any:
        """Give what a job gave, or raise what it raised."""
        try:
            error, result = done.result()
        except ray.exceptions.RayTaskError as told:  # before the job began, or with a result that could not be sent
            raise errors.ClusterError(
                f"cluster: a worker could not take item {place + 1}, or not send what came of it: {told.cause!r}; workers "
                "need the same version of excise, and every module that is used here"
            ) from told
        except ray.exceptions.OutOfMemoryError as told:
            raise errors.ClusterError(
                f"cluster: workers on item {place + 1} were ended for want of memory; give each job more CPUs, so that fewer "
                "run beside it, or take larger machines"
            ) from told
        except ray.exceptions.RayError as told:
            raise errors.ClusterError(
                f"cluster: workers on item {place + 1} died, {self.retries + 1} in all ({type(told).__name__}); the same call "
                "goes on with what is missing; what they said last is in the logs of Ray, /tmp/ray/session_latest/logs"
            ) from told
        if error is not None:
            raise error
        return result


def _give_up(ray: ModuleType, under_way: Mapping[Future[Any], tuple[int, Any]]) -> None:
    """Interrupt jobs; end the workers of those that do not hear it: one that is just starting loses an interrupt."""
    for _, left in under_way.values():
        ray.cancel(left)
    for deaf in wait(under_way, timeout=DEAF_SECONDS).not_done:
        ray.cancel(under_way[deaf][1], force=True)


def _require_open(address: str) -> None:
    """Refuse an address at which nobody listens: Ray tries for minutes, and hears no signal meanwhile.

    Raises:
        OSError: nobody does.
        ValueError: its port is no number of one.
    """
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if colon:  # else a word of Ray's own, such as `auto`
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()


def _carried(both: tuple[Callable[[Any, Any], Any], Any], item: Any) -> tuple[Exception | None, Any]:
    """On a worker: run the job, and carry an error home as a value, so that it arrives as itself."""
    job, shared = both
    try:
        return None, job(shared, item)
    except Exception as error:  # whatever a job may raise; raised again where the result is asked for
        error.add_note(f"raised on a worker of the cluster, on {socket.gethostname()}")
        return error.with_traceback(None), None


def _sent(send: Callable[..., Any], *values: Any) -> Any:
    try:
        return send(*values)
    except TypeError as error:  # Ray's, for what cannot be pickled
        told = str(error).strip().splitlines()
        raise errors.ClusterError(
            f"cluster: expected a job, data and networks that can be sent to another process, found {told[0]}; define classes "
            "and functions in a module, and keep open files, locks and generators out of them"
        ) from error


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Have variables in the environment that processes started in the block take with them, and put it back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _own_signal() -> Iterator[None]:
    """Put back what this process does on SIGTERM: Ray has it end at once, where a training would first put itself away."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _require_ray() -> ModuleType:
    """Give Ray.

    Raises:
        errors.MissingExtra: it is not installed.
    """
    try:
        import ray
    except ImportError as cause:
        raise errors.MissingExtra(
            "running jobs on a cluster needs Ray, and it is not installed: pip install 'excise[cluster]'"
        ) from cause
    return ray
