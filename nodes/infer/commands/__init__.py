"""Commands that need the model as well as the line: each imports torch only when called."""
