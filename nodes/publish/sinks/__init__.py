"""Where events go: the sinks, and the thread that feeds each of them at its own pace."""
