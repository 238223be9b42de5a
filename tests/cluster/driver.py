"""A driver that is killed when the first network is in the bank: `python -m tests.cluster.driver ADDRESS BANK`."""

import os
import signal
import sys

from excise.cluster import OnRay
from excise.oracles import Bank, retrain
from excise.train import Hooks
from tests.cluster.jobs import PLAN, engine_for, mlp, rows


class Killing(Hooks):
    def on_step(self):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    fleet = OnRay(sys.argv[1], at_once=2, cpus=2)  # two under way, one at work: one worker has to start
    retrain(mlp, rows(), PLAN, range(6), engine_for(hooks=Killing()), bank=Bank(sys.argv[2]), fleet=fleet)
