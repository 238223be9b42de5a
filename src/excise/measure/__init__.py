"""From arrays to numbers with intervals. Knows no network."""

from excise.measure.accuracy import accuracy
from excise.measure.histograms import counts, log_edges
from excise.measure.margins import margin_distance, margins
from excise.measure.measures import Measure, against_oracles, holm, more_than_chance, oracle_band
from excise.measure.membership import confidence_attack, confidences
from excise.measure.permutation import against_held_out

__all__ = [
    "Measure",
    "accuracy",
    "against_held_out",
    "against_oracles",
    "confidence_attack",
    "confidences",
    "counts",
    "holm",
    "log_edges",
    "margin_distance",
    "margins",
    "more_than_chance",
    "oracle_band",
]
