"""A fleet without a cluster: what goes and what comes is pickled as Ray does it, results come out of order."""

import itertools

from excise.cluster import Fleet


class Elsewhere(Fleet):
    """Runs so many jobs at a time in this process, each on a copy of what it is given, the last of them first.

    Attributes:
        jobs: name of each job that was run, and the item it was given.
    """

    here = False

    def __init__(self, at_once=3):
        self.at_once, self.jobs = at_once, []

    def run(self, job, shared, items):
        waiting = enumerate(items)
        while chunk := list(itertools.islice(waiting, self.at_once)):
            for place, item in reversed(chunk):
                self.jobs.append((getattr(job, "__name__", "partial"), item))
                own, with_all, with_one = sent((job, shared, item))
                yield place, sent(own(with_all, with_one))


def sent(value):
    """Give what arrives of a value."""
    import ray.cloudpickle  # where it is needed: Ray takes a second to import

    return ray.cloudpickle.loads(ray.cloudpickle.dumps(value))
