"""The path of one request, from a network and rows to a network that forgot and an audit of it."""

from excise.pipeline.audited import Audit
from excise.pipeline.auditing import audit
from excise.pipeline.costing import Bench, bench
from excise.pipeline.forget import unlearn
from excise.pipeline.probing import Canaries, Confusion, Trigger
from excise.pipeline.tuning import Tuning, tune
from excise.pipeline.unlearned import Unlearned

__all__ = [
    "Audit",
    "Bench",
    "Canaries",
    "Confusion",
    "Trigger",
    "Tuning",
    "Unlearned",
    "audit",
    "bench",
    "tune",
    "unlearn",
]
