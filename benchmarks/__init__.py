"""Ratios measured side by side in one run. `python -m benchmarks` writes benchmarks/results/ and docs/performance.md."""
