"""The commands ``linepipe train`` and what belongs to it; each imports torch only when called."""
