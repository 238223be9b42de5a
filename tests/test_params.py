import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from excise import errors, params
from excise.masks import Mask
from tests.cases import CASES
from tests.probes import LeftAlone, same_bytes, snapshot
from tests.wrapping import WRAPPERS, alone

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def naive_digest(tensors):
    """From the documented layout, by way of numpy's own bytes."""
    running = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        content = (
            value.numpy().tobytes() if value.dtype != torch.bfloat16 else value.view(torch.int16).numpy().tobytes()
        )
        running.update(
            name.encode() + b"\0" + str(value.dtype).encode() + b"\0" + str(tuple(value.shape)).encode() + b"\0"
        )
        running.update(content)
    return running.hexdigest()


def some_tensors():
    draws = torch.Generator().manual_seed(1)
    shapes = [(2, 3), (4,), (), (0, 3), (1, 1, 2)]
    return {
        f"{dtype}.{index}": torch.randint(0, 2, shape, generator=draws).to(dtype)
        for dtype in DTYPES
        for index, shape in enumerate(shapes)
    }


def test_a_digest_is_the_hash_of_the_documented_layout():
    tensors = some_tensors()
    assert params.digest(tensors) == naive_digest(tensors)
    assert params.digest({}) == hashlib.sha256().hexdigest()


@given(st.permutations(list(some_tensors())))
def test_a_digest_does_not_depend_on_order(names):
    tensors = some_tensors()
    shuffled = {name: tensors[name] for name in names}
    assert params.digest(shuffled) == params.digest(tensors)
    assert params.digest(iter(shuffled.items())) == params.digest(tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_does_not_depend_on_memory_layout(dtype):
    value = torch.arange(24).reshape(2, 3, 2, 2).to(dtype)
    spread = value.repeat_interleave(2, dim=0)[::2]
    ways = [
        value,
        value.to(memory_format=torch.channels_last),
        value.mT.contiguous().mT,
        spread,
        spread.expand_as(value),
    ]
    assert any(not way.is_contiguous() for way in ways)
    assert len({params.digest({"a": way}) for way in ways}) == 1
    assert {bytes(params.raw_bytes(way)) for way in ways} == {bytes(params.raw_bytes(value.clone()))}
    every_other = value.reshape(-1)[::2]
    assert params.digest({"a": every_other}) == params.digest({"a": every_other.clone()})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_digest_changes_with_every_single_bit(dtype):
    value = torch.ones(3).to(dtype)
    raw = np.frombuffer(bytes(params.raw_bytes(value)), dtype=np.uint8)
    seen = {params.digest({"a": value})}
    bits = [0] if dtype == torch.bool else range(8)
    for byte in range(len(raw)):
        for bit in bits:
            flipped = raw.copy()
            flipped[byte] ^= 1 << bit
            seen.add(params.digest({"a": torch.from_numpy(flipped).view(dtype)}))
    assert len(seen) == 1 + len(raw) * len(bits)


def test_a_digest_knows_names_shapes_dtypes_and_the_sign_of_zero():
    zero = torch.zeros(2, 2)
    variants = [
        {"a": zero},
        {"b": zero},
        {"a": zero.reshape(4)},
        {"a": zero.reshape(1, 4)},
        {"a": zero.view(torch.int32)},
        {"a": -zero},
        {"a": zero, "b": zero},
        {"a": zero[:1], "b": zero[1:]},
        {"a": zero[:1]},
    ]
    assert len({params.digest(variant) for variant in variants}) == len(variants)


@each_case
def test_a_networks_digest_covers_every_parameter_and_every_persistent_buffer(case):
    model = case.make()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    before = params.model_digest(model)
    assert before == params.digest(params.state_of(model)) == naive_digest(params.state_of(model))
    assert params.model_digest(case.make()) == before
    model.scratch.add_(1)
    assert params.model_digest(model) == before
    for name, value in model.state_dict().items():
        kept = value.clone()
        value.reshape(-1)[-1:].view(torch.uint8)[0] ^= 1
        assert params.model_digest(model) != before, name
        value.copy_(kept)
        assert params.model_digest(model) == before, name


@each_case
def test_a_parameter_has_one_name_and_buffers_are_not_among_them(case):
    model = case.make()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    found = params.named_parameters(model)
    assert sorted(map(id, found.values())) == sorted({id(value) for value in model.parameters()})
    assert all(model.get_parameter(name) is value for name, value in found.items())
    buffers = params.named_buffers(model)
    assert set(buffers) == set(model.state_dict()) - {n for n, _ in model.named_parameters(remove_duplicate=False)}
    assert all(model.get_buffer(name) is buffer for name, buffer in buffers.items())


def test_a_tied_weight_goes_by_its_first_name():
    assert list(params.named_parameters(CASES["tied"].make())) == ["embed.weight", "middle.weight", "middle.bias"]


def test_running_statistics_are_buffers():
    assert {name.partition(".")[2] for name in params.named_buffers(CASES["batchnorm"].make())} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


@each_case
def test_a_clone_is_equal_and_shares_nothing(case):
    model = case.make().eval()
    next(model.parameters()).requires_grad_(False)
    clone = params.clone_model(model)
    assert type(clone) is type(model)
    assert params.model_digest(clone) == params.model_digest(model)
    assert [module.training for module in clone.modules()] == [module.training for module in model.modules()]
    assert [v.requires_grad for v in clone.parameters()] == [v.requires_grad for v in model.parameters()]
    mine = {value.data_ptr() for value in model.state_dict().values()}
    assert not mine & {value.data_ptr() for value in clone.state_dict().values()}
    before = params.model_digest(model)
    with torch.no_grad():
        for value in clone.state_dict().values():
            value.add_(1)
    assert params.model_digest(model) == before


def test_a_clone_of_tied_weights_is_tied():
    model = CASES["tied"].make()
    clone = params.clone_model(model)
    assert clone.head.weight is clone.embed.weight
    assert clone.head.weight is not model.head.weight


@each_case
def test_a_clone_has_no_gradients_and_the_original_keeps_its_own(case):
    model = case.make()
    inputs, labels = case.data(8)
    nn.functional.cross_entropy(model(inputs), labels).backward()
    next(model.parameters()).grad = None
    held = [value.grad for value in model.parameters()]
    values = [None if gradient is None else gradient.clone() for gradient in held]
    clone = params.clone_model(model)
    assert all(value.grad is None for value in clone.parameters())
    assert all(value.grad is gradient for value, gradient in zip(model.parameters(), held, strict=True))
    assert all(kept is None or torch.equal(kept, now) for kept, now in zip(values, held, strict=True))


def test_a_snapshot_and_a_state_are_out_of_reach_of_later_changes():
    model = CASES["tied"].make()
    snapshot = params.snapshot(params.named_parameters(model))
    state = params.state_of(model)
    assert set(snapshot) == {"embed.weight", "middle.weight", "middle.bias"}
    assert set(state) == {*snapshot, "head.weight"}
    digests = params.digest(snapshot), params.digest(state)
    assert not any(value.requires_grad for value in [*snapshot.values(), *state.values()])
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert (params.digest(snapshot), params.digest(state)) == digests


class Interrupted(BaseException):
    """Not an Exception, as an interrupt is none."""


@pytest.mark.parametrize("failure", [None, ValueError, Interrupted])
@each_case
def test_modes_come_back(case, failure):
    model = case.make()
    modules = list(model.modules())
    for index, module in enumerate(modules):
        module.training = index % 2 == 0
    values = list(model.parameters())
    values[0].requires_grad_(False)
    values[-1].grad = torch.ones_like(values[-1])
    before = [module.training for module in modules], [(v.requires_grad, v.grad) for v in values]

    def mess():
        with params.modes_restored(model):
            model.train()
            model.requires_grad_(True)
            for value in values:
                value.grad = torch.zeros_like(value)
            values[-1].requires_grad_(False)
            if failure:
                raise failure("inside")

    if failure:
        with pytest.raises(failure, match="inside"):
            mess()
    else:
        mess()
    assert [module.training for module in modules] == before[0]
    assert [value.requires_grad for value in values] == [pair[0] for pair in before[1]]
    assert all(value.grad is pair[1] for value, pair in zip(values, before[1], strict=True))
    assert bool((values[-1].grad == 1).all())


def test_a_network_that_cannot_change_is_refused():
    with pytest.raises(errors.UnsupportedModel, match="expected a network with parameters, found none in ReLU"):
        params.require_parameters(nn.ReLU())
    with pytest.raises(
        errors.UnsupportedModel, match=r"all 2 parameters of Linear are frozen \(requires_grad is False\)"
    ):
        params.require_parameters(nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(errors.UnsupportedModel, match=r"parameter '1\.weight' has no shape yet; run one batch"):
        params.require_parameters(nn.Sequential(nn.Linear(1, 1), nn.LazyLinear(2)))


@each_case
def test_a_network_of_which_one_parameter_may_change_is_accepted(case):
    model = case.make().requires_grad_(False)
    list(model.parameters())[-1].requires_grad_(True)
    params.require_parameters(model)


@each_case
def test_a_state_is_loaded_to_the_bit(case):
    source = case.make()
    with torch.no_grad():
        for value in source.parameters():
            value.mul_(-1.5)
    target = case.make()
    params.load_strictly_(target, params.state_of(source), "w.safetensors")
    assert params.model_digest(target) == params.model_digest(source)


def test_weights_that_do_not_fit_are_listed_with_names_and_shapes_and_nothing_is_loaded():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2, bias=False))
    before = params.model_digest(model)
    state = params.state_of(model)
    del state["0.bias"]
    state["1.weight"] = torch.zeros(2, 4)
    state["1.bias"] = torch.zeros(2)
    state["0.weight"] = state["0.weight"] + 1
    with pytest.raises(errors.MaskMismatch) as caught:
        params.load_strictly_(model, state, "w.pt")
    lines = str(caught.value).splitlines()
    assert lines[0] == "the weights in w.pt do not fit Sequential (3 differences):"
    assert [line.strip() for line in lines[1:4]] == [
        "missing 0.bias (3,)",
        "unexpected 1.bias (2,)",
        "1.weight: expected (2, 3), found (2, 4)",
    ]
    assert lines[4].startswith("give the weights of this very architecture")
    assert params.model_digest(model) == before


def test_a_long_list_of_differences_is_cut():
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(15)])
    with pytest.raises(errors.MaskMismatch, match=re.escape("(30 differences)")) as caught:
        params.load_strictly_(model, {}, "w.pt")
    assert str(caught.value).count("missing") == 20 and "and 10 more" in str(caught.value)
    with pytest.raises(errors.MaskMismatch, match=re.escape("(20 differences)")) as caught:
        params.load_strictly_(model[:10], {}, "w.pt")
    assert str(caught.value).count("missing") == 20 and "more" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_loaded(value):
    model = CASES["batchnorm"].make()
    before = params.model_digest(model)
    state = params.state_of(model)
    state["4.running_mean"][1] = value
    with pytest.raises(errors.BadData, match=r"w\.pt hold values that are not finite, first in '4\.running_mean'"):
        params.load_strictly_(model, state, "w.pt")
    assert params.model_digest(model) == before


def test_a_causal_mask_of_minus_infinity_is_loaded():
    model = nn.Linear(2, 2)
    model.register_buffer("causal", torch.full((2, 2), -torch.inf).triu(1))
    params.load_strictly_(model, params.state_of(model), "w.pt")
    state = params.state_of(model)
    state["causal"][1, 0] = -torch.inf
    with pytest.raises(errors.BadData, match="first in 'causal'"):
        params.load_strictly_(model, state, "w.pt")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@each_case
def test_the_names_of_a_wrapped_network_are_understood(case, prefix):
    source, target = case.make(), case.make()
    with torch.no_grad():
        for value in source.parameters():
            value.add_(1)
    params.load_strictly_(target, {f"{prefix}{name}": v for name, v in params.state_of(source).items()}, "w.pt")
    assert params.model_digest(target) == params.model_digest(source)


def test_a_prefix_is_left_out_of_all_names_or_of_none():
    model = nn.Linear(1, 1)
    state = {"module.weight": torch.ones(1, 1), "bias": torch.ones(1)}
    with pytest.raises(errors.MaskMismatch, match=r"missing weight .*\n  unexpected module\.weight"):
        params.load_strictly_(model, state, "w.pt")


def test_a_network_with_a_part_called_module_is_taken_at_its_word():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

    source, target = Outer(), Outer()
    params.load_strictly_(target, params.state_of(source), "w.pt")
    assert params.model_digest(target) == params.model_digest(source)
    wrapped = {f"module.{name}": value for name, value in params.state_of(source).items()}
    params.load_strictly_(target, wrapped, "w.pt")
    assert params.model_digest(target) == params.model_digest(source)
    with pytest.raises(errors.MaskMismatch, match=r"missing module\.bias"):
        params.load_strictly_(target, {"module.weight": torch.ones(1, 1)}, "w.pt")


# --- wrappers -----------------------------------------------------------------------------------------------------------

each_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.fixture(scope="module")
def _processes(tmp_path_factory):
    with alone(tmp_path_factory.mktemp("group")):
        yield


def wrapper_kinds(model):
    """Give the wrappers' types from the outside in, the network's own last."""
    inner = getattr(model, "_orig_mod", None) or (model.module if hasattr(model, "module") else None)
    return [type(model), *([] if inner is None else wrapper_kinds(inner))]


@each_case
def test_a_network_without_a_wrapper_is_itself(case):
    model, other = case.make(), case.make()
    assert params.unwrapped(model) is model
    assert params.rewrapped(model, other) is other


def test_a_network_with_parts_named_like_a_wrappers_is_itself():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self._orig_mod = nn.Linear(1, 1), nn.Linear(1, 1)

    model = Outer()
    assert params.unwrapped(model) is model


@pytest.mark.usefixtures("_processes")
@each_wrapper
@each_case
def test_everything_is_named_as_without_the_wrapper(case, wrap):
    model = case.make()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    wrapped = wrap(model)
    assert params.unwrapped(wrapped) is model
    for read in (params.named_parameters, params.named_buffers):
        assert [*read(wrapped)] == [*read(model)]
        assert all(value is read(model)[name] for name, value in read(wrapped).items())
    assert params.digest(params.state_of(wrapped)) == params.digest(params.state_of(model))
    assert params.model_digest(wrapped) == params.model_digest(model)
    last = [name for name, _ in model.named_modules()][-1]
    assert Mask.of_modules(wrapped, [last]) == Mask.of_modules(model, [last])
    assert Mask.full(wrapped).digest == Mask.full(model).digest
    assert Mask.where(wrapped, lambda name: name.endswith("bias")) == Mask.where(model, lambda n: n.endswith("bias"))
    Mask.empty(model).require_fit(wrapped)
    params.require_parameters(wrapped)


@pytest.mark.usefixtures("_processes")
@each_wrapper
@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_wrapper_is_copied_around_another_network(wrap, used):
    case = CASES["batchnorm"]
    model, other = case.make(), case.make()
    inputs, labels = case.data(6)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.5)
    wrapped = wrap(model)
    if used:
        nn.functional.cross_entropy(wrapped(inputs), labels).backward()
    watch, before = LeftAlone(wrapped), snapshot(other)
    again = params.rewrapped(wrapped, other)
    watch.check()
    assert wrapper_kinds(again) == wrapper_kinds(wrapped)
    assert params.unwrapped(again) is other and params.unwrapped(wrapped) is model
    assert same_bytes(before, snapshot(other))
    assert {id(value) for value in again.parameters()} == {id(value) for value in other.parameters()}
    watch = LeftAlone(wrapped)
    nn.functional.cross_entropy(again(inputs), labels).backward()  # the copy works, and on its own network
    watch.check()
    assert all(value.grad is not None for value in other.parameters())
    assert torch.equal(again.eval()(inputs), other.eval()(inputs))
    again.load_state_dict(wrapped.state_dict())
    assert params.model_digest(other) == params.model_digest(model)


@pytest.mark.usefixtures("_processes")
@each_wrapper
@each_case
def test_a_clone_of_a_wrapped_network_is_wrapped_and_shares_nothing(case, wrap):
    wrapped = wrap(case.make())
    watch = LeftAlone(wrapped)
    clone = params.clone_model(wrapped)
    watch.check()
    assert wrapper_kinds(clone) == wrapper_kinds(wrapped)
    assert same_bytes(snapshot(clone), snapshot(wrapped))
    assert not {v.data_ptr() for v in clone.state_dict().values()} & {
        v.data_ptr() for v in wrapped.state_dict().values()
    }


@pytest.mark.usefixtures("_processes")
@each_wrapper
@each_case
def test_weights_of_a_wrapped_network_fit_the_plain_one_and_the_reverse(case, wrap):
    source, target = wrap(case.make()), case.make()
    with torch.no_grad():
        for value in source.parameters():
            value.add_(1)
    for state in (source.state_dict(), params.state_of(source)):
        for goal in (target, wrap(case.make())):
            params.load_strictly_(goal, state, "w.pt")
            assert params.model_digest(goal) == params.model_digest(source)


def test_weights_that_do_not_fit_a_wrapped_network_are_listed_by_its_own_names():
    with pytest.raises(errors.MaskMismatch, match=r"do not fit Linear \(2 differences\):\n  missing weight"):
        params.load_strictly_(DataParallel(nn.Linear(1, 1)), {}, "w.pt")


@pytest.mark.usefixtures("_processes")
@pytest.mark.parametrize("unused", [True, False])
def test_a_distributed_copy_keeps_its_settings_and_its_group(unused):
    settings = {
        "find_unused_parameters": unused,
        "gradient_as_bucket_view": True,
        "bucket_cap_mb": 3,
        "static_graph": not unused,  # which finds them itself
    }
    groups = {"default": None, "own": distributed.new_group([0])}
    for group in groups.values():
        wrapped = DistributedDataParallel(CASES["mlp"].make(), process_group=group, **settings)
        synced = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in vars(wrapped))
        setattr(wrapped, synced, False)
        again = params.rewrapped(wrapped, CASES["mlp"].make())
        assert again.process_group is wrapped.process_group
        for name in ("find_unused_parameters", "gradient_as_bucket_view", "static_graph"):
            assert getattr(again, name) is getattr(wrapped, name) is settings[name]
        assert vars(again)[synced] is False
        assert again.bucket_bytes_cap == wrapped.bucket_bytes_cap == 3 * 2**20
        assert (again.device_ids, again.output_device, again.dim) == (None, None, 0)


def test_a_distributed_network_whose_processes_are_gone_is_refused_early(tmp_path):
    code = (
        "import sys, torch\n"
        "from torch import distributed, nn\n"
        "from excise import errors, params\n"
        "distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}', rank=0, world_size=1)\n"
        "wrapped = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))\n"
        "distributed.destroy_process_group()\n"
        "for refuses in (params.require_parameters, lambda w: params.rewrapped(w, nn.Linear(1, 1))):\n"
        "    try:\n"
        "        refuses(wrapped)\n"
        "    except errors.UnsupportedModel as error:\n"
        "        print(error)\n"
        "assert params.unwrapped(wrapped) is wrapped.module\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "meeting")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"whose process group is gone.*pass the network inside \(model\.module\)", done.stdout)) == 2


def test_nothing_of_torchs_compiler_is_imported_to_look_for_a_wrapper():
    code = (
        "import sys; from torch import nn; from excise import params; params.unwrapped(nn.Linear(1, 1));"
        "print([name for name in sys.modules if name.startswith('torch._dynamo')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
