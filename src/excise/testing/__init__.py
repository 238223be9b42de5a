"""Checks for methods and localizers of one's own: one call says whether they keep what the library promises."""

from excise.testing.checking import check_localizer, check_method, localizer_checks, method_checks
from excise.testing.verdicts import Check, CheckFailed

__all__ = ["Check", "CheckFailed", "check_localizer", "check_method", "localizer_checks", "method_checks"]
