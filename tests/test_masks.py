import hashlib
import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from excise import errors, params, store
from excise.masks import Mask
from tests.cases import CASES

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

SHAPES = {"conv.weight": (4, 2, 3), "conv.bias": (5,), "scale": (), "one": (1, 3), "none": (0, 2), "wide": (3, 17)}
NUM_WEIGHTS = sum(math.prod(shape) for shape in SHAPES.values())


@st.composite
def tensors(draw):
    """Full-size booleans: constant, constant in each row, or free, and any of them by chance."""
    found = {}
    for name, shape in SHAPES.items():
        kind = draw(st.sampled_from(["constant", "rows", "free"]))
        small = {"constant": (1,) * len(shape), "rows": (*shape[:1], *(1,) * (len(shape) - 1)), "free": shape}[kind]
        bits = draw(st.lists(st.booleans(), min_size=math.prod(small), max_size=math.prod(small)))
        found[name] = torch.tensor(bits, dtype=torch.bool).reshape(small).expand(shape).clone()
    return found


def spelled(mask):
    return {name: mask.expand(name) for name in mask.names}


def same(mask, wanted):
    return list(mask.names) == list(wanted) and all(torch.equal(mask.expand(name), wanted[name]) for name in wanted)


def as_rows(value):
    """The row-compressed spelling, where there is one."""
    if value.ndim < 2 or not value.numel():
        return value
    rows = value.reshape(value.shape[0], -1)
    return rows[:, :1].reshape(-1, *(1,) * (value.ndim - 1)) if bool((rows == rows[:, :1]).all()) else value


def as_constant(value):
    """The wholly compressed spelling, where there is one."""
    return value.flatten()[0].reshape((1,) * value.ndim) if value.numel() and value.unique().numel() == 1 else value


def test_the_random_masks_hold_every_kind():
    """Guards the strategy: without each kind, the laws below would say less than they seem to."""
    seen = set()

    @given(tensors())
    def collect(found):
        mask = Mask.from_tensors(found)
        seen.update(
            "constant" if entry.numel() == 1 else "free" if entry.shape == (4, 2, 3) else "rows"
            for entry in [mask.entry("conv.weight")]
        )

    collect()
    assert seen == {"constant", "rows", "free"}


@given(tensors(), tensors())
def test_logic_is_that_of_torch_at_full_size(one, other):
    a, b = Mask.from_tensors(one), Mask.from_tensors(other)
    assert same(a, one)
    assert same(a & b, {name: one[name] & other[name] for name in one})
    assert same(a | b, {name: one[name] | other[name] for name in one})
    assert same(a - b, {name: one[name] & ~other[name] for name in one})
    assert same(~a, {name: ~one[name] for name in one})


@given(tensors(), tensors(), tensors())
def test_masks_are_a_boolean_algebra(one, other, third):
    a, b, c = (Mask.from_tensors(found) for found in (one, other, third))
    nothing, everything = a & ~a, a | ~a
    assert nothing.num_selected == 0 and everything.num_selected == NUM_WEIGHTS
    assert ~~a == a and a & a == a and a | a == a and a - a == nothing
    assert ~(a & b) == ~a | ~b and ~(a | b) == ~a & ~b
    assert a & (b | c) == (a & b) | (a & c) and a | (b & c) == (a | b) & (a | c)
    assert a & everything == a and a | nothing == a and a & nothing == nothing and a | everything == everything
    assert (a - b) | (a & b) == a
    assert (a & b).num_selected + (a | b).num_selected == a.num_selected + b.num_selected


@given(tensors())
def test_counts_are_those_of_the_full_size(full):
    mask = Mask.from_tensors(full)
    assert {name: mask.count(name) for name in mask.names} == {name: int(value.sum()) for name, value in full.items()}
    total = sum(int(value.sum()) for value in full.values())
    assert mask.num_selected == total
    assert mask.num_parameters == NUM_WEIGHTS
    assert mask.fraction == total / NUM_WEIGHTS
    conv = torch.cat([full["conv.weight"].flatten(), full["conv.bias"]])
    assert mask.per_module() == {
        "conv": float(conv.double().mean()),
        **{
            name: float(full[name].double().sum()) / max(full[name].numel(), 1)
            for name in ("scale", "one", "none", "wide")
        },
    }
    assert f"{total} of {NUM_WEIGHTS} weights" in repr(mask)


@given(tensors(), st.permutations(list(SHAPES)))
def test_a_digest_does_not_depend_on_how_the_mask_is_spelled(full, order):
    ways = [
        Mask.from_tensors(full),
        Mask({name: as_rows(value) for name, value in full.items()}, SHAPES),
        Mask({name: as_constant(value) for name, value in full.items()}, SHAPES),
        Mask({name: full[name] for name in order}, {name: SHAPES[name] for name in order}),
        Mask({**full, "none": torch.ones(1, 1, dtype=torch.bool)}, SHAPES),
        ~~Mask.from_tensors(full),
    ]
    assert len({way.digest for way in ways}) == 1
    assert all(one == other and hash(one) == hash(other) for one in ways for other in ways)
    assert len(set(ways)) == 1
    for way in ways:
        for name, value in full.items():
            smallest = as_constant(value) if value.unique().numel() == 1 else as_rows(value)
            assert torch.equal(way.entry(name), smallest) or not value.numel()


@given(tensors(), tensors())
def test_equality_and_digest_are_those_of_the_bits(one, other):
    a, b = Mask.from_tensors(one), Mask.from_tensors(other)
    equal = all(torch.equal(one[name], other[name]) for name in one)
    assert (a == b) == equal
    assert (a.digest == b.digest) == equal


@given(tensors(), st.data())
def test_one_bit_changes_the_digest(full, data):
    name = data.draw(st.sampled_from([name for name, shape in SHAPES.items() if math.prod(shape)]))
    place = data.draw(st.integers(0, math.prod(SHAPES[name]) - 1))
    other = {key: value.clone() for key, value in full.items()}
    other[name].view(-1)[place] ^= True
    assert Mask.from_tensors(full) != Mask.from_tensors(other)
    assert Mask.from_tensors(full).digest != Mask.from_tensors(other).digest


def test_names_and_shapes_count():
    value = torch.tensor([True, False, True, False])
    masks = [
        Mask.from_tensors({"a": value}),
        Mask.from_tensors({"b": value}),
        Mask.from_tensors({"a": value.reshape(2, 2)}),
        Mask.from_tensors({"a": value.reshape(4, 1)}),
        Mask.from_tensors({"a": value, "b": value}),
    ]
    assert len({mask.digest for mask in masks}) == len(set(masks)) == len(masks)
    assert masks[0] != "a mask"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


@given(full=tensors())
def test_a_saved_mask_comes_back(shared, full):
    mask, path = Mask.from_tensors(full), shared / "mask.safetensors"
    mask.save(path)
    found = Mask.load(path)
    assert found == mask and found.digest == mask.digest
    assert found.names == mask.names and found.shapes == SHAPES
    assert same(found, full)


@given(full=tensors())
def test_a_mask_on_disk_takes_at_most_one_bit_a_weight_besides_its_header(shared, full):
    path = shared / "size.safetensors"
    Mask.from_tensors(full).save(path)
    content = path.read_bytes()
    header = int.from_bytes(content[:8], "little")
    # each entry ends on a whole byte
    assert len(content) - 8 - header <= sum(max(1, math.ceil(math.prod(shape) / 8)) for shape in SHAPES.values())


def test_a_big_mask_is_small_on_disk(tmp_path):
    shape = (1000, 2000)
    draws = torch.Generator().manual_seed(0)
    free = Mask.from_tensors({"w": torch.rand(shape, generator=draws) < 0.5})
    rows = Mask.from_tensors({"w": (torch.rand(1000, 1, generator=draws) < 0.5).expand(shape)})
    for mask, bits in ((free, 2_000_000), (rows, 1000)):
        mask.save(tmp_path / "m")
        assert bits / 8 <= (tmp_path / "m").stat().st_size <= bits / 8 + 300
        assert Mask.load(tmp_path / "m") == mask


@each_case
def test_full_empty_and_where_cover_a_network(case):
    model = case.make()
    own = {name: tuple(value.shape) for name, value in params.named_parameters(model).items()}
    full, empty = Mask.full(model), Mask.empty(model)
    assert full.shapes == empty.shapes == own
    assert full.fraction == 1 and empty.fraction == 0 and ~full == empty
    assert full.num_parameters == sum(value.numel() for value in model.parameters())
    biases = Mask.where(model, lambda name: name.endswith("bias"))
    assert {name for name in own if biases.count(name)} == {name for name in own if name.endswith("bias")}
    for mask in (full, empty, biases):
        mask.require_fit(model)


@each_case
def test_a_module_is_all_that_lies_inside_it(case):
    model = case.make()
    for name, module in model.named_modules():
        inside = {id(value) for value in module.parameters()}
        mask = Mask.of_modules(model, [name])
        for key, value in params.named_parameters(model).items():
            assert mask.count(key) == (value.numel() if id(value) in inside else 0)
    for name, value in model.named_parameters():
        assert Mask.of_modules(model, [name]).num_selected == value.numel()
    assert Mask.of_modules(model, []) == Mask.empty(model)
    assert Mask.of_modules(model, [""]) == Mask.full(model)


def test_modules_add_up_and_a_tied_weight_belongs_to_both():
    model = CASES["transformer"].make()
    both = Mask.of_modules(model, ["head", "layers.0.norm1"])
    assert both == Mask.of_modules(model, ["head"]) | Mask.of_modules(model, ["layers.0.norm1"])
    tied = CASES["tied"].make()
    assert Mask.of_modules(tied, ["head"]) == Mask.of_modules(tied, ["embed"])
    assert Mask.of_modules(tied, ["head"]).count("embed.weight") == tied.embed.weight.numel()


def test_a_parameter_of_the_root_stands_for_itself():
    model = CASES["transformer"].make()
    mask = Mask.of_modules(model, ["position"])
    assert mask.num_selected == 40
    assert mask.per_module()["position"] == 1
    assert set(mask.per_module().values()) == {0.0, 1.0}


def test_a_name_that_the_network_does_not_have_is_refused_with_those_it_has():
    message = r"Sequential has no module or parameter named 'fc'; it has \['0', '0\.bias', '0\.weight', '1'"
    with pytest.raises(errors.MaskMismatch, match=message):
        Mask.of_modules(CASES["mlp"].make(), ["0", "fc"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (torch.ones(2, 3), "expected booleans, found torch.float32; compare to get booleans"),
        (torch.ones(2, 3, dtype=torch.uint8), "expected booleans, found torch.uint8"),
        (torch.ones(3, 2, dtype=torch.bool), r"shape \(3, 2\) does not broadcast to \(2, 3\)"),
        (torch.ones(2, dtype=torch.bool), r"shape \(2,\) does not broadcast to \(2, 3\)"),
        (torch.ones(1, 2, 3, dtype=torch.bool), r"shape \(1, 2, 3\) does not broadcast to \(2, 3\)"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(entry, message):
    with pytest.raises(errors.MaskMismatch, match=rf"mask of 'w': {message}"):
        Mask({"w": entry}, {"w": (2, 3)})


def test_entries_and_shapes_must_name_the_same():
    with pytest.raises(errors.MaskMismatch, match=r"entries and shapes name different parameters: \{'b'\}"):
        Mask({"a": torch.ones(1, dtype=torch.bool)}, {"a": (1,), "b": (1,)})


@given(tensors())
def test_an_entry_may_broadcast_along_any_axis(full):
    columns = full["wide"][:1]  # one value for each column, the same in every row
    assert torch.equal(Mask({"w": columns}, {"w": (3, 17)}).expand("w"), columns.expand(3, 17))
    middle = full["conv.weight"][:, :1]
    assert torch.equal(Mask({"w": middle}, {"w": (4, 2, 3)}).expand("w"), middle.expand(4, 2, 3))


def test_masks_of_different_networks_do_not_combine():
    one = Mask.from_tensors({"w": torch.ones(2, dtype=torch.bool), "v": torch.ones(1, dtype=torch.bool)})
    for other in (
        Mask.from_tensors({"w": torch.ones(2, dtype=torch.bool)}),
        Mask.from_tensors({"w": torch.ones(2, dtype=torch.bool), "v": torch.ones(3, dtype=torch.bool)}),
    ):
        for combine in (lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a - b):
            with pytest.raises(
                errors.MaskMismatch, match="the two masks are of different networks; they differ at 'v'"
            ):
                combine(one, other)


def test_a_mask_says_in_which_ways_it_does_not_fit_a_network():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    flags = {"0.weight": (3, 2), "1.weight": (1, 4), "2.bias": (1,)}
    mask = Mask.from_tensors({name: torch.ones(shape, dtype=torch.bool) for name, shape in flags.items()})
    with pytest.raises(errors.MaskMismatch) as caught:
        mask.require_fit(model)
    assert [line.strip() for line in str(caught.value).splitlines()] == [
        "the mask does not fit Sequential:",
        "2.bias: in the mask, not in the network",
        "0.bias: in the network, not in the mask",
        "1.weight: mask (1, 4), network (1, 3)",
        "cut it from scores of this very network",
    ]


def test_a_long_list_of_differences_is_cut():
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(8)])
    with pytest.raises(errors.MaskMismatch, match="and 6 more") as caught:
        Mask({}, {}).require_fit(model)
    assert str(caught.value).count("not in the mask") == 10
    with pytest.raises(errors.MaskMismatch) as caught:
        Mask({}, {}).require_fit(model[:5])
    assert str(caught.value).count("not in the mask") == 10 and "more" not in str(caught.value)


@pytest.mark.parametrize("kind", ["constant", "rows", "free"])
def test_a_mask_does_not_change_with_what_it_was_made_from(kind):
    value = {"constant": torch.ones(2, 3), "rows": torch.tensor([[1.0] * 3, [0] * 3]), "free": torch.eye(2, 3)}[
        kind
    ] > 0
    mask = Mask.from_tensors({"w": value})
    before = mask.digest
    value.logical_not_()
    assert mask.digest == before
    mask.shapes["w"] = (9,)
    assert mask.shapes == {"w": (2, 3)}


def test_what_is_not_a_mask_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    store.write_tensors(path, {"w": torch.zeros(2)}, {"kind": "excise-patch-1"})
    with pytest.raises(errors.BadData, match=r"m\.safetensors is not a mask written by excise; make one with"):
        Mask.load(path)
    path.write_bytes(b"x")
    with pytest.raises(errors.BadData, match="not a readable safetensors file"):
        Mask.load(path)


GOOD = {"w": [[4, 5], [4, 5]], "b": [[9], [1]]}
PACKED = {"w": torch.tensor([0x0F, 0xF0, 0xF0], dtype=torch.uint8), "b": torch.tensor([0x80], dtype=torch.uint8)}


@pytest.mark.parametrize(
    ("packed", "shapes"),
    [
        (PACKED, None),
        (PACKED, "{"),
        (PACKED, "[1]"),
        (PACKED, {"w": [[4, 5], "a"], "b": GOOD["b"]}),
        (PACKED, {**GOOD, "c": [[1], [1]]}),
        (PACKED, {**GOOD, "w": [[4, 5], [4, 6]]}),
        (PACKED, {**GOOD, "w": [[4, 6], [4, 5]]}),
        (PACKED, {**GOOD, "w": [[4, 5], [-4, -5]]}),
        (PACKED, {**GOOD, "w": [[4, 7], [4, 7]]}),
        ({**PACKED, "w": PACKED["w"][:2]}, GOOD),
        ({**PACKED, "w": PACKED["w"].repeat(2)}, GOOD),
        ({**PACKED, "w": PACKED["w"].to(torch.float32)}, GOOD),
        ({**PACKED, "w": PACKED["w"].reshape(1, 3)}, GOOD),
    ],
)
def test_a_mask_whose_header_and_content_disagree_is_refused(tmp_path, packed, shapes):
    path = tmp_path / "m.safetensors"
    header = {} if shapes is None else {"shapes": shapes if isinstance(shapes, str) else json.dumps(shapes)}
    store.write_tensors(path, packed, {"kind": "excise-mask-1", **header})
    with pytest.raises(errors.BadData, match="the mask's header and its content disagree"):
        Mask.load(path)


def test_the_file_of_a_mask_is_what_its_sentence_says(tmp_path):
    path = tmp_path / "m.safetensors"
    store.write_tensors(path, PACKED, {"kind": "excise-mask-1", "shapes": json.dumps(GOOD)})
    mask = Mask.load(path)
    bits = "00001111111100001111"
    assert [int(bit) for bit in bits] == mask.expand("w").int().flatten().tolist()
    assert bool(mask.expand("b").all())
    mask.save(path)
    found, metadata = store.read_tensors(path)
    assert params.digest(found) == params.digest(PACKED)
    assert json.loads(metadata["shapes"]) == GOOD


def test_a_digest_is_the_hash_of_names_shapes_and_packed_bits():
    mask = Mask.from_tensors({"w": torch.eye(3, 3) > 0, "b": torch.tensor([True, True])})
    running = hashlib.sha256(b"b\0(2,)\0(1,)\0" + bytes([0b10000000]))
    running.update(b"w\0(3, 3)\0(3, 3)\0" + np.packbits(np.eye(3, dtype=bool)).tobytes())
    assert mask.digest == running.hexdigest()


def read_picture(picture):
    """Read a picture back: name, characters of the bar, percent, chosen, all."""
    pattern = re.compile(r"(\S+) +\[(#*)(\.*)\] +([\d.]+)%  +([\d,]+) of ([\d,]+)")
    for line in picture.splitlines():
        name, full, rest, percent, chosen, total = pattern.fullmatch(line).groups()
        yield name, len(full), len(rest), float(percent), int(chosen.replace(",", "")), int(total.replace(",", ""))


@given(tensors(), st.integers(2, 60))
def test_a_picture_has_a_line_a_module_in_order_and_says_what_is_so(found, width):
    mask = Mask.from_tensors(found)
    lines = list(read_picture(mask.picture(width)))
    assert [name for name, *_ in lines] == list(mask.per_module())
    assert sum(chosen for *_, chosen, _ in lines) == mask.num_selected
    assert sum(total for *_, total in lines) == NUM_WEIGHTS
    for (_, full, rest, percent, chosen, total), share in zip(lines, mask.per_module().values(), strict=True):
        assert full + rest == width
        assert abs(percent - 100 * share) <= 0.05 + 1e-9
        assert chosen == round(share * total)
        assert (full == 0) == (chosen == 0)
        assert (rest == 0) == (chosen == total > 0)
        assert abs(full - share * width) <= 1 + 1e-9
    assert len({len(line.partition("]")[0]) for line in mask.picture(width).splitlines()}) == 1


def test_a_picture_to_look_at():
    shapes = {"stem.weight": (1000, 3), "stem.bias": (6,), "body.0.weight": (4, 2), "head": (10,)}
    bits = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    bits["stem.weight"][:2, :] = True
    bits["body.0.weight"][:3] = True
    bits["head"][:] = True
    assert Mask.from_tensors(bits).picture(8).splitlines() == [
        "stem   [#.......]   0.2%   6 of 3,006",
        "body.0 [######..]  75.0%   6 of 8",
        "head   [########] 100.0%  10 of 10",
    ]
    assert len(Mask.from_tensors(bits).picture().splitlines()[0].partition("[")[2].partition("]")[0]) == 40


def test_a_picture_shortens_long_names_and_draws_many_modules():
    names = [f"encoder.blocks.{place}.a.very.deeply.nested.attention.projection.{place}" for place in range(300)]
    mask = Mask.from_tensors({f"{name}.weight": torch.tensor([place % 2 == 0]) for place, name in enumerate(names)})
    lines = mask.picture(10).splitlines()
    assert len(lines) == 300
    assert max(map(len, lines)) < 80
    for name, line in zip(names, lines, strict=True):
        begin, end = line.split()[0].split("...")
        assert len(begin) + len(end) + 3 == 40
        assert name.startswith(begin) and name.endswith(end)
    exact = "x" * 40
    assert Mask.from_tensors({f"{exact}.weight": torch.tensor([True])}).picture(2).startswith(f"{exact} [##]")


@pytest.mark.parametrize("width", [1, 0, -3, 2.0, True])
def test_a_bar_too_narrow_is_refused(width):
    with pytest.raises(errors.BadRequest, match=f"^width: expected an integer of at least 2, found {width}$"):
        Mask.from_tensors({"w": torch.ones(2) > 0}).picture(width)
