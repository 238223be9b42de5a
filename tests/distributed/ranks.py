"""Start real processes that meet in a file, run one function in each, and give what each returned.

They are forked from a server that has imported torch once, so that a start costs little.
"""

import multiprocessing
import pickle
import tempfile
import traceback
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from excise.distributed import Processes
from excise.distributed.launch import LOCAL, Started

STARTING = multiprocessing.get_context("forkserver")
STARTING.set_forkserver_preload(["excise.pipeline", "torch.distributed.fsdp", "tests.distributed.requests"])


def together(size, function, *arguments, strategy="ddp"):
    """Call `function(processes, *arguments)` in `size` processes at once; give their results in order of rank."""
    with tempfile.TemporaryDirectory() as place:
        store = str(Path(place) / "store")
        return _answers([(_child, (rank, size, store, strategy, function, arguments)) for rank in range(size)])


def _answers(calls):
    ends = [STARTING.Pipe(duplex=False) for _ in calls]
    children = [
        STARTING.Process(target=target, args=(sending, *arguments))
        for (_, sending), (target, arguments) in zip(ends, calls, strict=True)
    ]
    for child in children:
        child.start()
    try:
        found = [pickle.loads(receiving.recv_bytes()) if receiving.poll(60) else "no answer" for receiving, _ in ends]
    finally:
        for child in children:
            child.join(5)
            child.kill()
    broken = [result for result in found if isinstance(result, str)]
    assert not broken, "\n".join(broken)
    return [result for (result,) in found]


def apart(size, function, *arguments):
    """Call `function(place, *arguments)` in `size` processes that have yet to meet, each with its `launch.Started`."""
    store = distributed.TCPStore(LOCAL, 0, None, is_master=True, wait_for_workers=False)
    places = [Started(rank, size, rank, LOCAL, store.port, True, "torchrun") for rank in range(size)]
    return _answers([(_lone_child, (place, function, arguments)) for place in places])


def _lone_child(sending, place, function, arguments):
    torch.set_num_threads(1)
    sending.send_bytes(pickle.dumps((function(place, *arguments),)))


def _child(sending, rank, size, path, strategy, function, arguments):
    torch.set_num_threads(1)
    store = distributed.FileStore(path, size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    try:
        answer = (function(Processes.joined(strategy), *arguments),)
    except BaseException:
        answer = traceback.format_exc()
    sending.send_bytes(pickle.dumps(answer))  # not as a process sends tensors, by files that end with it
    distributed.destroy_process_group()
