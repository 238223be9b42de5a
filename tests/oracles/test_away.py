"""What goes to a worker and what comes back, on a fleet of copies in this process: see tests/cluster for real workers."""

import shutil

import pytest
import torch
from torch.utils.data import Dataset

from excise import errors, store
from excise.data.rows import Rows
from excise.oracles import Bank, originals, retrain, train_halves
from excise.oracles.away import Notes
from excise.train import TrainPlan
from excise.train.checkpoints import Checkpoints
from tests.cases import CASES
from tests.cluster.fleets import Elsewhere
from tests.cluster.jobs import PLAN, ROWS, engine_for, mlp, rows
from tests.oracles.test_retrain import Breaks, Broken
from tests.probes import same_bytes


@pytest.fixture(autouse=True)
def _own_key(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Heard(Notes):
    def __init__(self):
        super().__init__()
        self.told = []

    def on_stage(self, name, num_steps):
        self.told.append((name, num_steps))

    def on_step(self):
        self.told.append("step")

    def on_stage_end(self, name):
        self.told.append(name)


def same(found, wanted):
    return all(same_bytes(one.state, other.state) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kept", [False, True])
def test_networks_are_the_same_to_the_bit_and_in_order(tmp_path, kept):
    own, away = engine_for(), engine_for()
    wanted = retrain(mlp, rows(), PLAN, [5, 6, 7, 8], own)
    found = retrain(mlp, rows(), PLAN, [5, 6, 7, 8], away, bank=Bank(tmp_path) if kept else None, fleet=Elsewhere())
    assert [one.seed for one in found] == [5, 6, 7, 8] and same(found, wanted)
    assert (away.cost.trained_rows, away.cost.forward_rows) == (own.cost.trained_rows, own.cost.forward_rows)


def test_only_what_is_missing_goes_away_and_progress_counts_networks(tmp_path):
    bank, heard, fleet = Bank(tmp_path), Heard(), Elsewhere()
    retrain(mlp, rows(), PLAN, [2], engine_for(), bank=bank)
    retrain(mlp, rows(), PLAN, [1, 2, 3], engine_for(hooks=heard), bank=bank, fleet=fleet)
    assert [item.seed for _, item in fleet.jobs] == [3, 1]
    stage = "oracle, on workers"
    assert heard.told == [(stage, 3), "step", "step", stage]
    retrain(mlp, rows(), PLAN, [1, 2, 3], engine_for(hooks=heard), bank=bank, fleet=fleet)
    assert len(fleet.jobs) == 2 and len(heard.told) == 4
    assert {entry.rows for entry in bank.entries()} == {store.commitment(rows().ids)}


def test_what_another_kept_meanwhile_is_not_trained_again(tmp_path):
    class Late(Elsewhere):
        def run(self, job, shared, items):
            items = list(items)
            retrain(mlp, rows(), PLAN, [7], engine_for(), bank=Bank(tmp_path))
            return super().run(job, shared, items)

    engine = engine_for()
    found = retrain(mlp, rows(), PLAN, [7], engine, bank=Bank(tmp_path), fleet=Late())
    assert engine.cost.trained_rows == 0 and found[0].trained_rows == PLAN.epochs * ROWS


@pytest.mark.parametrize("kept", [False, True])
def test_a_worker_that_would_train_another_network_refuses(tmp_path, monkeypatch, kept):
    class Other(Elsewhere):
        def run(self, job, shared, items):
            items = list(items)
            monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
            return super().run(job, shared, items)

    bank = Bank(tmp_path / "bank") if kept else None
    with pytest.raises(errors.ClusterError, match=r"differs in: threads 64 here, 1 there; have machines of one kind"):
        retrain(mlp, rows(), PLAN, [7], engine_for(), bank=bank, fleet=Other())
    assert not (tmp_path / "bank").exists()


def test_a_worker_that_reads_other_data_refuses(tmp_path):
    class Files(Dataset):
        """Rows that are read where they are asked for."""

        shift = 0.0

        def __len__(self):
            return ROWS

        def __getitem__(self, row):
            inputs, labels = CASES["mlp"].data(ROWS)
            return inputs[row] + Files.shift, int(labels[row])

    class Other(Elsewhere):
        def run(self, job, shared, items):
            items = list(items)
            Files.shift = 1.0
            return super().run(job, shared, items)

    with pytest.raises(errors.ClusterError, match=r"differs in: .*rows"):
        retrain(mlp, Rows.all_of(Files()), PLAN, [7], engine_for(), bank=Bank(tmp_path), fleet=Other())
    assert Bank(tmp_path).entries() == []


def test_a_bank_that_is_not_shared_is_told(tmp_path):
    class Apart(Elsewhere):
        def run(self, job, shared, items):
            for result in super().run(job, shared, items):
                shutil.rmtree(tmp_path / "bank")
                yield result

    with pytest.raises(
        errors.DiskError, match="found none there on this machine; have the bank in a directory that all"
    ):
        retrain(mlp, rows(), PLAN, [7], engine_for(), bank=Bank(tmp_path / "bank"), fleet=Apart())


def test_a_bank_at_a_url_needs_no_directory_in_common(tmp_path):
    bank = Bank(f"memory://{tmp_path.name}", data="of these data")
    found = retrain(mlp, rows(), PLAN, [1, 2], engine_for(), bank=bank, fleet=Elsewhere())
    assert same(found, retrain(mlp, rows(), PLAN, [1, 2], engine_for()))
    shutil.rmtree(bank.directory)
    heard = Heard()
    assert same(retrain(mlp, rows(), PLAN, [1, 2], engine_for(hooks=heard), bank=bank), found) and heard.told == []
    assert {entry.data for entry in bank.entries()} == {"of these data"}


def test_a_relative_bank_and_its_checkpoints_are_found_from_anywhere(tmp_path, monkeypatch):
    class Moving(Elsewhere):
        def run(self, job, shared, items):
            items = list(items)
            monkeypatch.chdir("/")
            for result in super().run(job, shared, items):
                monkeypatch.chdir(tmp_path)
                yield result

    monkeypatch.chdir(tmp_path)
    engine = engine_for(checkpoints=Checkpoints(None, 0.0))
    retrain(mlp, rows(), PLAN, [1], engine, bank=Bank("bank"), fleet=Moving())
    assert [path.suffix for path in (tmp_path / "bank").iterdir()] == [".safetensors"]


def test_halves_and_originals_go_away_too(tmp_path):
    fleet = Elsewhere()
    away = train_halves(mlp, rows(), PLAN, 4, engine_for(), bank=Bank(tmp_path), fleet=fleet)
    here = train_halves(mlp, rows(), PLAN, 4, engine_for())
    assert (away.keep == here.keep).all() and same(away.trained, here.trained)
    assert same(
        originals(mlp, rows(), PLAN, 2, engine_for(), fleet=fleet), originals(mlp, rows(), PLAN, 2, engine_for())
    )
    assert len(fleet.jobs) == 6


def test_ones_own_training_goes_away_and_comes_back():
    def train(model, dataset, seed):
        with torch.no_grad():
            model[0].weight += seed + len(dataset)
        return model

    found = retrain(mlp, rows(), train, [1, 2], engine_for(), fleet=Elsewhere())
    assert same(found, retrain(mlp, rows(), train, [1, 2], engine_for())) and found[0].trained_rows is None


def test_left_free_each_goes_by_itself_and_together_stays_here():
    heard, fleet = Heard(), Elsewhere()
    free = retrain(mlp, rows(), PLAN, range(5), engine_for(hooks=heard), together=None, fleet=fleet)
    assert heard.notes == ["oracle: trained one at a time, since each goes to a worker by itself"]
    assert len(fleet.jobs) == 5 and same(free, retrain(mlp, rows(), PLAN, range(5), engine_for()))
    retrain(mlp, rows(), PLAN, range(5), engine_for(), together=True, fleet=fleet)
    assert len(fleet.jobs) == 5


def test_notes_and_errors_of_workers_come_home(tmp_path):
    heard, bank, lent = Heard(), Bank(tmp_path), Checkpoints(None, 0.0)
    with pytest.raises(Broken):
        retrain(mlp, rows(), PLAN, [7], engine_for(hooks=Breaks(6), checkpoints=lent), bank=bank)
    engine = engine_for(hooks=heard, checkpoints=lent)
    found = retrain(mlp, rows(), PLAN, [7], engine, bank=bank, fleet=Elsewhere())
    (note,) = heard.notes
    assert "goes on" in note and same(found, retrain(mlp, rows(), PLAN, [7], engine_for()))
    with pytest.raises(errors.Diverged):
        retrain(mlp, rows(), TrainPlan(epochs=50, lr=1e200), [7], engine_for(), fleet=Elsewhere())
