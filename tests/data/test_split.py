import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset, random_split

from excise import errors
from excise.data import Split, of_class, random_fraction
from excise.data.rows import Rows, Source

N = 12
INPUTS = torch.arange(2.0 * N).reshape(N, 2)
LABELS = torch.arange(N) % 3
DATA = (INPUTS, LABELS)
ELSEWHERE = (torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))


class Map(Dataset):
    def __init__(self, num_rows=N):
        self.num_rows = num_rows

    def __len__(self):
        return self.num_rows

    def __repr__(self):  # in a test's id, which must be the same in every process
        return f"Map({self.num_rows})"

    def __getitem__(self, index):
        return INPUTS[index], int(LABELS[index])


def ids(rows):
    return None if rows is None else rows.ids.tolist()


@given(st.data())
def test_retain_is_the_rest(data):
    num_rows = data.draw(st.integers(2, 20))
    forget = data.draw(st.lists(st.integers(0, num_rows - 1), unique=True, min_size=1, max_size=num_rows - 1))
    left = sorted(set(range(num_rows)) - set(forget))
    test = data.draw(st.lists(st.sampled_from(left), unique=True, max_size=len(left) - 1))
    left = sorted(set(left) - set(test))
    holdout = data.draw(st.lists(st.sampled_from(left), unique=True, max_size=len(left) - 1))
    kind = data.draw(st.sampled_from([list, tuple, np.array, torch.tensor, lambda v: [np.int64(x) for x in v], set]))
    split = Split(
        (torch.arange(num_rows)[:, None], torch.zeros(num_rows, dtype=torch.int64)),
        forget=kind(forget),
        test=kind(test) if test else None,
        holdout=kind(holdout) if holdout else None,
    )
    assert ids(split.forget) == sorted(forget)
    assert ids(split.retain) == sorted(set(left) - set(holdout))
    assert ids(split.train) == sorted({*ids(split.forget), *ids(split.retain)})
    assert ids(split.test) == (sorted(test) or None) and ids(split.holdout) == (sorted(holdout) or None)
    for rows in (split.forget, split.retain, split.train):
        inputs, _ = rows.source.read(rows.ids)
        assert inputs[:, 0].tolist() == ids(rows)


@given(st.lists(st.booleans(), min_size=2, max_size=20).filter(lambda flags: len(set(flags)) == 2))
def test_a_mask_says_the_same_as_its_ids(flags):
    data = (torch.zeros(len(flags), 1), torch.zeros(len(flags), dtype=torch.int64))
    wanted = [i for i, flag in enumerate(flags) if flag]
    for way in (flags, np.array(flags), torch.tensor(flags), wanted):
        assert ids(Split(data, forget=way).forget) == wanted


def test_a_mask_may_name_the_test_rows():
    flags = [i in (3, 4) for i in range(N)]
    split = Split(DATA, forget=[0], test=flags)
    assert ids(split.test) == [3, 4] and ids(split.train) == [0, 1, 2, *range(5, N)]


def test_a_rule_sees_the_rows_trained_on_and_not_those_held_out():
    split = Split(DATA, forget=of_class(1), test=[1, 4])
    assert ids(split.forget) == [7, 10]
    assert len(Split(DATA, forget=random_fraction(0.5), test=[0, 1]).forget) == 5


def test_test_rows_may_be_another_data_set():
    split = Split(DATA, forget=[1], test=ELSEWHERE, holdout=Map(3))
    assert ids(split.train) == list(range(N))
    assert split.test.labels().tolist() == [0] * 4
    assert split.holdout.labels().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        ([-1, 3], "found 1 ids that are negative"),
        ([3, 3], "found 1 ids that were given before"),
        ([0, N], f"found 1 ids that are out of range .* rows 0 to {N - 1}"),
        ([0.5], "found values of type float64"),
        (["a"], "found values of type <U1"),
        ("0 1", "found str"),
        (None, "found NoneType"),
        (3, "found int"),
        ([True] * (N - 1), f"one value for each of the {N} rows, found {N - 1}"),
        ([True] * (N + 1), f"one value for each of the {N} rows, found {N + 1}"),
        ([], "expected at least one row, found none"),
        (torch.zeros(0), "expected at least one row, found none"),
        ([False] * N, "expected at least one row, found none"),
        (of_class(9), "expected at least one row, found none"),
        (random_fraction(0.0), "expected at least one row, found none"),
        (range(N), f"all {N} training rows; nothing is left to retain"),
        ([True] * N, f"all {N} training rows; nothing is left to retain"),
        (random_fraction(1.0), f"all {N} training rows; nothing is left to retain"),
    ],
    ids=repr,
)
def test_what_cannot_be_forgotten_is_refused(forget, message):
    with pytest.raises(errors.BadSplit, match=rf"^forget: .*{message}") as found:
        Split(DATA, forget=forget)
    assert found.value.exit_code == 2 and isinstance(found.value, ValueError)


@pytest.mark.parametrize("name", ["test", "holdout"])
@pytest.mark.parametrize(
    ("given_rows", "message"),
    [
        ([-1], "found 1 ids that are negative"),
        ([1, 1], "found 1 ids that were given before"),
        ((1, N), "found 1 ids that are out of range"),
        ([np.int64(N)], "found 1 ids that are out of range"),
        ([torch.tensor(N)], "found 1 ids that are out of range"),
        ([0.5, 1.0], "found values of type float64"),
        (["a", "b"], "found values of type <U1"),
        (np.array([0.5]), "found values of type float64"),
        ([True], f"one value for each of the {N} rows, found 1"),
        ([], "expected at least one row, found none"),
        ((), "expected at least one row, found none"),
        (torch.zeros(0, dtype=torch.int64), "expected at least one row, found none"),
        ((torch.zeros(0, 2), torch.zeros(0)), "expected at least one row, found none"),
        (Map(0), "expected at least one row, found none"),
    ],
    ids=repr,
)
def test_rows_never_seen_are_checked_like_those_to_forget(name, given_rows, message):
    with pytest.raises(errors.BadSplit, match=rf"^{name}: .*{message}"):
        Split(DATA, forget=[0], **{name: given_rows})


@pytest.mark.parametrize("name", ["test", "holdout"])
@pytest.mark.parametrize("way", [list, tuple, np.array, torch.tensor, set])
def test_forgetting_rows_that_were_held_out_is_refused(name, way):
    with pytest.raises(
        errors.BadSplit, match="forget: 2 of its rows are test or holdout rows, which were not trained on"
    ):
        Split(DATA, forget=[1, 2, 3], **{name: way([2, 3, 5])})


def test_with_everything_else_held_out_nothing_is_left_to_retain():
    with pytest.raises(errors.BadSplit, match="forget: all 2 training rows; nothing is left to retain"):
        Split(DATA, forget=[0, 1], test=list(range(2, N)))


PAIR, ARRAYS, TENSORS, MAP = DATA, (INPUTS.numpy(), LABELS.numpy()), TensorDataset(*DATA), Map()
CUT = Subset(MAP, range(2, N))
BIG_INPUTS, BIG_LABELS = torch.zeros(2 * N, 3), torch.zeros(2 * N, dtype=torch.int64)


@pytest.mark.parametrize(
    ("train", "other", "count"),
    [
        (PAIR, PAIR, N),
        (MAP, MAP, N),
        (PAIR, [INPUTS, LABELS], N),
        (PAIR, (INPUTS[5:], LABELS[5:]), N - 5),
        (PAIR, (INPUTS[::3], LABELS[::3]), 4),
        (PAIR, (INPUTS[:, None, :], LABELS), N),
        (PAIR, (INPUTS.detach(), LABELS.clone()), N),
        (PAIR, TENSORS, N),
        (TENSORS, PAIR, N),
        (TENSORS, TensorDataset(INPUTS[:3], LABELS[:3]), 3),
        (TENSORS, Subset(TENSORS, [1, 5]), 2),
        (PAIR, Subset(TENSORS, [1, 5]), 2),
        (Subset(TENSORS, [1, 5, 7]), PAIR, 3),
        (Subset(TENSORS, [1, 5, 7]), Subset(TENSORS, [7, 8]), 1),
        (ARRAYS, ARRAYS, N),
        (ARRAYS, (ARRAYS[0][5:], ARRAYS[1][5:]), N - 5),
        (ARRAYS, (INPUTS[3:], LABELS[3:]), N - 3),
        (PAIR, (ARRAYS[0][::2], ARRAYS[1][::2]), N // 2),
        (MAP, Subset(MAP, [0, 3]), 2),
        (Subset(MAP, [0, 3, 4]), MAP, 3),
        (Subset(MAP, [0, 3, 4]), Subset(MAP, [9, 4]), 1),
        (CUT, Subset(CUT, [0, 1]), 2),
        (CUT, Subset(Subset(MAP, range(4)), [3, 0]), 1),
        ((BIG_INPUTS[:N], BIG_LABELS[:N]), (BIG_INPUTS[N - 1 :], BIG_LABELS[N - 1 :]), 1),
    ],
)
@pytest.mark.parametrize("name", ["test", "holdout"])
def test_test_data_that_were_trained_on_are_refused(name, train, other, count):
    with pytest.raises(
        errors.BadSplit, match=rf"^{name}: {count} of its rows are rows of the training data .*{name}=\[...\]"
    ):
        Split(train, forget=[0], **{name: other})


@pytest.mark.parametrize(
    ("train", "other"),
    [
        (PAIR, (INPUTS.clone(), LABELS)),
        (PAIR, (INPUTS.numpy().copy(), LABELS.numpy())),
        ((BIG_INPUTS[:N], BIG_LABELS[:N]), (BIG_INPUTS[N:], BIG_LABELS[N:])),
        ((BIG_INPUTS[::2], BIG_LABELS[::2]), (BIG_INPUTS[1::2], BIG_LABELS[1::2])),
        ((BIG_INPUTS[:N].numpy(), BIG_LABELS[:N].numpy()), (BIG_INPUTS[N:].numpy(), BIG_LABELS[N:].numpy())),
        (MAP, Map()),
        (Subset(MAP, [0, 3]), Subset(MAP, [1, 2])),
        (Subset(TENSORS, [0, 3]), Subset(TENSORS, [1, 2])),
        (Subset(TENSORS, [0, 3]), (INPUTS[4:], LABELS[4:])),
        tuple(random_split(MAP, [8, 4], generator=torch.Generator().manual_seed(0))),
        tuple(random_split(TENSORS, [8, 4], generator=torch.Generator().manual_seed(0))),
        (MAP, PAIR),
        (ConcatDataset([Subset(MAP, [0, 1]), Subset(MAP, [2, 3])]), Map()),
    ],
)
def test_test_data_that_were_not_trained_on_are_accepted(train, other):
    split = Split(train, forget=[0], test=other)
    assert len(split.test) == len(Rows.all_of(other))


@pytest.mark.parametrize(
    ("test", "holdout"),
    [
        ([1, 2], [2, 3]),
        (ELSEWHERE, ELSEWHERE),
        (ELSEWHERE, (ELSEWHERE[0][3:], ELSEWHERE[1][3:])),
        (Subset(CUT, [1, 2]), Subset(CUT, [2, 5])),
        (TensorDataset(*ELSEWHERE), Subset(TensorDataset(*ELSEWHERE), [2])),
    ],
)
def test_settings_are_not_chosen_on_test_rows(test, holdout):
    with pytest.raises(errors.BadSplit, match="holdout: shares rows with test; settings chosen on test rows"):
        Split(DATA, forget=[0], test=test, holdout=holdout)


@pytest.mark.parametrize(
    ("test", "holdout"),
    [([1, 2], [3]), ([1], ELSEWHERE), (Subset(CUT, [1, 2]), Subset(CUT, [0, 5])), (ELSEWHERE, Map())],
)
def test_test_and_holdout_may_lie_side_by_side(test, holdout):
    split = Split(DATA, forget=[0], test=test, holdout=holdout)
    assert split.test and split.holdout


@pytest.mark.parametrize("empty", [(torch.zeros(0, 2), torch.zeros(0)), [], Map(0)])
def test_no_training_rows_are_refused(empty):
    with pytest.raises(errors.BadSplit, match="expected training rows, found an empty data set"):
        Split(empty, forget=[0])


def test_data_that_are_no_data_set_are_refused():
    with pytest.raises(errors.BadData, match="expected a pair of arrays or tensors"):
        Split("train.csv", forget=[0])
    with pytest.raises(errors.BadData, match="expected a pair of arrays or tensors"):
        Split(DATA, forget=[0], test="test.csv")
    with pytest.raises(errors.BadData, match="inputs and labels of one length"):
        Split((INPUTS, LABELS[:-1]), forget=[0])


def test_no_row_is_read_to_make_a_split():
    class Unreadable(Map):
        def __getitem__(self, index):
            raise AssertionError("read a row")

    data = Unreadable()
    split = Split(Subset(data, range(8)), forget=[1, 2], test=Subset(data, [9, 8]))
    assert ids(split.retain) == [0, 3, 4, 5, 6, 7]


def test_a_split_says_how_many_and_not_which():
    assert repr(Split(DATA, forget=[7, 8])) == "Split(forget 2, retain 10)"
    assert repr(Split(DATA, forget=[7, 8], test=[1])) == "Split(forget 2, retain 9, test 1)"


def test_a_split_does_not_change():
    mine = torch.tensor([3, 1])
    split = Split(DATA, forget=mine)
    mine[0] = 5
    assert ids(split.forget) == [1, 3]
    for name in ("train", "forget", "retain", "test", "holdout", "other"):
        with pytest.raises(AttributeError):
            setattr(split, name, split.retain)
    assert ids(split.forget) == [1, 3]


class Custom(Source):
    """A source of the user's own."""

    def __len__(self):
        return N

    def read(self, ids):
        return INPUTS[ids], LABELS[ids]

    def labels(self, ids):
        return LABELS[ids]


def test_a_source_of_the_users_own_is_told_apart_by_identity():
    one, other = Custom(), Custom()
    assert len(Split(one, forget=of_class(1), test=other).forget) == 4
    with pytest.raises(errors.BadSplit, match=r"test: 12 of its rows are rows of the training data"):
        Split(one, forget=[0], test=one)
    with pytest.raises(errors.BadSplit, match="holdout: shares rows with test"):
        Split(DATA, forget=[0], test=one, holdout=one)


# --- narrowed ---------------------------------------------------------------------------------------------------------


@given(st.data())
def test_narrowed_parts_the_training_rows_into_forget_now_gone_and_retained(data):
    num_rows = data.draw(st.integers(3, 16))
    fates = data.draw(
        st.lists(
            st.sampled_from(["retain", "now", "later", "gone", "test"]), min_size=num_rows, max_size=num_rows
        ).filter(lambda fates: {"retain", "now"} <= set(fates))
    )
    of = {
        fate: [row for row, own in enumerate(fates) if own == fate]
        for fate in ("retain", "now", "later", "gone", "test")
    }
    split = Split(
        (torch.zeros(num_rows, 1), torch.zeros(num_rows, dtype=torch.int64)),
        forget=[*of["now"], *of["later"], *of["gone"]],
        test=of["test"] or None,
    )
    before = {name: ids(getattr(split, name)) for name in ("train", "forget", "retain", "test")}
    given_ids = torch.tensor(data.draw(st.permutations(of["now"])))
    narrowed = split.narrowed(given_ids, gone=torch.tensor(of["gone"], dtype=torch.int64))
    assert ids(narrowed.forget) == of["now"]
    assert ids(narrowed.retain) == sorted([*of["retain"], *of["later"]])
    assert ids(narrowed.train) == sorted([*of["now"], *of["retain"], *of["later"]])
    assert narrowed.test is split.test and narrowed.holdout is split.holdout
    assert narrowed.train.source is narrowed.forget.source is narrowed.retain.source is split.train.source
    assert {name: ids(getattr(split, name)) for name in before} == before


def test_narrowed_to_all_forget_rows_is_the_split_itself():
    split = Split(DATA, forget=[7, 2, 5], test=[1], holdout=ELSEWHERE)
    same = split.narrowed(split.forget.ids, gone=torch.zeros(0, dtype=torch.int64))
    for name in ("train", "forget", "retain", "test", "holdout"):
        assert ids(getattr(same, name)) == ids(getattr(split, name))
    assert repr(same) == repr(split)


def test_a_narrowed_split_does_not_change_and_reads_no_row():
    class Unreadable(Map):
        def __getitem__(self, index):
            raise AssertionError("read a row")

    narrowed = Split(Unreadable(), forget=[1, 2, 3]).narrowed(torch.tensor([2]), gone=torch.tensor([1]))
    assert (ids(narrowed.forget), ids(narrowed.retain)) == ([2], [0, *range(3, N)])
    with pytest.raises(AttributeError, match="a Split does not change, but 'forget' was set"):
        narrowed.forget = narrowed.retain


def test_a_smaller_split_keeps_the_proportion_and_is_a_part_of_a_larger_one():
    split = Split(
        (torch.zeros(1000, 2), torch.zeros(1000, dtype=torch.int64)), forget=range(100), test=range(900, 1000)
    )
    few, more = split.smaller(90, 3), split.smaller(450, 3)
    assert (len(few.forget), len(few.retain), len(few.train)) == (10, 80, 90)
    for name in ("forget", "retain", "train"):
        assert set(ids(getattr(few, name))) < set(ids(getattr(more, name))) < set(ids(getattr(split, name)))
    assert sorted(ids(few.forget) + ids(few.retain)) == ids(few.train)
    assert few.test is split.test
    assert ids(split.smaller(90, 4).retain) != ids(few.retain)
    assert ids(split.smaller(900, 3).train) == ids(split.train)


@pytest.mark.parametrize(("num_forget", "found"), [(1, (1, 2)), (10, (1, 2))])
def test_the_smallest_split_has_a_row_to_forget_and_two_to_retain(num_forget, found):
    small = Split(DATA, forget=range(num_forget)).smaller(3, 0)
    assert (len(small.forget), len(small.retain)) == found


@pytest.mark.parametrize("num_rows", [2, N + 1])
def test_a_smaller_split_of_other_sizes_is_refused(num_rows):
    with pytest.raises(errors.BadRequest, match=f"num_rows: expected 3 to {N}, found {num_rows}"):
        Split(DATA, forget=[1]).smaller(num_rows, 0)
