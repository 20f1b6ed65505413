"""Where events go, each destination in its own time: the thread that feeds a sink, and the sinks."""
