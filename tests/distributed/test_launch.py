"""Where processes stand, how they meet, and how they end together."""

import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from excise import errors
from excise.distributed import launch
from excise.distributed.launch import Started, first_host, require_as_many, started
from tests.distributed import requests
from tests.distributed.ranks import apart

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_ID": "2",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_JOB_NODELIST": "gpu[007-010,12]",
    "SLURM_JOB_ID": "123456",
}


@pytest.mark.parametrize(
    ("words", "host"),
    [
        ("node", "node"),
        ("node7,node8", "node7"),
        ("node[3]", "node3"),
        ("node[03-05,9]", "node03"),
        ("a[9,1-3],b[1-2]", "a9"),
        ("rack[1-2]n[07,09]-ib,x", "rack1n07-ib"),
        ("n-1.example.org", "n-1.example.org"),
    ],
)
def test_the_first_host_of_a_list(words, host):
    assert first_host(words) == host


@pytest.mark.parametrize("words", ["", ",a", "[", "]"])
def test_what_is_no_list_of_hosts_is_refused(words):
    with pytest.raises(
        errors.BadRequest, match=r"SLURM's list of nodes: expected names such as node\[03-05,9\], found"
    ):
        first_host(words)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # a batch script that no srun started
        (TORCHRUN, Started(3, 4, 1, "10.0.0.1", 29500, False, "torchrun")),
        ({**TORCHRUN, **SRUN}, Started(3, 4, 1, "10.0.0.1", 29500, False, "torchrun")),
        (
            {**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"},
            Started(3, 4, 1, "10.0.0.1", 29500, True, "torchrun"),
        ),
        (SRUN, Started(5, 8, 1, "gpu007", 20_000 + (123456 + 14) % 20_000, False, "SLURM")),
        (
            {**SRUN, "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_NODELIST": "b2", "MASTER_PORT": "4000"},
            Started(5, 6, 1, "b2", 4000, False, "SLURM"),
        ),
    ],
)
def test_a_place_is_read_from_the_environment(environ, expected):
    assert started(environ) == expected


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {**TORCHRUN, "LOCAL_RANK": "one"},
            "expected a number in the variable LOCAL_RANK, as torchrun or srun sets it",
        ),
        ({**TORCHRUN, "MASTER_ADDR": ""}, "expected the variable MASTER_ADDR, as torchrun or srun sets it, found none"),
        ({name: word for name, word in SRUN.items() if name != "SLURM_LOCALID"}, "expected the variable SLURM_LOCALID"),
        (
            {**SRUN, "SLURM_PROCID": "8"},
            "expected a rank below the number of processes, as SLURM sets them, found rank 8 of 8",
        ),
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "0"}, "as torchrun sets them, found rank 0 of 0"),
    ],
)
def test_a_place_that_is_half_told_is_refused(environ, message):
    with pytest.raises(errors.BadRequest, match=message):
        started(environ)


def test_numbers_that_were_not_started_are_refused():
    four = started(TORCHRUN)
    for devices, nodes in ((None, 1), (4, 1), (2, 2), (1, 4)):
        require_as_many(four, devices, nodes)
    require_as_many(None, 4, 1)
    with pytest.raises(errors.BadRequest, match=r"expected 6 processes \(2 nodes of 3\), found 4 started by torchrun"):
        require_as_many(four, 3, 2)
    with pytest.raises(
        errors.BadRequest, match="--nodes 2: expected to be started once for every device of every node"
    ):
        require_as_many(None, 4, 2)


STOPS = {KeyboardInterrupt: signal.SIGINT}
CHILD = "import os, signal, sys, time; rank = int(os.environ['RANK'])\n"


def launched(text, size=3):
    return launch.launch([sys.executable, "-c", CHILD + text], size, STOPS)


def test_each_has_a_place_and_all_end_well(tmp_path):
    told = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(os.environ['WORLD_SIZE'] + os.environ['LOCAL_RANK'])"
    assert launched(told) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0": "30", "1": "31", "2": "32"}


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the system does not say who listens where")
def test_they_meet_where_no_other_machine_can_reach_them(tmp_path):
    told = f"""
lines = [line.split() for kind in ("tcp", "tcp6") for line in open("/proc/net/" + kind).read().splitlines()[1:]]
port = f":{{int(os.environ['MASTER_PORT']):04X}}"
heard = [words[1] for words in lines if words[3] == "0A" and words[1].endswith(port)]
open({str(tmp_path / "heard")!r}, "w").write(" ".join([*heard, os.environ["GLOO_SOCKET_IFNAME"]]))
"""
    assert launched(told, 1) == 0
    address, interface = (tmp_path / "heard").read_text().split()
    assert socket.inet_ntoa(int(address[:8], 16).to_bytes(4, sys.byteorder)) == launch.LOCAL
    assert interface == "lo"


def test_one_that_fails_ends_all_with_its_own_code(monkeypatch):
    monkeypatch.setattr(launch, "ALONE_SECONDS", 0.2)
    begun = time.monotonic()
    assert launched("sys.exit(7) if rank == 1 else time.sleep(60)") == 7
    assert launched("signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.exit(4) if rank == 2 else time.sleep(60)") == 4
    assert time.monotonic() - begun < 30


def test_one_that_is_killed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(launch, "ALONE_SECONDS", 0.2)
    assert launched("os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else time.sleep(60)") == 137
    assert capsys.readouterr().err == ("excise: rank 1 was ended by signal 9 (out of memory?), and so are the others\n")


def test_a_signal_reaches_all(tmp_path, request):
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
    heard = f"""
def hear(*_):
    open({str(tmp_path)!r} + f'/{{rank}}', 'w')
    sys.exit(130)
signal.signal(signal.SIGINT, hear)
open({str(tmp_path)!r} + f'/ready{{rank}}', 'w')
time.sleep(60)
"""

    def interrupt():
        while len(list(tmp_path.glob("ready*"))) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert launched(heard) == 130
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) == 3


def test_the_first_to_fail_speaks_and_only_the_first_process_is_heard():
    for failing in (0, 1):
        found = apart(2, requests.fails, failing)
        told = [own["told"] for own in found]
        assert told[failing] == "BadRequest: this one is at fault"
        assert told[1 - failing] in ("SystemExit: 1", "SystemExit: 2")
        assert [own["heard"] for own in found] == ["rank 0 speaks\n", ""]


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_do_not_meet_are_refused(monkeypatch, rank):
    port = 1 - rank  # the host takes any; nobody listens at 1
    nobody = Started(rank, 2, 0, launch.LOCAL, port, False, "torchrun")
    monkeypatch.setattr(launch, "MEETING_SECONDS", 0.2)
    with (
        pytest.raises(errors.BadRequest, match=rf"rank {rank} of 2 did not meet the others at 127\.0\.0\.1:{port} "),
        launch.joined(nobody, "ddp", torch.device("cpu")),
    ):
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_is_heard_while_the_others_are_waited_for(rank):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with (
            pytest.raises(Stop),
            launch.joined(Started(rank, 2, 0, launch.LOCAL, 1 - rank, False, "SLURM"), "ddp", torch.device("cpu")),
        ):
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - began < launch.MEETING_SECONDS / 10
