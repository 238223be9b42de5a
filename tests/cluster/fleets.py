"""A fleet without a cluster: copies of what it is given, results out of order, and a record of who was asked."""

import copy
import itertools

from excise.cluster import Fleet


class Elsewhere(Fleet):
    """Runs so many jobs at a time on copies, and gives the last of them first."""

    here = False

    def __init__(self, at_once=3):
        self.at_once, self.jobs = at_once, []

    def run(self, job, shared, items):
        waiting = enumerate(items)
        while chunk := list(itertools.islice(waiting, self.at_once)):
            for place, item in reversed(chunk):
                self.jobs.append((job.__name__, copy.deepcopy(item)))
                yield place, job(copy.deepcopy(shared), copy.deepcopy(item))
