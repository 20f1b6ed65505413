"""The words of a line: frames, tiles, events, the ledger, status and summary, errors. No sockets, no processes, no clock."""
