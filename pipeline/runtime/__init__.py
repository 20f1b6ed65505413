"""The processes of a line: started, watched, restarted, stopped in order; their folders, and what a run says of itself."""
