import numpy as np
import pytest
import torch

from excise import errors
from excise.data import Split, of_class
from excise.masks import Mask
from excise.measure import margins, twin_distance, twins
from excise.pipeline.tuning_yardstick import (
    NUM_RETAIN,
    RETAIN_WEIGHT,
    held_out_rows,
    make_yardstick,
    value_of,
)
from excise.train import Engine, Task
from tests.pipeline.tuning_problem import WRONG, blobs, make, train_rows, trained, wrong_labels
from tests.probes import Watched


def engine(seed=0, task=None):
    return Engine(task or Task(), seed, Mask.empty(make()))


def logits(model, rows):
    with torch.no_grad():
        return model(rows[0]).double().numpy()


def test_a_holdout_is_used_whole_and_test_rows_are_left():
    split = wrong_labels()
    found = held_out_rows(split, 0)
    assert found.source == "holdout" and found.rows is split.holdout and found.audit_split is split


def test_without_one_half_of_test_is_set_aside_and_the_rest_is_for_the_audit():
    split = wrong_labels(holdout=None, test=blobs(2, 61))
    found = held_out_rows(split, 0)
    own, left = set(found.rows.ids.tolist()), set(found.audit_split.test.ids.tolist())
    assert found.source == "half of test"
    assert len(own) == 30 and not own & left and own | left == set(range(61))
    assert found.audit_split.holdout is found.rows
    for part in ("train", "forget", "retain"):
        assert getattr(found.audit_split, part) is getattr(split, part)
    assert found.rows.ids.tolist() == sorted(own)
    assert held_out_rows(split, 0).rows.ids.tolist() == sorted(own) != held_out_rows(split, 1).rows.ids.tolist()
    assert split.test is not None and len(split.test) == 61  # the user's own split is as it was


@pytest.mark.parametrize("test", [None, blobs(2, 1)])
def test_without_rows_to_spare_there_is_nothing_to_choose_on(test):
    with pytest.raises(errors.BadSplit, match=r"settings are chosen on rows the network never saw.*pass holdout="):
        held_out_rows(wrong_labels(holdout=None, test=test), 0)


def test_the_numbers_are_those_taken_by_hand():
    split, model = wrong_labels(), trained()
    made = make_yardstick(model, split, split.holdout, engine(), None)
    train, held_out = train_rows(), blobs(1, 90)
    places = twins(train[0][WRONG].numpy(), held_out[0].numpy())
    assert made.places.tolist() == places.tolist()
    other = make()
    for look, network in ((made.original, model), (made.look(other, engine()), other)):
        forget = margins(logits(network, train)[WRONG], train[1][WRONG].numpy())
        np.testing.assert_allclose(look.forget, forget)
        # the twin under the forget row's label, not its own
        mine = margins(logits(network, held_out)[places], train[1][WRONG].numpy())
        np.testing.assert_allclose(look.twins, mine)
        kept = np.setdiff1d(np.arange(160), WRONG)
        retain = margins(logits(network, train)[kept], train[1].numpy()[kept])
        np.testing.assert_allclose(look.retain, retain)
        assert look.accuracy == np.mean(logits(network, held_out).argmax(1) == held_out[1].numpy())
        known = margins(logits(model, train)[kept], train[1].numpy()[kept])
        assert made.distances(look) == pytest.approx((twin_distance(forget, mine), twin_distance(retain, known)))
    assert value_of((0.5, 0.2)) == 0.5 + RETAIN_WEIGHT * 0.2
    assert made.distances(made.original)[1] == 0
    assert made.removed_labels == () and made.counts.all()


def test_a_label_that_goes_whole_has_twins_of_other_labels_and_counts_for_nothing():
    train = blobs(0, 150)
    split = Split(train, forget=of_class(2), holdout=blobs(1, 60), test=blobs(2, 30))
    made = make_yardstick(trained(), split, split.holdout, engine(), None)
    labels = blobs(1, 60)[1].numpy()
    assert made.removed_labels == (2,)
    assert made.counts.tolist() == (labels != 2).tolist()
    others = np.flatnonzero(labels != 2)
    expected = others[twins(train[0][train[1] == 2].numpy(), blobs(1, 60)[0].numpy()[others])]
    assert made.places.tolist() == expected.tolist()
    unseen = Split(train, forget=of_class(2), holdout=(blobs(1, 60)[0][labels == 2], torch.full((20,), 2)))
    with pytest.raises(errors.BadSplit, match="none of its rows has a label of the retain rows"):
        make_yardstick(trained(), unseen, unseen.holdout, engine(), None)


def test_a_single_row_gets_the_sixteen_nearest():
    split = wrong_labels(forget=[8])
    made = make_yardstick(trained(), split, split.holdout, engine(), None)
    every = np.concatenate([train_rows()[0][[8]].numpy(), blobs(1, 90)[0].numpy()])
    # a row that stands for 16 weighs as 16 in the spread of a column
    spread = np.concatenate([np.repeat(every[:1], 16, axis=0), every[1:]]).std(0)
    away = (((every[1:] - every[:1]) / spread) ** 2).sum(1)
    assert sorted(made.places.tolist()) == sorted(np.argsort(away)[:16].tolist())
    assert made.original.forget.shape == (1,) and made.original.twins.shape == (16,)
    expected = np.abs(made.original.forget - made.original.twins).mean() / made.original.twins.std(ddof=1)
    assert made.distances(made.original)[0] == pytest.approx(expected)


def test_only_some_of_many_retain_rows_are_looked_at_again():
    train = blobs(0, NUM_RETAIN + 200)
    split = Split(train, forget=[0, 3, 7], holdout=blobs(1, 30))
    watch = Watched(*train)
    watched = Split(watch, forget=[0, 3, 7], holdout=blobs(1, 30))
    made = make_yardstick(trained(), watched, watched.holdout, engine(), None)
    watch.read.clear()
    made.look(trained(), engine())
    assert len(watch.read) == NUM_RETAIN + 3 and set(made.retain.ids.tolist()) <= set(watch.read)
    assert not set(made.retain.ids.tolist()) & {0, 3, 7}
    same = make_yardstick(trained(), split, split.holdout, engine(), None)
    assert same.retain.ids.tolist() == made.retain.ids.tolist()
    other = make_yardstick(trained(), split, split.holdout, engine(seed=1), None)
    assert other.retain.ids.tolist() != made.retain.ids.tolist()


def test_rows_are_compared_by_what_the_caller_gives():
    split = wrong_labels()
    made = make_yardstick(trained(), split, split.holdout, engine(), lambda batch: batch[0][:, :1])
    first = [blobs(0, 160)[0][WRONG, :1].numpy(), blobs(1, 90)[0][:, :1].numpy()]
    assert made.places.tolist() == twins(*first).tolist()


class Worded(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows[0])

    def __getitem__(self, row):
        return {"x": self.rows[0][row], "y": int(self.rows[1][row])}


def test_examples_of_another_shape_need_features():
    task = Task(lambda model, batch: (model(batch["x"]), batch["y"]))
    split = Split(Worded(train_rows()), forget=WRONG, holdout=Worded(blobs(1, 90)))
    with pytest.raises(
        errors.BadData, match=r"features: expected examples \(input, label\).*found dict; pass features="
    ):
        make_yardstick(trained(), split, split.holdout, engine(task=task), None)
    made = make_yardstick(trained(), split, split.holdout, engine(task=task), lambda batch: batch["x"])
    plain = make_yardstick(trained(), wrong_labels(), wrong_labels().holdout, engine(), None)
    assert made.places.tolist() == plain.places.tolist()
    np.testing.assert_array_equal(made.original.twins, plain.original.twins)


def test_what_is_not_of_classes_is_refused():
    task = Task(lambda model, batch: (model(batch[0]), batch[1].double()), lambda found, wanted: wanted)
    split = wrong_labels()
    with pytest.raises(errors.BadData, match=r"forget: tune needs logits \[examples, classes\] and one label a row"):
        make_yardstick(trained(), split, split.holdout, engine(task=task), None)
