"""The networks, one file each, and the attention blocks they share."""
