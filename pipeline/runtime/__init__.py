"""The processes of a line: started, watched, restarted, stopped in order; their folders, and a run's status and summary."""
