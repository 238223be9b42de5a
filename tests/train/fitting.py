"""Run the loop on one stream, or several."""

from excise.masks import Mask
from excise.train import Pass, fit_
from tests.probes import engine_for


def on(stream):
    return lambda step: step.mean_loss(stream)


def fit(model, rows, plan, *, objective=None, mask=None, engine=None, **options):
    """Run the loop on one stream, or on several given by name."""
    streams = rows if isinstance(rows, dict) else {"retain": rows}
    engine = engine or engine_for(model)
    chosen = Mask.full(model) if mask is None else mask
    only = Pass(objective or on(next(iter(streams))), tuple(streams))
    fit_(model, lambda _: (only,), streams, plan, chosen, engine, stage="Test", **options)
    return engine
