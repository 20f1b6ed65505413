"""The commands of ``linepipe``, one file for each; they are thin, and loaded only when they are called."""
