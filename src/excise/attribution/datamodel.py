"""`Datamodel`: what each training row adds to a network's outputs, so that the outputs without any of them can be predicted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from excise import errors, params, store
from excise.attribution.origin import Made, Shrink, network_digest, row_digests
from excise.attribution.parts import TRAIN, Part, chunks, places_of, products
from excise.data.rows import Rows

KIND = "excise-datamodel-1"
_REMEDY = "make one with `excise datamodel`"
Precision = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Datamodel:
    """A linear model of a network's logits as a function of which training rows it was trained on. Immutable.

    With 1_S the inclusion of the training rows, E[z_c(x; S)] = base_{x,c} + sum over i of (1_S(i) - 1/2) beta_{i,x,c}. The
    coefficients are kept as two factors, beta_{i,x,c} = sum over k of weights[i, k] factors[x, k, c]. For a difference in
    means k counts networks: the tensor `[train, rows, classes]`, 60 GB on CIFAR-10, never exists. Attributions of another
    origin fit the same form: a projected gradient method has features of training rows and of targets; a dense or sparse
    tensor has the identity for weights.

    Networks on halves HAVE seen the rows whose effects are kept here, and `factors` are their outputs: this value, and a file
    of it, is a copy of what was learnt from every row, see `without`.

    References:
        Ilyas et al., "Datamodels: Predicting Predictions from Training Data", ICML 2022, https://arxiv.org/abs/2202.00622;
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", 2024,
        https://arxiv.org/abs/2410.23232.

    Attributes:
        weights: `[train, factors]`, of the rows of the part `train`.
        parts: what is known of the outputs, by name of the part; `train` is one of them.
        made: how it came to be.
        shrink: what estimated effects are multiplied by.

    Raises:
        errors.BadRequest: parts that do not go together.
    """

    weights: Tensor
    parts: Mapping[str, Part]
    made: Made
    shrink: Shrink = field(default_factory=Shrink)

    def __post_init__(self) -> None:
        """Check that factors and parts are of one form; `train` is the first part."""
        ordered = sorted(self.parts, key=lambda name: (name != TRAIN, name))
        object.__setattr__(self, "parts", {name: self.parts[name] for name in ordered})
        if (
            TRAIN not in self.parts
            or self.train.ndim == 0
            or self.weights.ndim != 2
            or len(self.weights) != len(self.train)
        ):
            raise errors.BadRequest(
                f"datamodel: expected weights [train, factors] for each row of the part 'train', found "
                f"{list(self.weights.shape)} and parts {', '.join(self.parts) or 'none'}"
            )
        for name, part in self.parts.items():
            _require_form(name, part)
            wanted = (len(part.ids), self.weights.shape[1], self.num_classes)
            ascending = part.ids.dtype == torch.int64 and bool((part.ids.diff() > 0).all())
            if tuple(part.factors.shape) != wanted or tuple(part.base.shape) != wanted[::2] or not ascending:
                raise errors.BadRequest(
                    f"datamodel: expected factors {list(wanted)} and a base {list(wanted[::2])} for ascending int64 ids of the "
                    f"part {name!r}, found {list(part.factors.shape)} and {list(part.base.shape)}"
                )

    @property
    def train(self) -> Tensor:
        """Ids of the training rows whose effects are known, ascending."""
        return self.parts[TRAIN].ids

    @property
    def num_classes(self) -> int:
        """Width of the head."""
        return int(self.parts[TRAIN].base.shape[-1])

    def part(self, name: str) -> Part:
        """Give what is known of a part's rows.

        Raises:
            errors.BadRequest: no such part.
        """
        if name not in self.parts:
            raise errors.BadRequest(
                f"part: this datamodel knows outputs on {', '.join(map(repr, self.parts))}, found {name!r}; have those rows "
                "observed when it is estimated"
            )
        return self.parts[name]

    def effects(self, forget: Tensor, rows: Tensor, *, part: str = TRAIN) -> Tensor:
        """Give what the forget rows add to the logits of some rows: logits with them minus logits without them.

        Additive over disjoint forget sets, and linear: the same whatever the order in which rows are named. Cost:
        factors * (forget + rows * classes) multiplications.

        Args:
            forget: ids of training rows, each once.
            rows: ids of rows of the part, in any order, repeated or not.
            part: where those rows are.

        Returns:
            float64 `[rows, classes]`, the sum over forget rows i of beta_{i,x,c}.

        Raises:
            errors.BadRequest: ids that are not known here, repeated forget ids, or no such part.
        """
        known, gone = self.part(part), self._forget_places(forget)
        places = known.places("rows", rows)
        total = self.weights[gone].double().sum(0)
        found = products(total.expand(len(places), -1), known.factors, places) * self.shrink.other
        if part == TRAIN and self.shrink.own != self.shrink.other:
            own = torch.isin(places, gone).nonzero().flatten()
            further = self.shrink.own - self.shrink.other
            found[own] += further * products(self.weights[places[own]], known.factors, places[own])
        return found

    def standard_errors(self, forget: Tensor, rows: Tensor, *, part: str = TRAIN) -> Tensor:
        """Give the standard error of each effect, before it is shrunk, from the spread of the networks.

        The pooled standard error of the two-sample t-test for one forget row; for several that of their summed contrast,
        with `num_models` - 2 degrees of freedom. It covers chance in halves and in training, and no departure from linearity.

        Args:
            forget: as in `effects`.
            rows: as in `effects`.
            part: as in `effects`.

        Returns:
            float64 `[rows, classes]`, in logits.

        Raises:
            errors.BadRequest: as `effects`; or the datamodel is no difference in means, whose factors are not networks.
        """
        if self.made.by != "means":
            raise errors.BadRequest(
                f"standard_errors: expected a difference in means, found a datamodel made by {self.made.by!r}, whose effects "
                "have no closed error; estimate by='means' for errors"
            )
        known, gone = self.part(part), self._forget_places(forget)
        places = known.places("rows", rows)
        total = self.weights[gone].double().sum(0)
        length = float(total.square().sum())
        found = torch.zeros(len(places), self.num_classes, dtype=torch.float64)
        for chunk in chunks(places, known.factors):
            away = known.factors[places[chunk]].double()
            explained = torch.einsum("k,rkc->rc", total, away).square() / max(length, 1e-300)
            left = (away.square().sum(1) - explained).clamp(min=0) / max(self.weights.shape[1] - 2, 1)
            found[chunk] = (left * length).sqrt()
        return found

    def matrix(self, rows: Tensor, *, part: str = TRAIN) -> Tensor:
        """Give the effect of every training row on the margins ln(p / (1 - p)) of some rows' labels.

        All rows at once take `rows * train` numbers: ask for a block of rows at a time where that is much.

        Args:
            rows: ids of rows of the part.
            part: where those rows are.

        Returns:
            float64 `[rows, train]`.

        Raises:
            errors.BadRequest: ids that are not known here, no such part, or one without labels.
        """
        known = self.part(part)
        places = known.places("rows", rows)
        found = self.margin_factors(part)[places].double() @ self.weights.double().T
        if part == TRAIN:
            each = torch.arange(len(places))
            own = found[each, places] * self.shrink.own
            found *= self.shrink.other
            found[each, places] = own
            return found
        return found * self.shrink.other

    def margin_factors(self, part: str = TRAIN) -> Tensor:
        """Give the factors of the margins of a part's rows, `[rows, factors]`.

        Raises:
            errors.BadRequest: no such part, or its labels are no classes.
        """
        found = self.part(part).margins
        if found is None:
            raise errors.BadRequest(
                f"margins: the rows of {part!r} have no class labels here, so that there is no margin; use effects on logits"
            )
        return found

    def without(self, ids: Tensor) -> Datamodel:
        """Give the datamodel without some training rows: neither their effects nor the outputs on them can be asked for.

        For the next request, once rows are forgotten. What is kept of other rows is still outputs of networks that were
        trained on the rows: it tells of them what such outputs tell. Where that may not be, estimate another one.

        Raises:
            errors.BadRequest: ids that are not known here, or all of them.
        """
        gone = self._forget_places(ids)
        kept = torch.ones(len(self.train), dtype=torch.bool).index_fill_(0, gone, value=False).nonzero().flatten()
        if len(kept) == 0:
            raise errors.BadRequest(
                "without: expected rows that stay, found that all of them go; remove the file instead"
            )
        parts = {**self.parts, TRAIN: self.parts[TRAIN].taken(kept)}
        return replace(self, weights=self.weights[kept], parts=parts)

    def require_rows(self, rows: Rows, part: str = TRAIN) -> None:
        """Refuse rows that are not those it was made from: other ids, or another content under an id. Reads every row once.

        Raises:
            errors.BadRequest: they are not, or no such part.
        """
        known = self.part(part)
        places = known.places(part, rows.ids)
        if known.content is None or not bool(known.content.any()):
            return
        differ = int((known.content[places] != row_digests(rows)).sum())
        if differ:
            raise errors.BadRequest(
                f"datamodel: {differ} of {len(rows)} rows of {part!r} have another content than those it was made from; give "
                "the very rows, or estimate a datamodel from these"
            )

    def require_network(self, model: nn.Module) -> None:
        """Refuse a network of another architecture than those it was made from, by names and shapes of parameters.

        Raises:
            errors.BadRequest: it is.
        """
        if self.made.network and network_digest(model) != self.made.network:
            raise errors.BadRequest(
                f"datamodel: expected a network with parameters of the names and shapes that it was made from, found another "
                f"{type(params.unwrapped(model)).__name__}; estimate a datamodel for this one"
            )

    def save(self, path: str | Path, *, precision: Precision = "float32") -> float:
        """Write it as one safetensors file, sealed against accidents.

        Args:
            path: to write; whole or not at all.
            precision: of the factors. `float16` is half as large.

        Returns:
            The largest absolute error of a factor so written, in logits; 0 where nothing was rounded. A single effect of a
            difference in means then errs by at most twice as much.

        Raises:
            errors.BadRequest: no such precision, or a factor beyond its range.
            errors.DiskError: it could not be written.
        """
        kinds = {"float32": torch.float32, "float16": torch.float16}
        if precision not in kinds:
            raise errors.BadRequest(f"precision: expected one of {', '.join(kinds)}, found {precision!r}")
        tensors, told, error = {}, self._told(), 0.0
        for name, value in self._tensors().items():
            part, _, what = name.rpartition(".")
            rounded = value.to(kinds[precision]) if what in ("factors", "margins") else value
            if rounded.is_floating_point() and not bool(rounded.isfinite().all()):
                raise errors.BadRequest(f"precision: {what} of {part!r} are beyond {precision}; save as float32")
            if rounded is not value and value.numel():
                error = max(error, float((rounded.double() - value.double()).abs().max()))
            tensors[name] = rounded.contiguous()
        store.write_tensors(Path(path), tensors, {**told, "seal": _seal(tensors, told)})
        return error

    @classmethod
    def load(cls, path: str | Path) -> Datamodel:
        """Read one back.

        Raises:
            errors.BadData: no such file, or not a datamodel's.
            errors.Corrupt: it is not what was written there.
        """
        place = Path(path)
        tensors, told = store.read_tensors(place, "a datamodel", _REMEDY)
        store.require_form(place, told, KIND, _REMEDY)
        seal = told.pop("seal", "")
        if seal != _seal(tensors, told):
            raise errors.Corrupt(
                f"{place} is not the datamodel that was written there; take it from a backup, or make it again"
            )
        try:
            made = msgspec.json.decode(told["made"], type=Made)
            shrink = msgspec.json.decode(told["shrink"], type=Shrink)
            found: dict[str, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                where, _, what = name.rpartition(".")
                if where:
                    found.setdefault(where, {})[what] = value
            parts = {name: Part(**values) for name, values in found.items()}
            return cls(weights=tensors["weights"], parts=parts, made=made, shrink=shrink)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.BadData(f"{place}: the datamodel's header and its content disagree ({error})") from error

    @classmethod
    def of(cls, given: Datamodel | str | Path) -> Datamodel:
        """Give a datamodel, or the one that a file holds."""
        return given if isinstance(given, Datamodel) else cls.load(given)

    @property
    def digest(self) -> str:
        """SHA-256 over all of it."""
        return _seal(self._tensors(), self._told())

    def _tensors(self) -> dict[str, Tensor]:
        own = {
            f"{name}.{what}": value
            for name, part in self.parts.items()
            for what, value in vars(part).items()
            if value is not None
        }
        return {"weights": self.weights, **own}

    def _told(self) -> dict[str, str]:
        """Give what a file says of it in its header."""
        origin, shrink = (msgspec.json.encode(one).decode() for one in (self.made, self.shrink))
        return {"kind": KIND, "made": origin, "shrink": shrink}

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {len(part.ids)}" for name, part in self.parts.items())
        return f"Datamodel({self.made.by} of {self.made.num_models} networks; {parts}; {self.num_classes} classes)"

    def _forget_places(self, forget: Tensor) -> Tensor:
        """Give the places of forget rows, ascending, so that a sum over them has one order."""
        places = places_of("forget", forget, self.train).sort().values
        if len(places.unique()) < len(places):  # type: ignore[no-untyped-call]
            raise errors.BadRequest(
                f"forget: {len(places) - len(places.unique())} ids that were given before; "  # type: ignore[no-untyped-call]
                "give each row once"
            )
        return places


def _require_form(name: str, part: Part) -> None:
    """Refuse a part whose numbers are not one a row where they should be."""
    rows = list(part.ids.shape)
    forms = {"ids": 1, "base": 2, "factors": 3, "margins": 2, "content": 1}
    for what, axes in forms.items():
        value = getattr(part, what)
        if value is not None and (value.ndim != axes or list(value.shape[:1]) != rows):
            raise errors.BadRequest(
                f"datamodel: expected {what} of the part {name!r} with {axes} axes, an entry for each of its ids {rows}, "
                f"found {list(value.shape)}"
            )
    if part.margins is not None and part.margins.shape[1] != part.factors.shape[1]:
        raise errors.BadRequest(
            f"datamodel: expected margins of the part {name!r} by {part.factors.shape[1]} factors, found "
            f"{part.margins.shape[1]}"
        )


def _seal(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    head = msgspec.json.encode(dict(told), order="deterministic")
    return hashlib.sha256(params.digest(tensors).encode() + head).hexdigest()
