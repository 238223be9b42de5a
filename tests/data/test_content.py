import torch
from torch.utils.data import Dataset, TensorDataset

from excise.data import Rows, Split
from excise.data.content import content_commitment

INPUTS = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 3


def of(inputs=INPUTS, labels=LABELS, ids=None):
    every = Rows.all_of((inputs, labels))
    return content_commitment(every if ids is None else Rows(every.source, torch.tensor(ids)))


def test_the_same_data_are_the_same_and_any_change_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "one"))
    first = of()
    assert first == of(INPUTS.clone(), LABELS.clone())
    changed = INPUTS.clone()
    changed[39, 2] += 1e-6
    relabelled = LABELS.clone()
    relabelled[0] += 1
    others = [of(changed), of(labels=relabelled), of(INPUTS[:39], LABELS[:39]), of(INPUTS.flip(0)), of(INPUTS.double())]
    assert len({first, *others}) == 6
    assert of(ids=[1, 2]) != of(INPUTS[1:3], LABELS[1:3])  # the ids count too


def test_without_the_key_it_is_another_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "one"))
    first = of()
    assert first != Rows.all_of((INPUTS, LABELS)).fingerprint()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "two"))
    assert of() != first


class _Drawn(Dataset):
    """Rows with noise; from torch's own numbers, or from a generator that nobody can seed."""

    def __init__(self, generator=None):
        self.generator = generator

    def __len__(self):
        return 20

    def __getitem__(self, index):
        return INPUTS[index] + torch.rand(3, generator=self.generator), 1


def test_rows_that_are_never_the_same_have_none_and_numbers_that_are_lent_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert content_commitment(Rows.all_of(_Drawn(torch.Generator().manual_seed(1)))) is None
    before = torch.get_rng_state()
    assert content_commitment(Rows.all_of(_Drawn())) == content_commitment(Rows.all_of(_Drawn())) is not None
    assert torch.equal(before, torch.get_rng_state())


def test_a_split_s_training_rows_are_all_of_its_data(tmp_path, monkeypatch):
    """So that a network's data set and a request's are compared."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = TensorDataset(INPUTS, LABELS)
    split = Split(data, forget=[3, 5], test=TensorDataset(INPUTS[:4] + 1, LABELS[:4]))
    assert content_commitment(split.train) == content_commitment(Rows.all_of(split.retain.source)) == of()
