"""One file a command of ``linepipe``; each is thin and loaded only when it is called."""
