"""The words of a line: frames, tiles, events, the ledger, a model's file, errors. No sockets, no processes, no clock."""
