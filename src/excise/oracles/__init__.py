"""Networks that never saw the forget rows."""

from excise.oracles.retrain import Trained, retrain

__all__ = ["Trained", "retrain"]
