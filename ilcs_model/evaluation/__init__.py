"""What a network is worth: figures, confusion, robustness, and where it looks."""
