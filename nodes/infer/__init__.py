"""Infer: collects tiles into batches, runs them through the engine, makes verdicts of the scores."""
