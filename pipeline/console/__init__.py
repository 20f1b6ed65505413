"""What a person sees of a command on a terminal or in a pipe."""
