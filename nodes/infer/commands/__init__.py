"""The commands that run a model in an engine; each imports torch only when called."""
