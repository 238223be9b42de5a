"""Scores and cuts written from the paper: one example at a time, one channel at a time, everything sorted."""

import math

import torch


def per_example_gradients(model, inputs, labels, ids):
    """Give each example's gradient of -log p(label), by parameter name, in eval mode: `[examples, *shape]`."""
    model.eval()
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    rows = []
    for row in ids:
        logits = model(inputs[row : row + 1])[0]
        loss = torch.logsumexp(logits, 0) - logits[labels[row]]
        found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        rows.append([torch.zeros_like(v) if g is None else g for v, g in zip(named.values(), found, strict=True)])
    return {name: torch.stack([row[place] for row in rows]) for place, name in enumerate(named)}


def naive_row_scores(tensor, share, of):
    """Give DEL's channel scores: the mean of the h highest of each row; one weight a channel for one-axis parameters."""
    if tensor.ndim < 2:
        return [float(value) for value in tensor.reshape(-1)], 1
    rows = tensor.reshape(len(tensor), -1).tolist()
    length = len(rows[0])
    scores = []
    for row in rows:
        if of == "mean":
            scores.append(math.fsum(row) / length)
            continue
        wanted = math.floor(share * (length if of == "row" else len(rows)))
        h = max(1, min(wanted, length))
        scores.append(math.fsum(sorted(row, reverse=True)[:h]) / h)
    return scores, length


def greedy_channels(channels, budget):
    """Take whole channels from the best down until one does not fit; `channels` holds (score, size) in order.

    Returns the indices taken, and (index, weights left) of the one that did not fit, or None.
    """
    order = sorted(range(len(channels)), key=lambda place: (-channels[place][0], place))
    taken = []
    for place in order:
        size = channels[place][1]
        if size > budget:
            return taken, (place, budget) if budget else None
        taken.append(place)
        budget -= size
    return taken, None
