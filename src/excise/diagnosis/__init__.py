"""What stands in the way of forgetting, said before any work: a network and a split in, findings with remedies out."""

from excise.diagnosis.findings import Finding, Severity
from excise.diagnosis.visit import doctor

__all__ = ["Finding", "Severity", "doctor"]
