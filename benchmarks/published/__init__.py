"""The four published systems beside DEL, baselines, retraining and oracles: what is run, measured, claimed and drawn."""
