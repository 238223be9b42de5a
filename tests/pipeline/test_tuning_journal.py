import numpy as np
import pytest

from excise import errors, store
from excise.pipeline.tuning_journal import RECORD, Journal, Trial

REQUEST = {"seed": 0, "space": {"lr": 0.1}}
MARGINS = {"forget": np.array([0.1, -1 / 3]), "twins": np.array([1e-300, 2.0])}


def trial(number, **changes):
    told = {"settings": {"lr": 0.1 + number / 3, "order": None}, "state": "ok", "value": 1 / 3, **changes}
    return Trial(number=number, **told)


def filled(directory):
    journal = Journal(directory, REQUEST)
    journal.add(trial(0), MARGINS)
    journal.add(trial(1, state="failed", value=None, reason="diverged"), None)
    return journal


def test_what_was_added_is_found_again_to_the_bit(tmp_path):
    first, again = filled(tmp_path / "a" / "b"), Journal(tmp_path / "a" / "b", REQUEST)
    assert again.trials == first.trials and [one.number for one in again.trials] == [0, 1]
    assert again.margins.keys() == {0}
    for name, values in MARGINS.items():
        assert again.margins[0][name].tobytes() == values.tobytes()
    again.add(trial(2), MARGINS)
    assert len(Journal(tmp_path / "a" / "b", REQUEST).trials) == 3


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(filled(None).trials) == 2
    assert list(tmp_path.iterdir()) == []


def test_whenever_it_is_killed_the_first_trials_are_complete(tmp_path, monkeypatch):
    filled(tmp_path)
    from excise import store

    monkeypatch.setattr(store, "write_sealed", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path, REQUEST).add(trial(2), MARGINS)
    monkeypatch.undo()
    assert (tmp_path / "margins-0002.safetensors").exists()  # written before, and of no account yet
    assert len(Journal(tmp_path, REQUEST).trials) == 2


def test_another_search_does_not_get_the_directory(tmp_path):
    filled(tmp_path)
    with pytest.raises(errors.BadRequest, match=r"holds another search \(seed: 0 there, 1 here\); choose another"):
        Journal(tmp_path, {**REQUEST, "seed": 1})


def test_a_strangers_directory_or_a_file_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(errors.BadRequest, match=r"expected an empty or new directory .* with 'thesis.txt' in it"):
        Journal(tmp_path, REQUEST)
    with pytest.raises(errors.BadRequest, match="found a file at"):
        Journal(tmp_path / "thesis.txt", REQUEST)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda held: {**held, "format": 2},
        lambda held: {**held, "request": 3},
        lambda held: {**held, "trials": [{"number": "one"}]},
        lambda held: {**held, "trials": None},
    ],
)
def test_a_record_that_cannot_be_read_is_told(tmp_path, spoil):
    filled(tmp_path)
    path = tmp_path / RECORD
    store.write_sealed(path, spoil(store.read_sealed(path)))
    with pytest.raises(errors.Corrupt, match="is not a record that this version of excise can read"):
        Journal(tmp_path, REQUEST)


def test_margins_that_were_changed_or_are_gone_are_told(tmp_path):
    filled(tmp_path)
    other = Journal(tmp_path / "other", REQUEST)
    other.add(trial(0), {**MARGINS, "twins": np.zeros(2)})
    name = "margins-0000.safetensors"
    (tmp_path / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(errors.Corrupt, match="is not what its record says; remove the directory"):
        Journal(tmp_path, REQUEST)
    (tmp_path / name).unlink()
    with pytest.raises(errors.Corrupt, match="found no such file; remove the directory"):
        Journal(tmp_path, REQUEST)


SECRET = np.array([2, 0, 3, 1])
ROWS = {"forget": np.array([0.5, 1.5, 2.5, 3.5]), "twins": np.array([0.0, 0.1, 1.0, 1.1, 2.0, 2.1, 3.0, 3.1])}


def test_margins_lie_in_the_order_that_was_given_each_rows_twins_together(tmp_path):
    Journal(tmp_path, REQUEST, SECRET).add(trial(0), ROWS)
    held = store.read_tensors(tmp_path / "margins-0000.safetensors")[0]
    assert held["forget"].tolist() == [2.5, 0.5, 3.5, 1.5]
    assert held["twins"].tolist() == [2.0, 2.1, 0.0, 0.1, 3.0, 3.1, 1.0, 1.1]
    again = Journal(tmp_path, REQUEST, SECRET).margins[0]
    assert {name: values.tolist() for name, values in again.items()} == {k: v.tolist() for k, v in ROWS.items()}


@pytest.mark.parametrize("order", [None, np.array([1, 0, 3, 2]), np.arange(3)])
def test_another_order_does_not_read_them(tmp_path, order):
    Journal(tmp_path, REQUEST, SECRET).add(trial(0), ROWS)
    with pytest.raises(errors.Corrupt, match="is not what its record says; remove the directory and search again"):
        Journal(tmp_path, REQUEST, order)
