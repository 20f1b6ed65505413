"""Commands that run a model in a line's engine; may import nodes.infer.engines and ilcs_model."""
