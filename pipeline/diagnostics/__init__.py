"""Whether a machine and a configuration are fit to run."""
