"""The stages of a line as runnable nodes. Each imports pipeline; none imports another."""
