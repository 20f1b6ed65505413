"""What travels between processes, and how: the ring and its leases, messages, sockets, the frame hop, the publish hop."""
