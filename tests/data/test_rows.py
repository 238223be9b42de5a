import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from excise import errors, params
from excise.data.rows import ArraySource, DatasetSource, JoinedSource, Rows, as_source

NUM_ROWS = 23
INPUTS = torch.randn(NUM_ROWS, 2, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_ROWS) * 7 % 5


class Map(Dataset):
    """Rows one at a time, labels as Python numbers, and a count of what was read."""

    def __init__(self, inputs=INPUTS, labels=LABELS):
        self._inputs, self._labels, self.read = inputs, labels, []

    def __len__(self):
        return len(self._inputs)

    def __getitem__(self, index):
        self.read.append(index)
        return self._inputs[index], int(self._labels[index])


class Listed(Map):
    """The same, with a list of labels beside it."""

    def __init__(self, labels, name="targets", **options):
        super().__init__(**options)
        setattr(self, name, labels)


def ways():
    """The same rows in every shape that a user may bring."""
    wider = torch.cat([INPUTS.flip(0), INPUTS]), torch.cat([LABELS.flip(0), LABELS])
    return {
        "tensors": (INPUTS, LABELS),
        "list": [INPUTS, LABELS],
        "arrays": (INPUTS.numpy(), LABELS.numpy()),
        "mixed": (INPUTS.numpy(), LABELS),
        "tensor dataset": TensorDataset(INPUTS, LABELS),
        "map-style": Map(),
        "list of examples": [(INPUTS[i], int(LABELS[i])) for i in range(NUM_ROWS)],
        "with targets": Listed(LABELS.tolist()),
        "subset": Subset(TensorDataset(*wider), range(NUM_ROWS, 2 * NUM_ROWS)),
        "subset of subset": Subset(Subset(Map(*wider), range(5, 2 * NUM_ROWS)), range(NUM_ROWS - 5, 2 * NUM_ROWS - 5)),
    }


each_way = pytest.mark.parametrize("way", ways())


@given(st.lists(st.integers(0, NUM_ROWS - 1), min_size=1, max_size=9), st.sampled_from(sorted(ways())))
def test_every_shape_of_data_gives_the_same_batch(ids, way):
    inputs, labels = as_source(ways()[way]).read(torch.tensor(ids))
    assert torch.equal(inputs, INPUTS[ids]) and inputs.dtype == INPUTS.dtype
    assert torch.equal(labels, LABELS[ids]) and labels.dtype == torch.int64


@each_way
def test_every_shape_of_data_has_the_same_rows_labels_and_fingerprint(way):
    rows = Rows.all_of(ways()[way])
    assert len(rows) == len(rows.source) == NUM_ROWS
    assert rows.ids.tolist() == list(range(NUM_ROWS))
    assert torch.equal(rows.labels(), LABELS) and rows.labels().dtype == torch.int64
    some = Rows(rows.source, torch.tensor([2, 3, 11]))
    assert some.labels().tolist() == LABELS[[2, 3, 11]].tolist()
    assert rows.fingerprint() == Rows.all_of((INPUTS, LABELS)).fingerprint()
    assert some.head(2).ids.tolist() == [2, 3] and some.head(2).source is rows.source


@each_way
def test_rows_as_a_dataset_are_those_rows(way):
    rows = Rows(as_source(ways()[way]), torch.tensor([4, 9, 21]))
    dataset = rows.as_dataset()
    assert len(dataset) == 3
    for place, row in enumerate([4, 9, 21]):
        inputs, label = dataset[place]
        assert torch.equal(inputs, INPUTS[row]) and int(label) == int(LABELS[row])
    assert Rows.all_of(dataset).labels().tolist() == rows.labels().tolist()


def test_a_source_is_taken_as_it_is_and_memory_is_not_copied():
    source = as_source((INPUTS, LABELS))
    assert as_source(source) is source
    array = np.zeros((3, 2), dtype=np.float32)
    held = as_source((array, np.zeros(3, dtype=np.int64))).tensors[0]
    array[1, 1] = 7
    assert held[1, 1] == 7


def test_examples_are_read_once_each_and_in_order():
    data = Map()
    as_source(data).read(torch.tensor([4, 2, 9]))
    assert data.read == [4, 2, 9]


def test_examples_of_any_form_are_collated():
    class Words(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"tokens": torch.tensor([index, index + 1]), "who": f"p{index}"}

    content = as_source(Words()).read(torch.tensor([3, 1]))
    assert content["tokens"].tolist() == [[3, 4], [1, 2]] and content["who"] == ["p3", "p1"]
    with pytest.raises(errors.BadData, match=r"examples of the form \(input, label\) to read labels from, found dict"):
        Rows.all_of(Words()).labels()


def test_arrays_of_three_parts_have_their_labels_last():
    rows = Rows.all_of((INPUTS, torch.ones(NUM_ROWS, 2), LABELS))
    assert rows.labels().tolist() == LABELS.tolist()
    assert [part.shape for part in rows.source.read(torch.tensor([1, 2]))] == [(2, 2, 3), (2, 2), (2,)]
    assert len(rows.as_dataset()[0]) == 3


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda x: np.array(x, dtype=np.uint8)])
def test_a_list_of_labels_spares_reading_the_rows(name, kind):
    data = Listed(kind(LABELS.tolist()), name)
    assert Rows.all_of(data).labels().tolist() == LABELS.tolist()
    assert len(data.read) == 3  # to see that the list agrees


@pytest.mark.parametrize(
    "listed",
    [
        LABELS.tolist()[:-1],
        LABELS[:, None],
        LABELS.double(),
        (LABELS + 1).tolist(),
        [9, *LABELS.tolist()[1:]],
        [*LABELS.tolist()[:-1], 9],
        [*LABELS.tolist()[:11], 9, *LABELS.tolist()[12:]],
        [f"class {label}" for label in LABELS.tolist()],
        [[label] * (label + 1) for label in LABELS.tolist()],
        "x" * NUM_ROWS,
        torch.tensor(3),
        None,
        7,
    ],
    ids=repr,
)
def test_a_list_of_something_else_is_not_taken_for_labels(listed):
    data = Listed(listed)
    assert Rows.all_of(data).labels().tolist() == LABELS.tolist()


def test_a_subset_uses_the_list_of_the_whole():
    data = Listed(LABELS.tolist())
    rows = Rows.all_of(Subset(Subset(data, range(10, 20)), [7, 2]))
    assert rows.labels().tolist() == LABELS[[17, 12]].tolist()
    assert set(data.read) == {12, 17}


@pytest.mark.parametrize("ids", [[], [3], [1, 8], [2, 5, 6, 9, 16]])
def test_no_row_is_read_for_a_list_of_labels_but_those_that_are_asked_for(ids):
    """The others may be gone by then."""
    data = Listed(LABELS.tolist())
    assert Rows.all_of(data).source.labels(torch.tensor(ids, dtype=torch.int64)).tolist() == LABELS[ids].tolist()
    assert set(data.read) <= set(ids) and len(data.read) == min(len(ids), 3)


@pytest.mark.parametrize("label", [np.int64(2), torch.tensor(2), np.uint8(2), 2])
def test_an_integer_of_any_kind_is_a_label(label):
    assert Rows.all_of([(torch.zeros(1), label)] * 3).labels().tolist() == [2, 2, 2]


@pytest.mark.parametrize("label", [1.5, torch.tensor([0, 1]), torch.tensor(1.0), "cat", None, True, torch.tensor(True)])
def test_what_is_no_integer_is_no_label(label):
    with pytest.raises(errors.BadData, match="expected one integer label a row, found"):
        Rows.all_of([(torch.zeros(1), label)] * 3).labels()


@pytest.mark.parametrize("labels", [LABELS.double(), LABELS[:, None], LABELS > 2], ids=str)
def test_arrays_without_integer_labels_have_none_to_give_but_can_be_read(labels):
    rows = Rows.all_of((INPUTS, labels))
    with pytest.raises(errors.BadData, match=r"expected one integer label a row, found .* need forward= and loss="):
        rows.labels()
    assert torch.equal(rows.source.read(torch.tensor([3]))[1], labels[3:4])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(1), 0)])


class LongStream(Stream):
    def __len__(self):
        return 1


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (INPUTS, "found Tensor"),
        (INPUTS.numpy(), "found ndarray"),
        ({"x": INPUTS}, "found dict"),
        (Stream(), "found Stream"),
        (LongStream(), "found LongStream"),
        ((example for example in [1]), "found generator"),
        ("train.csv", "found str"),
        (b"train.csv", "found bytes"),
        (None, "found NoneType"),
        (3, "found int"),
    ],
)
def test_what_is_no_data_set_is_refused(data, found):
    with pytest.raises(errors.BadData, match=rf"expected a pair of arrays or tensors .*map-style dataset.*; {found}$"):
        as_source(data)


@pytest.mark.parametrize(
    ("data", "lengths"),
    [
        ((INPUTS, LABELS[:-1]), r"\[23, 22\]"),
        ((INPUTS,), r"\[23\]"),
        ([INPUTS], r"\[23\]"),
        (TensorDataset(INPUTS), r"\[23\]"),
        ((INPUTS, torch.tensor(3)), r"\[23, 0\]"),
        ((torch.tensor(1), torch.tensor(3)), r"\[0, 0\]"),
    ],
)
def test_arrays_of_different_lengths_are_refused(data, lengths):
    with pytest.raises(errors.BadData, match=rf"inputs and labels of one length, found arrays of lengths {lengths}"):
        as_source(data)


def test_arrays_that_torch_cannot_hold_are_refused():
    with pytest.raises(errors.BadData, match=r"expected arrays of numbers, found an array of <U3"):
        as_source((INPUTS, np.array(["cat"] * NUM_ROWS)))


def test_gradients_do_not_reach_the_rows():
    inputs = INPUTS.clone().requires_grad_()
    assert not as_source((inputs, LABELS)).read(torch.tensor([0]))[0].requires_grad


@given(
    row=st.integers(0, NUM_ROWS - 1),
    column=st.integers(0, 5),
    bit=st.integers(0, 31),
    way=st.sampled_from([tuple, lambda pair: Map(*pair)]),
)
def test_one_bit_of_one_element_changes_the_fingerprint(row, column, bit, way):
    inputs = INPUTS.clone()
    inputs.view(torch.int32).view(NUM_ROWS, 6)[row, column] ^= (1 << bit) - (1 << 32 if bit == 31 else 0)
    before = Rows.all_of((INPUTS, LABELS))
    assert Rows.all_of(way((inputs, LABELS))).fingerprint() != before.fingerprint()
    others = torch.tensor([i for i in range(NUM_ROWS) if i != row])
    assert Rows(as_source((inputs, LABELS)), others).fingerprint() == Rows(before.source, others).fingerprint()


def test_one_label_one_id_one_type_and_the_border_between_rows_change_the_fingerprint():
    labels = LABELS.clone()
    labels[5] += 1
    source = as_source((INPUTS, LABELS))
    variants = [
        Rows.all_of((INPUTS, LABELS)),
        Rows.all_of((INPUTS, labels)),
        Rows.all_of((INPUTS.view(torch.int32), LABELS)),
        Rows.all_of((INPUTS.reshape(NUM_ROWS, 6), LABELS)),
        Rows.all_of((INPUTS, LABELS.int())),
        Rows.all_of((LABELS, INPUTS)),
        Rows(source, torch.arange(NUM_ROWS - 1)),
        Rows(source, torch.arange(1, NUM_ROWS)),
        Rows(as_source((INPUTS.roll(1, 0), LABELS.roll(1, 0))), torch.arange(1, NUM_ROWS)),
    ]
    assert len({rows.fingerprint() for rows in variants}) == len(variants)


def test_the_fingerprint_of_text_and_nested_examples_sees_every_leaf():
    class Nested(Dataset):
        def __init__(self, who="a", extra=0.0):
            self.who, self.extra = who, extra

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"who": self.who, "deep": [torch.tensor([index]), {"x": torch.tensor(self.extra)}]}

    variants = [Nested(), Nested(who="b"), Nested(extra=1.0)]
    assert len({Rows.all_of(variant).fingerprint() for variant in variants}) == 3
    assert Rows.all_of(Nested()).fingerprint() == Rows.all_of(Nested()).fingerprint()


def test_the_fingerprint_is_the_hash_of_ids_and_of_chunks_of_rows():
    count = 1500
    values, labels = torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 3
    running = hashlib.sha256(np.arange(count).tobytes())
    for start, stop in ((0, 1024), (1024, count)):
        for part in (values[start:stop], labels[start:stop]):
            running.update(f"{part.dtype}{tuple(part.shape)}".encode() + part.numpy().tobytes())
    assert Rows.all_of((values, labels)).fingerprint() == running.hexdigest()
    assert Rows.all_of(Map(values, labels)).fingerprint() == running.hexdigest()


def test_sources_are_of_two_kinds():
    kinds = {name: type(as_source(data)) for name, data in ways().items()}
    arrays = {"tensors", "list", "arrays", "mixed", "tensor dataset"}
    assert {name for name, kind in kinds.items() if kind is ArraySource} == arrays
    assert {name for name, kind in kinds.items() if kind is DatasetSource} == set(kinds) - arrays
    assert params.digest({"x": as_source((INPUTS, LABELS)).tensors[0]}) == params.digest({"x": INPUTS})


# --- two sources as one -----------------------------------------------------------------------------------------------

MORE = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4
BOTH = torch.cat([INPUTS, MORE[0]]), torch.cat([LABELS, MORE[1]])


def joined(first, second):
    """Our rows and six more, each as arrays or one by one."""
    make = {"arrays": lambda pair: as_source(pair), "one by one": lambda pair: as_source(Map(*pair))}
    return JoinedSource(make[first]((INPUTS, LABELS)), make[second](MORE))


forms = pytest.mark.parametrize("first", ["arrays", "one by one"])
other_forms = pytest.mark.parametrize("second", ["arrays", "one by one"])


@forms
@other_forms
@given(ids=st.lists(st.integers(0, NUM_ROWS + 5), min_size=1, max_size=12))
def test_joined_rows_are_those_of_the_arrays_put_together(first, second, ids):
    source, whole = joined(first, second), as_source(BOTH)
    given_ids = torch.tensor(ids)
    for found, expected in zip(source.read(given_ids), whole.read(given_ids), strict=True):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
    assert torch.equal(source.labels(given_ids), BOTH[1][ids])


@forms
@other_forms
def test_joined_rows_have_the_length_fingerprint_and_examples_of_the_arrays_put_together(first, second):
    source, whole = joined(first, second), as_source(BOTH)
    assert len(source) == len(whole) == NUM_ROWS + 6 and as_source(source) is source
    some = torch.tensor([0, 4, NUM_ROWS - 1, NUM_ROWS, NUM_ROWS + 5])
    for ids in (some, torch.arange(len(source)), some[:2], some[3:]):
        assert Rows(source, ids).fingerprint() == Rows(whole, ids).fingerprint()
        found, expected = Rows(source, ids).as_dataset(), Rows(whole, ids).as_dataset()
        assert len(found) == len(expected) == len(ids)
        for one, other in zip(found, expected, strict=True):
            assert [torch.equal(torch.as_tensor(a), b) for a, b in zip(one, other, strict=True)] == [True, True]
        collated = as_source(found).read(torch.arange(len(ids)))  # examples of both can stand in one batch
        assert torch.equal(collated[0], BOTH[0][ids]) and torch.equal(collated[1], BOTH[1][ids])


def test_joined_arrays_are_a_dataset_of_tensors_for_code_that_wants_those():
    dataset = Rows(joined("arrays", "arrays"), torch.tensor([2, NUM_ROWS])).as_dataset()
    assert [torch.equal(own, other) for own, other in zip(dataset.dataset.tensors, BOTH, strict=True)] == [True, True]
    assert len(dataset.dataset) == NUM_ROWS + 6


def test_a_joined_source_can_be_joined_again():
    thrice = JoinedSource(joined("arrays", "one by one"), as_source((INPUTS, LABELS)))
    ids = torch.tensor([NUM_ROWS + 6, 1, NUM_ROWS + 2, len(thrice) - 1])
    assert torch.equal(thrice.read(ids)[0], torch.cat([BOTH[0], INPUTS])[ids])
    assert torch.equal(thrice.labels(ids), torch.cat([BOTH[1], LABELS])[ids])


def test_joined_rows_are_read_once_each_and_only_those():
    first, second = Map(), Map(*MORE)
    source = JoinedSource(as_source(first), as_source(second))
    first.read.clear()
    second.read.clear()
    source.read(torch.tensor([NUM_ROWS + 3, 4, NUM_ROWS, 2]))
    assert (first.read, second.read) == ([4, 2], [3, 0])
    source.read(torch.tensor([7]))
    assert (first.read, second.read) == ([4, 2, 7], [3, 0])


class Named(Map):
    """Examples by name, one of them nested; with text beside them, if asked for."""

    def __init__(self, *pair, **text):
        super().__init__(*(pair or (INPUTS, LABELS)))
        self.text = text

    def __getitem__(self, index):
        inputs, label = super().__getitem__(index)
        return {"pair": (inputs, {"label": label}), "twice": [2 * inputs], **self.text}


def test_named_and_nested_examples_can_be_joined():
    source = JoinedSource(as_source(Named()), as_source(Named(*MORE)))
    ids = torch.tensor([NUM_ROWS + 1, 3, NUM_ROWS])
    found = source.read(ids)
    assert torch.equal(found["pair"][0], BOTH[0][ids]) and torch.equal(found["pair"][1]["label"], BOTH[1][ids])
    assert torch.equal(found["twice"][0], 2 * BOTH[0][ids])
    example = Rows(source, ids).as_dataset()[0]
    assert torch.equal(example["pair"][0], MORE[0][1]) and int(example["pair"][1]["label"]) == 1


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ((MORE[0].double(), MORE[1]), r"\(float64\[2, 3\], int64\[\]\)"),
        ((MORE[0][:, :1], MORE[1]), r"\(float32\[1, 3\], int64\[\]\)"),
        ((*MORE, MORE[1]), r"\(float32\[2, 3\], int64\[\], int64\[\]\)"),
        (Named(), r"\{'pair': \(float32\[2, 3\], \{'label': int64\[\]\}\), 'twice': \(float32\[2, 3\]\)\}"),
    ],
)
def test_examples_of_two_kinds_are_not_joined(other, found):
    with pytest.raises(
        errors.BadData, match=rf"one kind of example to join, found \(float32\[2, 3\], .*\) and {found};"
    ):
        JoinedSource(as_source((INPUTS, LABELS)), as_source(other))


def test_text_and_emptiness_are_not_joined():
    text = as_source(Named(who="a"))
    with pytest.raises(errors.BadData, match=r"examples of tensors and numbers .*, found text or other objects"):
        JoinedSource(text, text)
    empty = as_source((INPUTS[:0], LABELS[:0]))
    with pytest.raises(errors.BadData, match=r"expected rows in both data sets to join, found 23 and 0; leave out"):
        JoinedSource(as_source((INPUTS, LABELS)), empty)
