"""One command as several processes, as it is typed: started by itself, and as SLURM's srun starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from excise import errors, store
from excise.cli import ranks
from excise.distributed import Processes, launch
from tests.cli.project import UNLEARN, typed

SETTINGS = ["--set", "epochs=2", "--set", "batch_size=64"]


def words(command, **changes):
    return [*ranks.COMMAND, command, *typed(UNLEARN, **changes)]


@pytest.mark.usefixtures("project")
def test_two_processes_write_what_one_does(unlearn):
    done = subprocess.run(
        [*words("unlearn", out="two", devices=2), *SETTINGS, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("Wrote two") == 1
    found, alone = json.loads(done.stdout), unlearn(*SETTINGS, "--json", out="one").json
    same = ("recipe", "mask_digest", "frozen_digest_before", "frozen_digest_after", "trained_rows")
    assert {name: found[name] for name in same} == {name: alone[name] for name in same}
    mine, theirs = (store.read_tensors(store_of / "model.safetensors")[0] for store_of in map(_path, ("two", "one")))
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, atol=1e-5, rtol=0)  # float32
    record = store.read_record(_path("two"))["request"]["environment"]
    assert (record["processes"], record["strategy"]) == (2, "ddp")
    assert "processes" not in store.read_record(_path("one"))["request"]["environment"]


def _path(name):
    return Path(name)


@pytest.mark.usefixtures("project")
def test_tasks_of_srun_meet(localize):
    port = launch.distributed.TCPStore(launch.LOCAL, 0, None, is_master=True, wait_for_workers=False).port
    step = {
        "SLURM_NTASKS": "2",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "9",
        "SLURM_STEP_NODELIST": "localhost,node[1-2]",
    }
    tasks = [
        subprocess.Popen(
            [*words("localize", out="found"), "--json"],
            env={**os.environ, **step, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "MASTER_PORT": str(port)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    (first, words_of_first), (second, words_of_second) = (task.communicate(timeout=100) for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], words_of_first + words_of_second
    assert (second, words_of_second) == ("", "")
    assert json.loads(first)["mask_digest"] == localize("--json", out="alone").json["mask_digest"]


def test_numbers_and_words_that_make_no_sense_are_refused(unlearn, monkeypatch):
    assert "--strategy: expected ddp or fsdp, found 'dp'" in unlearn(strategy="dp").err
    assert "--strategy: fsdp divides a network between processes, found one" in unlearn(strategy="fsdp").err
    assert "--nodes 2: expected to be started once for every device" in unlearn(nodes=2).err
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert ranks._own_device("cpu", 3) == "cpu"
    monkeypatch.setattr(ranks, "require_device", lambda words: None)
    with pytest.raises(errors.BadRequest, match="--device: expected a kind for several processes, such as meta, found"):
        ranks._own_device("meta:0", 0)
    with pytest.raises(
        errors.BadRequest, match="--devices: expected at most 1 processes on this machine, one a device"
    ):
        ranks._own_device("meta", 1)


def test_the_record_says_nothing_of_one_process():
    assert ranks.several_of(Processes.alone()) == {}
    assert ranks.several_of(Processes(1, 4, "fsdp")) == {"processes": 4, "strategy": "fsdp"}


def test_the_command_is_this_python():
    assert ranks.COMMAND[:2] == (sys.executable, "-P")
