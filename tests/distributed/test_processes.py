import pytest
import torch

from excise import errors
from excise.distributed import Processes
from excise.distributed import processes as module
from tests.distributed import requests
from tests.distributed.ranks import together

NAMES = {2: tuple(requests.asked()), 4: ("DEL", "SalUn", "SCRUB", "Margin")}


def require_equal(found, truth, *, exactly=False):
    """Refuse results that differ between processes in a bit, or from one process's by more than its rounding."""
    for name, expected in truth.items():
        for own in found:
            assert own[name]["facts"] == expected["facts"], name
            assert own[name]["rows"] == expected["rows"], name
            assert own[name]["losses"] == pytest.approx(expected["losses"], abs=1e-12), name
            for key, value in expected["state"].items():
                assert torch.equal(own[name]["state"][key], found[0][name]["state"][key]), (name, key)
                # Adam's first steps divide gradients that are rounding alone by their own size (SCRUB's begin at 0)
                bound = 0 if exactly else 1e-8 if name in ("SCRUB", "BadTeacher") else 1e-12
                torch.testing.assert_close(own[name]["state"][key], value, atol=bound, rtol=0)


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_come_to_what_one_does(size, tmp_path):
    found = together(size, requests.everything, NAMES[size], str(tmp_path / "checkpoints"))
    require_equal([own["unlearned"] for own in found], requests.all_of_them(requests.ALONE, NAMES[size]))
    require_equal([own["of chosen rows"] for own in found], requests.of_chosen_rows(requests.ALONE))
    require_equal([own["of forget alone"] for own in found], requests.of_forget_alone(requests.ALONE))
    for rank, own in enumerate(found):
        assert own["verbs"] == {
            "holes": [[[size * (size - 1) / 2] * 3] * 2, [1.0] * 3, None],
            "total": (size * (size + 1), 2 * size * (size + 1) * (rank + 1) * size),
            "mean gradient": 2
            * size
            * (size + 1)
            * size
            * (size + 1)
            / 2,  # d/dx (x s)^2 = 2 x s^2, s = 1 + ... + size
            "largest": (size - 1, True, False),
            "copied": [[0.0] * 3] * 2,
            "gathered": [[other] for other in range(size)],
        }
        for of_layers in own["normalised"]:
            assert max(of_layers.values()) < 1e-12, of_layers
        assert own["resumed"]["stopped"] == ""
        require_equal([own["resumed"]], {"went on": own["resumed"]["whole"]}, exactly=True)
        notes = [] if rank else ["'1' draws random numbers", "goes on from its checkpoint after 0 epochs and 5 steps"]
        assert all(one in " ".join(own["resumed"]["notes"]) for one in notes)
        told = own["refusals"]
        last = f"rank {size - 1}"
        assert told["weights"].startswith(f"{last} has other weights than rank 0; give every process the same request")
        assert "rank 1 has other ids of rows and other content of rows than" in told["ids"]
        assert "rank 1 has other content of rows than" in told["content"]
        assert all("rank 1 has other recipe, mask or seed than" in told[name] for name in ("recipe", "mask", "seed"))
        assert (
            "rank 1 has other value of the objective of Averages than rank 0; take means over rows by step.mean"
            in (told["objective"])
        )
        assert (
            "rank 1 has other weights at the end than rank 0; what is not shared must come to the same bits"
            in (told["function"])
        )


@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_shares_are_a_division_of_the_rows(size, count):
    shares = [Processes(rank, size).share(torch.arange(count)) for rank in range(size)]
    assert torch.cat(shares).tolist() == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_one_process_sends_nothing():
    alone, value = Processes.alone(), torch.tensor([1.0, 2.0], requires_grad=True)
    assert (alone.is_first, alone.several, alone.sharded) == (True, False, False)
    assert alone.share(value) is not None
    assert alone.total(value) is value
    assert alone.summed([value, None], [value, value]) == [value, None]
    assert alone.gathered(value).tolist() == [[1.0, 2.0]]
    assert (alone.largest(3.5), alone.anywhere(fact=False)) == (3.5, False)
    alone.copy_from_first_([value])
    alone.require_same({"weights": "a"}, "", errors.Refused)
    alone.barrier()


def test_buckets_hold_one_kind_and_so_many_bytes(monkeypatch):
    monkeypatch.setattr(module, "BUCKET_BYTES", 40)
    sizes = [(2, torch.float64), (4, torch.float32), (3, torch.float64), (9, torch.float64), (1, torch.float64)]
    found = list(module._buckets([torch.zeros(count, dtype=dtype) for count, dtype in sizes]))
    assert sorted(found) == [[0, 2], [1], [3], [4]]


def test_what_is_no_process_is_refused():
    with pytest.raises(errors.BadRequest, match="strategy: expected ddp or fsdp, found 'dp'"):
        Processes(0, 1, "dp")
    with pytest.raises(errors.BadRequest, match="rank: expected 0 to 1, found 2"):
        Processes(2, 2)
    with pytest.raises(errors.BadRequest, match="expected the processes of a group, found no group"):
        Processes.joined()
