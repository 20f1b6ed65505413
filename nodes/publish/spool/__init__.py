"""The spool: every event on disk until long after Redis has it, and what is done when that file is damaged."""
