"""In: places, a network, row counts. Out: the copies that saw rows, and what was done with them."""

from excise.custody.copies import find_copies
from excise.custody.finding import Finding
from excise.custody.purging import Decided, Wish, decide, purge
from excise.custody.traced import Traced

__all__ = ["Decided", "Finding", "Traced", "Wish", "decide", "find_copies", "purge"]
