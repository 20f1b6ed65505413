"""The stages of a line as runnable nodes, which import pipeline and not each other, and the offline commands of a model."""
