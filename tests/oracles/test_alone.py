"""The parts of one training that `retrain` is made of; what they come to together is tested there."""

from dataclasses import replace

import pytest

from excise import seeds, store
from excise.oracles import Bank, keys, retrain
from excise.oracles.alone import Alone, Retold, Wanted, train_here
from excise.train.hooks import EpochTrace, Hooks
from tests.cluster.jobs import PLAN, engine_for, mlp, rows
from tests.probes import same_bytes


@pytest.fixture
def alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Alone(PLAN, engine_for(), None, "oracle", [rows()], Bank(tmp_path / "bank"), "oracle")


def missing(alone):
    with seeds.isolated(7, "fresh"):
        model = mlp()
    one = Wanted(0, 7, model, alone.rows[0], keys.fingerprints(alone.rows)[0])
    return one, keys.facts(one.model, one.rows, one.fingerprint, PLAN, 7, alone.engine, kind="oracle")


def test_a_job_of_this_process_gives_and_keeps_what_retrain_gives(alone):
    own = missing(alone)
    found = train_here(alone, own)
    wanted = retrain(mlp, rows(), PLAN, [7], engine_for())[0]
    assert same_bytes(found.state, wanted.state)
    assert same_bytes(alone.bank.find(keys.key(own[1], together=False)).state, wanted.state)
    assert alone.bank.entries()[0].rows == store.commitment(rows().ids)


def test_the_digest_of_the_rows_may_come_from_another_machine(alone):
    alone.train(missing(alone), "a digest by another machine's key")
    assert alone.bank.entries()[0].rows == "a digest by another machine's key"
    without = replace(alone, bank=None)
    without.keep(missing(alone), train_here(without, missing(alone)), together=False)  # nowhere, and no error


def test_a_stage_is_told_under_another_name():
    told = []

    class Heard(Hooks):
        def on_stage(self, name, num_steps):
            told.append((name, num_steps))

        def on_step(self):
            told.append("step")

        def on_epoch(self, trace):
            told.append(trace.stage)

        def on_note(self, text):
            told.append(text)

        def on_stage_end(self, name):
            told.append(name)

    hooks = Retold(Heard(), "oracle 1/2")
    hooks.on_stage("train", 5)
    hooks.on_step()
    hooks.on_epoch(EpochTrace("train", 0, 0.5, 0.1, 5, 1.0))
    hooks.on_note("a note")
    hooks.on_stage_end("train")
    assert told == [("oracle 1/2", 5), "step", "oracle 1/2", "a note", "oracle 1/2"]
