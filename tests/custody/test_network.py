"""Equal to the bit is sure, near is likely, of the same form is unknown; and what the released network says is nothing."""

import pytest
import torch

from excise import params
from excise.custody.network import Network, patch_reason
from excise.patch import Patch
from tests.custody.removal import moved, network, state

ORIGINAL = network()
RELEASED = moved(ORIGINAL, 1, 0.3)
OWN, AFTER = state(ORIGINAL), state(RELEASED)
DIGEST = params.digest(OWN)


@pytest.fixture(scope="module")
def known():
    return Network.of(OWN, AFTER, DIGEST)


def certainties(known, arrays):
    return {reason.certainty for reason in known.reasons(arrays)}


def test_the_original_is_known_under_any_wrapper_and_another_architecture_is_as_good_as_gone():
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        found = Network.of(state(ORIGINAL, prefix), AFTER)
        assert found.before.keys() == AFTER.keys() and params.digest(found.before) == DIGEST
    assert Network.of(state(network(width=16)), AFTER).before is None
    assert Network.of({}, AFTER).before is Network.of(None, AFTER).before is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("prefix", ["", "net.model."])
def test_of_two_sides_in_any_precision_the_original_is_sure_and_the_released_one_is_nothing(known, dtype, prefix):
    assert certainties(known, state(ORIGINAL, prefix, dtype)) == {"sure"}
    assert certainties(known, state(RELEASED, prefix, dtype)) == set()


def test_without_the_original_its_digest_tells_it_and_its_likeness_the_rest():
    gone = Network.of(None, AFTER, DIGEST)
    assert certainties(gone, OWN) == {"sure"}
    assert certainties(gone, state(ORIGINAL, dtype=torch.float16)) == {"likely"}
    assert certainties(gone, AFTER) == certainties(Network.of(None, AFTER), AFTER) == set()
    assert gone.needles == []


def test_one_number_of_the_original_is_no_longer_the_original_but_of_its_training(known):
    changed = {name: value.clone() for name, value in OWN.items()}
    for value in changed.values():
        if value.is_floating_point():
            value.view(-1)[0] += 1e-3
    (reason,) = known.reasons(changed)
    assert reason.certainty == "likely" and "another epoch, an average" in reason.what


def test_the_cosine_is_that_of_centred_weights():
    """Against the closed form: w + t n with n orthogonal to w, both centred, has cosine 1 / sqrt(1 + t^2)."""
    draws = torch.Generator().manual_seed(0)
    weight, noise = torch.randn(2, 30, 20, generator=draws, dtype=torch.float64).sub(0).unbind()
    weight -= weight.mean()
    noise -= noise.mean()
    noise -= weight * (noise * weight).sum() / (weight * weight).sum()
    noise *= weight.norm() / noise.norm()
    known = Network.of({"w": weight, "v": torch.ones(3)}, {"w": weight - 1, "v": torch.ones(3)})
    for far, certainty in ((1.0, "likely"), (1.7, "likely"), (1.8, "unknown"), (9.0, "unknown")):
        (reason,) = known.reasons({"w": weight + far * noise + 5})
        assert reason.certainty == certainty and f"cosine {(1 + far**2) ** -0.5:.2f}" in reason.why


def test_a_tenth_of_the_numbers_in_common_is_no_accident():
    """Weights that point elsewhere altogether, but for numbers that nobody draws twice."""
    draws = torch.Generator().manual_seed(0)
    before, other = torch.randn(2, 20, 50, generator=draws).unbind()
    other = 10 * other
    for count, certainty in ((100, "likely"), (99, "unknown")):
        made = other.clone()
        made.view(-1)[:count] = before.view(-1)[:count]
        known = Network.of({"w": before.clone().index_fill(0, torch.tensor([19]), 5.0)}, {"w": before})
        (reason,) = known.reasons({"w": made})
        assert reason.certainty == certainty


def test_other_trainings_are_unknown_and_other_architectures_nothing(known):
    (reason,) = known.reasons(state(network(5)))
    assert reason.certainty == "unknown" and "on which rows cannot be told" in reason.why
    assert certainties(known, state(network(5, width=16))) == set()
    assert certainties(known, {"0.weight": network(5)[0].weight.detach()}) == set()


def test_zeros_and_ones_are_nobodys():
    before, after = {"w": torch.zeros(4, 3)}, {"w": torch.full((4, 3), 2.0)}
    assert certainties(Network.of(before, after), {"x": torch.zeros(4, 3)}) == set()
    varied = torch.arange(12.0).reshape(4, 3)
    assert certainties(Network.of({"w": varied}, after), {"x": varied.clone()}) == {"sure"}


def test_flat_and_transposed_weights_are_found_in_any_order_of_names(known):
    for names in (list(OWN), list(OWN)[::-1]):
        floats = [OWN[name].reshape(-1) for name in names if OWN[name].is_floating_point()]
        assert certainties(known, {"flat": torch.cat(floats)}) == {"sure"}
        assert certainties(known, {"flat": torch.cat(floats) + 1e-3}) == set()
    released = [value.reshape(-1) for value in AFTER.values() if value.is_floating_point()]
    assert certainties(known, {"flat": torch.cat(released)}) == set()
    assert certainties(known, {"x": OWN["0.weight"].T}) == {"sure"}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_difference_that_gives_the_original_back_is_sure(known, sign, dtype):
    (reason,) = known.reasons({"d.3.weight": (sign * (OWN["3.weight"] - AFTER["3.weight"])).to(dtype)})
    assert reason.certainty == "sure" and "difference" in reason.what
    assert certainties(known, {"d.3.weight": 2 * (OWN["3.weight"] - AFTER["3.weight"])}) == set()


def test_moments_need_the_shape_of_a_weight(known):
    moment = torch.rand(32, 8)
    assert certainties(known, {"state.0.exp_avg": moment}) == {"likely"}
    assert certainties(known, {"state.0.exp_avg": moment[:, :7]}) == set()
    assert certainties(known, {"state.0.weights": moment}) == set()


def test_narrow_pairs_must_make_a_weight(known):
    wide, tall = torch.rand(2, 8), torch.rand(32, 2)
    assert certainties(known, {"0.lora_A.weight": wide, "0.lora_B.weight": tall}) == {"likely"}
    assert certainties(known, {"0.lora_down.weight": wide, "0.lora_up.weight": tall}) == {"likely"}
    assert certainties(known, {"0.lora_A.weight": wide, "0.lora_B.weight": torch.rand(31, 2)}) == set()
    assert certainties(known, {"0.lora_A.weight": wide, "0.lora_B.weight": torch.rand(32, 3)}) == set()
    assert certainties(known, {"0.lora_A.weight": wide}) == set()
    assert certainties(known, {"0.first": wide, "0.second": tall}) == set()


def test_all_shapes_under_other_names_are_likely_and_some_are_not(known):
    shapes = {f"x{place}": torch.rand(value.shape) for place, value in enumerate(OWN.values())}
    assert certainties(known, shapes) == {"likely"}
    del shapes["x0"]
    assert certainties(known, shapes) == set()


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_small_numbers_under_the_networks_names_are_quantised_weights(known, dtype):
    small = (OWN["0.weight"] * 20).to(dtype)
    assert certainties(known, {"q.0.weight": small}) == {"likely"}
    assert certainties(known, {"q.0.weight": small[:5]}) == certainties(known, {"mask": small}) == set()
    assert certainties(known, {"0.weight": OWN["0.weight"] > 0}) == set()  # a mask


def test_the_runs_of_bytes_are_the_originals_in_every_precision_and_not_the_released_ones(known):
    sides = {}
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        for name, value in (("before", OWN), ("after", AFTER)):
            sides[name, dtype] = b"".join(bytes(params.raw_bytes(one)) for one in state_cast(value, dtype))
        held = [needle for needle in known.needles if needle in sides["before", dtype]]
        assert held and not any(needle in sides["after", dtype] for needle in held)


def test_a_run_of_bytes_is_taken_where_the_two_sides_differ():
    before = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[7, 3] += 1
    assert bytes(params.raw_bytes(before[7])) in Network.of({"w": before}, {"w": after}).needles
    assert Network.of({"w": before}, {"w": before.clone()}).needles == []


def state_cast(value, dtype):
    return [one.to(dtype) for one in value.values() if one.is_floating_point()]


def reason_of(patch, known):
    arrays = {f"place/{name}": value for name, value in patch.places.items()}
    arrays |= {f"value/{name}": value for name, value in patch.after.items()}
    return patch_reason(arrays, patch.base_digest, known)


def test_a_patch_tells_more_than_the_released_network_unless_it_is_its_own(known):
    assert reason_of(Patch.between(ORIGINAL, RELEASED), known) is None
    assert "changes the released network" in reason_of(Patch.between(RELEASED, ORIGINAL), known).what
    assert reason_of(Patch.between(ORIGINAL, moved(ORIGINAL, 6, 0.2)), known).what == "a patch of another removal"
