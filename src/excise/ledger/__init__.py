"""What was asked, what was done, and what shows it: commitments to rows, manifests, receipts, and the log they stand in."""

from excise.ledger.commitments import Commitment, commit, included, inclusion, record_digests
from excise.ledger.log import Log
from excise.ledger.manifest import Manifest
from excise.ledger.receipts import LIMITS, receipt

__all__ = [
    "LIMITS",
    "Commitment",
    "Log",
    "Manifest",
    "commit",
    "included",
    "inclusion",
    "receipt",
    "record_digests",
]
