"""Worker processes of this machine, one thread each, for cells that take seconds."""

import multiprocessing
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait

import torch

from excise.cluster import Fleet


class Workers(Fleet):
    """Runs jobs in a few processes, and says how far they are; used as a context, at whose end the processes end."""

    here = False

    def __init__(self, count, told=sys.stderr):
        self.count, self.told, self.what = count, told, "jobs"
        self._pool = ProcessPoolExecutor(
            count, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._pool.shutdown(wait=True, cancel_futures=True)

    def named(self, what):
        """Say what the next jobs are."""
        self.what = what
        return self

    def run(self, job, shared, items):
        """Run jobs as there is room; those under way when one fails are waited for, the others are not begun."""
        items = list(items)
        waiting, under_way = list(enumerate(items))[::-1], {}
        started, said = time.monotonic(), 0.0
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.count + 1:
                    place, item = waiting.pop()
                    under_way[self._pool.submit(job, shared, item)] = place
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    yield under_way.pop(future), future.result()
                spent, done = time.monotonic() - started, len(items) - len(waiting) - len(under_way)
                if spent - said > 20 or done == len(items):
                    said = spent
                    left = spent / done * (len(items) - done)
                    self.told.write(f"{self.what}: {done} of {len(items)}, {spent:.0f} s, about {left:.0f} s left\n")
                    self.told.flush()
        finally:
            for future in under_way:
                future.cancel()
