"""What linepipe asks of the operating system: files, locks, processes, standard streams."""
