"""`Task`: how a batch becomes logits and targets, and those become one loss an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from excise import errors, params
from excise.data.batches import Batch, batches
from excise.data.rows import Rows

Forward = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


def forward_pair(model: nn.Module, content: Any) -> tuple[Tensor, Tensor]:
    """Give logits and targets of a batch `(inputs, targets)`; floating inputs take the network's own precision.

    Raises:
        errors.BadData: examples of another shape.
    """
    if not (isinstance(content, tuple) and len(content) == 2):
        raise errors.BadData(
            f"expected batches (inputs, targets), found {type(content).__name__}; "
            "pass forward=, a callable (model, batch) -> logits, targets, for other shapes of example"
        )
    inputs, targets = content
    if isinstance(inputs, Tensor):
        inputs = in_precision(model, inputs)
    return model(inputs), as_targets(targets)


def floating_inputs(content: Any) -> Tensor:
    """Give the inputs of a batch `(inputs, anything)`, which can be moved a little; tokens cannot.

    Raises:
        errors.UnsupportedModel: a batch that is no pair, or whose first half is no tensor of floating-point numbers.
    """
    pair = isinstance(content, tuple | list) and len(content) == 2
    first = content[0] if pair else content
    if not (pair and isinstance(first, Tensor) and first.is_floating_point()):
        found = type(first).__name__ if not isinstance(first, Tensor) else f"a tensor of {first.dtype}"
        raise errors.UnsupportedModel(
            f"expected batches of two, the first of them the inputs as a tensor of floating-point numbers to move a little, "
            f"found {f'{found} for inputs' if pair else found}; have the data set give such inputs (images divided by 255, "
            "embeddings instead of tokens), or use a method that changes no inputs"
        )
    return first


def with_inputs(content: Any, inputs: Tensor, copies: int) -> Any:
    """Give a batch `(inputs, anything)` with other inputs, as many copies of the batch as there are inputs for."""

    def repeated(value: Any) -> Any:
        return (
            value.repeat(copies, *(1 for _ in value.shape[1:])) if isinstance(value, Tensor) and value.ndim else value
        )

    return inputs, content[1] if copies == 1 else tree_map(repeated, content[1])


def as_targets(targets: Any) -> Any:
    """Give targets as a loss takes them: class labels of any integer type as int64."""
    return targets.long() if isinstance(targets, Tensor) and not targets.is_floating_point() else targets


def in_precision(model: nn.Module, inputs: Tensor) -> Tensor:
    """Give inputs as the network takes them: floating ones in its own precision."""
    if not inputs.is_floating_point():
        return inputs
    kinds = (value.dtype for value in model.parameters() if value.is_floating_point())
    return inputs.to(next(kinds, torch.get_default_dtype()))


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the cross-entropy of each example, `[batch]`, from logits `[batch, classes]` and integer targets `[batch]`."""
    return functional.cross_entropy(logits, targets, reduction="none")


@dataclass(frozen=True)
class Task:
    """What the network is trained to do.

    Attributes:
        forward: `(model, batch) -> logits, targets`.
        loss: `(logits, targets) -> [batch]`, one value an example.
    """

    forward: Forward = forward_pair
    loss: Loss = cross_entropy

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Give one loss an example, `[batch]`."""
        return self.losses_of(*self.forward(model, batch.content), len(batch))

    def losses_of(self, logits: Tensor, targets: Tensor, num_examples: int) -> Tensor:
        """Give one loss an example, `[batch]`, of logits that are there already."""
        losses = self.loss(logits, targets)
        if losses.shape != (num_examples,):
            raise errors.BadRequest(
                f"loss: expected one value for each of {num_examples} examples, found shape {tuple(losses.shape)}; "
                'use reduction="none"'
            )
        return losses

    def require_fit(self, model: nn.Module, named_rows: dict[str, Rows], *, labelled: bool = True) -> None:
        """Refuse, before any work, a network and data that do not go together.

        One forward pass over at most 8 rows of each kind; and the labels of every row, where the data have labels and
        anybody reads them.

        Raises:
            errors.UnsupportedModel: no parameters, or logits that are not `[batch, classes]` or not finite.
            errors.BadData: labels outside the classes of the network's head, or examples the network cannot take.
        """
        params.require_parameters(model)
        with params.untouched(model), torch.enable_grad():
            model.eval()
            for name, rows in named_rows.items():
                logits = self._probe(model, name, rows)
                if labelled and self.forward is forward_pair:
                    _require_labels(name, rows, logits.shape[1])

    def _probe(self, model: nn.Module, name: str, rows: Rows) -> Tensor:
        batch = next(iter(batches(rows.head(8), 8, device_of(model))))
        try:
            logits, _ = self.forward(model, batch.content)
        except errors.ExciseError:
            raise
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            what = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise errors.BadData(
                f"{type(model).__name__} could not be run on {name} rows: {what}; "
                "check the shape and type of the inputs, or pass forward="
            ) from error
        if not isinstance(logits, Tensor) or logits.ndim < 2 or len(logits) != len(batch):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise errors.UnsupportedModel(
                f"expected logits of shape [batch, classes] for a batch of {len(batch)}, found {found}; "
                "pass forward=, a callable (model, batch) -> logits, targets"
            )
        if not logits.requires_grad:
            raise errors.UnsupportedModel(
                f"the logits of {type(model).__name__} on {name} rows have no gradient, so no step would change anything; "
                "check that forward= neither detaches nor runs under torch.no_grad()"
            )
        if not logits.isfinite().all():
            raise errors.UnsupportedModel(
                f"{type(model).__name__} gives logits that are not finite on {name} rows; "
                "check the weights and the scaling of the inputs"
            )
        return logits


def _require_labels(name: str, rows: Rows, num_classes: int) -> None:
    labels = rows.labels()
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        shown = ", ".join(str(place) for place in outside[:5].tolist())
        raise errors.BadData(
            f"{name}: {len(outside)} labels lie outside 0 to {num_classes - 1}, the classes of the network's head "
            f"(at position{'s' if len(outside) > 1 else ''} {shown} of {len(labels)}); "
            "correct the labels, or use the network that was trained on them"
        )


def require_class_targets(
    targets: Tensor, logits: Tensor, what: str, *, remedy: str, among: Tensor | None = None
) -> None:
    """Refuse targets that are not one class of the network a row.

    Args:
        targets: of a batch.
        logits: of the same batch, `[batch, classes]`.
        what: who asks, the first word of the message.
        remedy: what to do where targets are no classes, the last words of the message.
        among: `[batch]`, True for rows whose classes must be the network's; None for all.

    Raises:
        errors.BadData: another shape or kind of targets, or a class that the network does not have.
    """
    kind = targets.dtype
    if targets.shape != logits.shape[:1] or kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise errors.BadData(
            f"{what}: expected one integer class a row, found targets of {kind} and shape {tuple(targets.shape)} for "
            f"{len(logits)} rows; {remedy}"
        )
    num_classes = logits.shape[1]
    outside = targets[((targets < 0) | (targets >= num_classes)) & (True if among is None else among)]
    if len(outside):
        raise errors.BadData(
            f"{what}: expected classes from 0 to {num_classes - 1}, those of the network, found {int(outside[0])}; "
            "correct the labels"
        )


def device_of(model: nn.Module) -> torch.device:
    """Give the device of a network's first parameter."""
    return next(model.parameters()).device
