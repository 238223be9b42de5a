"""On a real cluster of two workers on this machine, started once: what comes is what comes here, whoever dies."""

import gc
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
import ray
import torch

from excise import errors
from excise.cluster import Here, OnRay
from excise.cluster.ray_fleet import LOCAL
from excise.data.rows import Rows
from excise.oracles import Bank, retrain
from excise.train import Hooks
from excise.train.checkpoints import Checkpoints
from tests.cluster.jobs import (
    PLAN,
    ROWS,
    Deadly,
    beside,
    dies,
    engine_for,
    mlp,
    raises,
    rows,
    sleeps,
    square,
    surroundings,
)
from tests.probes import same_bytes

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, and a secret of their own, so that none is left in the user's home."""
    secret = tmp_path_factory.mktemp("ray") / "token"
    secret.write_text(secrets.token_hex(32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(secret))
        patch.setenv("RAY_AUTH_MODE", "")
        patch.delenv("RAY_AUTH_MODE")  # Ray sets it, and here it is put back
        before = os.environ.get("RAY_USAGE_STATS_ENABLED"), signal.getsignal(signal.SIGTERM)
        with OnRay(LOCAL, at_once=2) as fleet:
            assert list(fleet.run(square, 1, [])) == [] and not ray.is_initialized()  # nothing is started for nothing
            assert dict(fleet.run(square, 1, [3])) == {0: 10}
            assert (os.environ.get("RAY_USAGE_STATS_ENABLED"), signal.getsignal(signal.SIGTERM)) == before
            yield fleet
        assert not ray.is_initialized()
    gc.collect()  # what Ray leaves open is closed here, and not in another test


@pytest.fixture
def at(cluster):
    """Where the cluster is, for another process."""
    return ray.get_runtime_context().gcs_address


def test_results_come_with_their_places(cluster):
    assert sorted(cluster.run(square, 5, iter(range(7)))) == [(place, place * place + 5) for place in range(7)]


def test_workers_have_as_many_threads_as_this_process_and_tell_nobody(cluster):
    for _, (process, threads, told) in cluster.run(surroundings, None, range(2)):
        assert process != os.getpid() and threads == torch.get_num_threads() and told == "0"


def test_an_item_is_taken_when_there_is_room_for_it(cluster, tmp_path):
    taken = []
    running = OnRay(at_once=1).run(beside, str(tmp_path), (taken.append(item) or item for item in range(3)))
    assert taken == []
    for _, count in running:
        assert count == 1
        assert len(taken) <= 3
    assert taken == [0, 1, 2]
    assert max(count for _, count in cluster.run(beside, str(tmp_path), range(6))) <= 2


def test_who_leaves_takes_no_more_items(cluster, tmp_path):
    taken = []
    running = cluster.run(beside, str(tmp_path), (taken.append(item) or item for item in range(9)))
    next(running)
    running.close()
    assert len(taken) == 2


def test_a_signal_is_heard_at_once_and_what_is_under_way_is_given_up(cluster):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        started = time.monotonic()
        with pytest.raises(Stop):
            list(cluster.run(sleeps, None, [120, 120]))
        assert time.monotonic() - started < 60
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert dict(cluster.run(square, 1, [3])) == {0: 10}  # there is room again


def test_a_worker_that_dies_is_replaced_so_many_times(cluster, tmp_path):
    found = OnRay(at_once=2, retries=1).run(dies, str(tmp_path), [(0, 0), (1, 1), (2, 0)])
    assert sorted(found) == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(errors.ClusterError, match=r"workers on item 2 died, 1 in all .*goes on with what is missing"):
        list(OnRay(at_once=1, retries=0).run(dies, str(tmp_path), [(3, 0), (4, 1)]))


def test_errors_arrive_as_themselves(cluster):
    with pytest.raises(errors.Diverged, match="the loss is no number") as told:
        list(cluster.run(raises, None, ["fine", "ours"]))
    assert type(told.value) is errors.Diverged and str(told.value) == "the loss is no number"
    assert told.value.last_finite["weight"].tolist() == [1.0, 1.0]
    assert "on a worker of the cluster" in told.value.__notes__[0]
    with pytest.raises(ZeroDivisionError, match="by their own code"):
        list(cluster.run(raises, None, ["theirs"]))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray looks for the culprit, and opens files at it
def test_what_cannot_be_sent_is_refused(cluster):
    with pytest.raises(
        errors.ClusterError, match="expected a job, data and networks that can be sent to another process"
    ):
        list(cluster.run(square, threading.Lock(), [1]))
    with pytest.raises(errors.ClusterError, match=r"could not take item 1, or not send what came of it: .*lock"):
        list(cluster.run(raises, None, ["unsendable"]))


def test_a_job_that_finds_no_room_is_refused(cluster):
    with pytest.raises(
        errors.ClusterError, match="expected room for a job of 64 CPU and 0 accelerators, found 2 and 0"
    ):
        list(OnRay(cpus=64).run(square, 1, [1]))
    with pytest.raises(errors.ClusterError, match=r"of 1 CPU and 0.5 accelerators, found 2 and 0 in all; ask for less"):
        list(OnRay(accelerators=0.5).run(square, 1, [1]))


def test_want_of_memory_and_lost_machines_are_told_by_item():
    for error, message in [
        (
            ray.exceptions.OutOfMemoryError("much"),
            "workers on item 1 were ended for want of memory; give each job more CPUs",
        ),
        (ray.exceptions.NodeDiedError("gone"), r"workers on item 1 died, 4 in all \(NodeDiedError\)"),
    ]:
        ended = Future()
        ended.set_exception(error)
        with pytest.raises(errors.ClusterError, match=message) as told:
            OnRay()._result(ray, ended, 0)
        assert told.value.exit_code == 10


class Heard(Hooks):
    def __init__(self):
        self.stages, self.steps, self.notes = [], 0, []

    def on_stage(self, name, num_steps):
        self.stages.append((name, num_steps))

    def on_step(self):
        self.steps += 1

    def on_note(self, text):
        self.notes.append(text)


def told_of(bank):
    """Give what entries say, but for when and how long."""
    return {
        entry.key: (entry.kind, entry.architecture, entry.num_rows, entry.seed, entry.rows, entry.data)
        for entry in bank.entries()
    }


def test_a_bank_filled_by_workers_is_the_one_filled_here_to_the_bit(cluster, tmp_path):
    here, there = (Bank(tmp_path / name, data="of these data") for name in ("here", "there"))
    heard, own = Heard(), engine_for()
    wanted = retrain(mlp, rows(), PLAN, range(4), own, bank=here, fleet=Here())
    engine = engine_for(hooks=heard)
    found = retrain(mlp, rows(), PLAN, range(4), engine, bank=there, fleet=cluster)
    without = retrain(mlp, rows(), PLAN, range(4), engine_for(), fleet=cluster)
    assert [one.seed for one in found] == [0, 1, 2, 3]
    for one, other, third in zip(wanted, found, without, strict=True):
        assert same_bytes(one.state, other.state) and same_bytes(one.state, third.state)
        assert one.trained_rows == other.trained_rows == third.trained_rows == PLAN.epochs * ROWS
    assert told_of(here) == told_of(there) and len(told_of(here)) == 4
    assert all(same_bytes(here.find(key).state, there.find(key).state) for key in told_of(here))
    assert (engine.cost.trained_rows, engine.cost.forward_rows) == (own.cost.trained_rows, own.cost.forward_rows)
    assert heard.stages == [("oracle, on workers", 4)] and heard.steps == 4
    retrain(mlp, rows(), PLAN, range(4), engine, bank=there, fleet=cluster)
    assert heard.steps == 4  # all were found


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_bank_at_a_url_is_filled_by_workers(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bank = Bank(f"file://{tmp_path}/bank")
    found = retrain(mlp, rows(), PLAN, range(2), engine_for(), bank=bank, fleet=cluster)
    wanted = retrain(mlp, rows(), PLAN, range(2), engine_for())
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))
    assert len(list((tmp_path / "bank").iterdir())) == 2


def test_a_training_whose_worker_is_killed_goes_on_from_its_checkpoint(cluster, tmp_path):
    after = ROWS + 8 + 2 * ROWS + 5  # in the third epoch: what the key reads, what the probe reads, and two epochs
    bank, lent = Bank(tmp_path / "bank"), Checkpoints(None, 0.0)
    engine = engine_for(checkpoints=lent)
    found = retrain(mlp, Rows.all_of(Deadly(tmp_path, after)), PLAN, [7], engine, bank=bank, fleet=cluster)[0]
    reads = (tmp_path / "reads").read_text().split()
    first, second = dict.fromkeys(reads)  # two processes, in order
    assert reads.count(first) == after + 1
    assert reads.count(second) <= ROWS + 8 + ROWS  # not from the first epoch
    assert same_bytes(found.state, retrain(mlp, rows(), PLAN, [7], engine_for())[0].state)
    assert [path.name for path in bank.directory.iterdir() if path.suffix != ".safetensors"] == []


def test_a_driver_that_is_killed_loses_no_more_than_was_under_way(cluster, at, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.driver", at, tmp_path / "bank"],
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    bank, heard = Bank(tmp_path / "bank"), Heard()
    before = {entry.seed: entry for entry in bank.entries()}
    assert 1 <= len(before) <= 2  # one was done, one was under way
    found = retrain(mlp, rows(), PLAN, range(6), engine_for(hooks=heard), bank=bank, fleet=cluster)
    after = {entry.seed: entry for entry in bank.entries()}
    assert set(after) == set(range(6)) and heard.steps <= 6 - len(before)
    assert all(after[seed] == entry for seed, entry in before.items())  # none of these was trained again
    wanted = retrain(mlp, rows(), PLAN, range(6), engine_for())
    assert all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))


# without a cluster


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_once": 0}, "at_once: expected an integer of at least 1, found 0"),
        ({"cpus": 0}, "cpus: expected an integer of at least 1"),
        ({"accelerators": -1}, "accelerators: expected a finite number of at least 0"),
        ({"retries": -1}, "retries: expected a whole number from 0 on, found -1"),
        ({"retries": True}, "retries: expected a whole number from 0 on, found True"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(errors.BadRequest, match=message):
        OnRay(**options)


@pytest.mark.parametrize(
    ("address", "what"),
    [("auto", "find a Ray cluster at auto"), (None, "start a Ray cluster on this machine")],
)
def test_a_cluster_that_is_not_there_is_told_in_one_sentence(monkeypatch, address, what):
    def absent(**_):
        raise ConnectionError("nobody answers\nand a page of advice")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", absent)
    with pytest.raises(errors.ClusterError, match=f"cluster: could not {what}: nobody answers; see that") as told:
        list(OnRay(address).run(square, 1, [1]))
    assert "advice" not in str(told.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:one"])
def test_an_address_where_nobody_listens_is_told_at_once_and_not_left_to_ray_which_tries_for_minutes(
    monkeypatch, address
):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was asked"))
    with pytest.raises(errors.ClusterError, match=f"cluster: could not find a Ray cluster at {address}: "):
        list(OnRay(address).run(square, 1, [1]))


def test_without_ray_the_message_is_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        errors.MissingExtra, match=r"needs Ray, and it is not installed: pip install 'excise\[cluster\]'"
    ):
        next(OnRay().run(square, 1, [1]))


def test_it_says_what_it_is():
    assert repr(OnRay("auto", at_once=3)) == "OnRay('auto', at_once=3)" and not OnRay.here
