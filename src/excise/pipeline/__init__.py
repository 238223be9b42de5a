"""The path of one request, from a network and rows to a network that forgot and an audit of it."""

from excise.pipeline.auditing import Audit, audit
from excise.pipeline.forget import unlearn
from excise.pipeline.unlearned import Unlearned

__all__ = ["Audit", "Unlearned", "audit", "unlearn"]
