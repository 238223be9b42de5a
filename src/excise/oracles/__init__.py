"""Networks that never saw the forget rows, others to compare them with, and the bank that keeps them."""

from excise.oracles.bank import Bank, Entry, Kind, Trained, default_bank
from excise.oracles.population import Halves, half_splits, oracles, originals, train_halves
from excise.oracles.retrain import retrain

__all__ = [
    "Bank",
    "Entry",
    "Halves",
    "Kind",
    "Trained",
    "default_bank",
    "half_splits",
    "oracles",
    "originals",
    "retrain",
    "train_halves",
]
