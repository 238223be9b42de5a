"""A model's life under requests to forget: taken in, answered in batches, receipted, repeated."""

from excise.lifecycle.answering import answer
from excise.lifecycle.drift import Drift, advice
from excise.lifecycle.ledger import Ledger
from excise.lifecycle.replaying import Replayed, among, faults, replay
from excise.lifecycle.requesting import add_request, forget_key, require_not_returned, withdraw
from excise.lifecycle.showing import show_record
from excise.lifecycle.standing import export_head, export_receipt, head, receipt, status, words
from excise.lifecycle.subject import Subject
from excise.lifecycle.trained import Trained
from excise.lifecycle.work import Options

__all__ = [
    "Drift",
    "Ledger",
    "Options",
    "Replayed",
    "Subject",
    "Trained",
    "add_request",
    "advice",
    "among",
    "answer",
    "export_head",
    "export_receipt",
    "faults",
    "forget_key",
    "head",
    "receipt",
    "replay",
    "require_not_returned",
    "show_record",
    "status",
    "withdraw",
    "words",
]
