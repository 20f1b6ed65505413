"""The events of the spool into Redis: in order, checked, for as long as it takes."""
