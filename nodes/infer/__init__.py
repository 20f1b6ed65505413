"""Infer: tiles into batches, batches through the engine, scores into verdicts."""
