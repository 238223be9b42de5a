"""`Network`: the two sides of a removal, and what an array of another file has of the side that saw the rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from excise import params
from excise.custody.finding import Reason

ALIKE = 0.5
"""Cosine of two sets of weights above which one training made both; of two trainings from seeds of their own it is near 0."""
MADE_FROM = 0.1
"""Share of numbers equal to the bit above which one network was made from the other, as by another removal under a mask."""
_CAST = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_MOMENTS = re.compile(
    r"(?:^|\.)(?:exp_avg|exp_avg_sq|max_exp_avg_sq|exp_inf|momentum_buffer|square_avg|grad_avg|acc_delta|sum|mu|nu|prev)(?:$|\.)"
)
_LOW_RANK = re.compile(r"(.*)lora_?(a|b|down|up)(.*)", re.IGNORECASE)
_NEEDLE = 16
"""Numbers in a run of bytes that is looked for in files that cannot be read."""


@dataclass(frozen=True, eq=False)
class Network:
    """The weights before and after a removal.

    Attributes:
        before: the original's state dict; None where it is gone by now.
        after: the released network's, under the same names.
        before_digest: `params.digest` of the original's, as the run recorded it; empty where it did not.
    """

    before: Mapping[str, Tensor] | None
    after: Mapping[str, Tensor]
    before_digest: str = ""

    @classmethod
    def of(cls, original: Mapping[str, Tensor] | None, after: Mapping[str, Tensor], before_digest: str = "") -> Network:
        """Bring both under the released network's names; an original of another architecture is as good as gone."""
        state = original
        while state and state.keys() != after.keys():
            prefix = next((one for one in params.WRAPPERS if all(name.startswith(one) for name in state)), None)
            if prefix is None:
                break
            state = {name.removeprefix(prefix): value for name, value in state.items()}
        fits = state and {n: v.shape for n, v in state.items()} == {n: v.shape for n, v in after.items()}
        return cls(dict(state) if state and fits else None, dict(after), before_digest)

    @cached_property
    def _known(self) -> Mapping[str, Tensor]:
        """The original's tensors of floating point numbers; the released network's where the original is gone."""
        return {name: value for name, value in (self.before or self.after).items() if value.is_floating_point()}

    @cached_property
    def matrices(self) -> Mapping[str, Tensor]:
        """The weights proper: with two dimensions or more."""
        return {name: value for name, value in self._known.items() if value.ndim >= 2} or self._known

    @cached_property
    def needles(self) -> list[bytes]:
        """Runs of bytes that are in the original and not in the released network, for files that cannot be read."""
        found = []
        for name in sorted(self.matrices, key=lambda one: -self._known[one].numel())[:4]:
            if self.before is None:
                break
            flat, released = (side[name].detach().reshape(-1) for side in (self.before, self.after))
            for kind in _CAST:
                runs, others = (
                    (side.to(kind)[: len(side) // _NEEDLE * _NEEDLE]).view(-1, _NEEDLE) for side in (flat, released)
                )
                changed = ((runs != others).any(1) & (runs != runs[:, :1]).any(1)).nonzero().flatten()
                if len(changed):
                    found.append(bytes(params.raw_bytes(runs[changed[0]])))
        return found

    def reasons(self, arrays: Mapping[str, Tensor]) -> Iterator[Reason]:
        """Say what in a file's arrays is of the original, of its training, or made from it; nothing of the released network."""
        if self._is_original(arrays):
            yield Reason(what="the original network", why="its names, shapes and values, all of them", certainty="sure")
            return
        floats = {name: value for name, value in arrays.items() if value.dtype in _CAST and value.numel()}
        released = {name for name, value in floats.items() if self._in(self.after, value)}
        held = {name for name, value in floats.items() if name not in released and self._in(self.before, value)}
        if held:
            kinds = ", ".join(sorted({str(floats[name].dtype).removeprefix("torch.") for name in held}))
            told = f"{len(held)} of its {len(arrays)} arrays are the original's ({kinds}) to the bit, not the released ones"
            yield Reason(what="weights of the original network", why=told, certainty="sure")
        left = {name: value for name, value in floats.items() if name not in released | held}
        yield from self._differences(left)
        yield from self._states(left, whole=bool(held))
        yield from self._moments(left)
        yield from self._low_rank(left)
        yield from self._integers(arrays)

    def _is_original(self, arrays: Mapping[str, Tensor]) -> bool:
        return bool(self.before_digest) and params.digest(arrays) == self.before_digest != params.digest(self.after)

    @staticmethod
    def _in(state: Mapping[str, Tensor] | None, value: Tensor) -> bool:
        """Say whether an array, in its own precision, is one of a state's, as it is, transposed, or all of them in a row."""
        if state is None:
            return False
        for one in state.values():
            if one.is_floating_point() and one.numel() == value.numel() > 1 and not _constant(value):
                own = one.to(value.dtype)
                turned = own.T if own.ndim == 2 else own
                if any(torch.equal(form.reshape(-1), value.reshape(-1)) for form in (own, turned)):
                    return True
        return value.ndim == 1 and _in_a_row(state, value)

    def _differences(self, left: dict[str, Tensor]) -> Iterator[Reason]:
        if self.before is None:
            return
        sides = {name: (self.before[name].double() - self.after[name].double()) for name in self._known}
        found = [
            name
            for name, value in left.items()
            for own, change in sides.items()
            if change.shape == value.shape and _named(name, own) and change.any() and _close(value, change)
        ]
        if found:
            yield Reason(
                what="the difference between the original network and the released one",
                why=f"{len(found)} arrays that, added to the released network, give the original back",
                certainty="sure",
            )
            for name in found:
                del left[name]

    def _states(self, left: Mapping[str, Tensor], *, whole: bool) -> Iterator[Reason]:
        """Other weights under the network's names: other epochs, averages, other trainings."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in left.items():
            for own, known in self.matrices.items():
                if known.shape == value.shape and _named(name, own):
                    groups.setdefault(name.removesuffix(own), {})[own] = value
        for prefix, group in groups.items():
            if _MOMENTS.search(f"{prefix}."):
                continue
            cosine, equal = _cosine(group, self.matrices), _equal_share(group, self.after)
            everything, where = group.keys() == self.matrices.keys(), f" under {prefix!r}" if prefix else ""
            if cosine >= ALIKE or equal >= MADE_FROM:
                whose = "weights of the same training: another epoch, an average"
                told = f"{len(group)} arrays with the network's names and shapes{where}, {equal:.0%} of their numbers the same"
                yield Reason(
                    what=whose if everything else "part of the weights of another epoch, or of an average",
                    why=f"{told} as in the released one, cosine {cosine:.2f}",
                    certainty="likely",
                )
            elif everything and not whole:
                yield Reason(
                    what="another training of the same architecture",
                    why=f"its names and shapes{where}, other values (cosine {cosine:.2f}); on which rows cannot be told",
                    certainty="unknown",
                )

    def _moments(self, left: Mapping[str, Tensor]) -> Iterator[Reason]:
        shapes = {value.shape for value in self.matrices.values()}
        named = [name for name, value in left.items() if _MOMENTS.search(name) and value.shape in shapes]
        if named:
            yield Reason(
                what="the state of an optimizer",
                why=f"{len(named)} running means of gradients, of the shapes of the network's weights",
                certainty="likely",
            )
            return
        wanted = Counter(value.shape for value in self.matrices.values())
        strangers = [name for name in left if not any(_named(name, own) for own in self.matrices)]
        there = Counter(left[name].shape for name in strangers)
        if wanted.total() > 1 and wanted <= there:
            yield Reason(
                what="arrays of the shapes of all the network's weights",
                why="under other names: an average, gradients, importance, or the weights renamed",
                certainty="likely",
            )

    def _low_rank(self, left: Mapping[str, Tensor]) -> Iterator[Reason]:
        shapes = {tuple(value.shape) for value in self.matrices.values() if value.ndim == 2}
        halves: dict[str, dict[bool, Tensor]] = {}
        for name, value in left.items():
            match = _LOW_RANK.fullmatch(name)
            if match and value.ndim == 2:
                halves.setdefault(match[1], {})[match[2].lower() in ("a", "down")] = value
        fitting = [
            place
            for place, pair in halves.items()
            if len(pair) == 2 and pair[False].shape[1] == pair[True].shape[0]
            if (pair[False].shape[0], pair[True].shape[1]) in shapes
        ]
        if fitting:
            told = f"{len(fitting)} pairs of narrow matrices whose product has the shape of the network's weights"
            yield Reason(what="an adapter trained on the network", why=told, certainty="likely")

    def _integers(self, arrays: Mapping[str, Tensor]) -> Iterator[Reason]:
        small = {n: v for n, v in arrays.items() if v.dtype not in (*_CAST, torch.bool, torch.int64)}
        found = [
            n
            for n, v in small.items()
            for own, known in self.matrices.items()
            if v.shape == known.shape and _named(n, own)
        ]
        if found:
            told = f"{len(found)} arrays of {small[found[0]].dtype} with the network's names and shapes"
            yield Reason(what="quantised weights", why=told.replace("torch.", ""), certainty="likely")


def _constant(value: Tensor) -> bool:
    """All zeros, or all ones, are nobody's."""
    return bool((value == value.reshape(-1)[0]).all())


def _named(name: str, own: str) -> bool:
    return name == own or name.endswith(f".{own}")


def _in_a_row(state: Mapping[str, Tensor], value: Tensor) -> bool:
    """Say whether a flat array is a state's floating point numbers, or its parameters alone, in whatever order of names."""
    floats = {name: one for name, one in state.items() if one.is_floating_point()}
    trained = {name: one for name, one in floats.items() if "running_" not in name}
    for some in (floats, trained):
        if len(some) > 1 and sum(one.numel() for one in some.values()) == value.numel():
            whole = torch.cat([one.to(value.dtype).reshape(-1) for one in some.values()])
            if torch.equal(whole.sort().values, value.sort().values):
                return True
    return False


def _close(value: Tensor, change: Tensor) -> bool:
    scale = float(change.abs().max())
    limit = scale * (1e-2 if value.dtype in (torch.float16, torch.bfloat16) else 1e-4)
    return any(bool(((sign * value.double()) - change).abs().max() <= limit) for sign in (1, -1))


def _equal_share(group: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> float:
    """Give the share of numbers that are the same, in the precision of the group, those that are zero left out."""
    same = sum(int(((value == known[name].to(value.dtype)) & (value != 0)).sum()) for name, value in group.items())
    return same / max(1, sum(value.numel() for value in group.values()))


def _cosine(group: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> float:
    """Give the cosine between weights, each tensor's mean taken out."""
    product, norms = 0.0, [0.0, 0.0]
    for name, value in group.items():
        sides = [side.double() - side.double().mean() for side in (value, known[name])]
        product += float((sides[0] * sides[1]).sum())
        norms = [norm + float((side * side).sum()) for norm, side in zip(norms, sides, strict=True)]
    length = (norms[0] * norms[1]) ** 0.5
    return product / length if length > 0 else 0.0


def patch_reason(arrays: Mapping[str, Tensor], base_digest: str, known: Network) -> Reason | None:
    """Say what a patch of excise's gives to who holds the released network; None if no more than that network itself."""
    if base_digest == params.digest(known.after):
        return Reason(
            what="a patch that changes the released network",
            why="made for these very weights: if it undoes the removal, it holds what was forgotten",
            certainty="likely",
        )
    places = {name.removeprefix("place/"): value for name, value in arrays.items() if name.startswith("place/")}
    after = {name.removeprefix("value/"): value for name, value in arrays.items() if name.startswith("value/")}
    same = places.keys() == after.keys() <= known.after.keys() and all(
        torch.equal(known.after[name].reshape(-1)[place], after[name]) for name, place in places.items()
    )
    if same:
        return None
    return Reason(
        what="a patch of another removal", why="its values are not the released network's", certainty="likely"
    )
