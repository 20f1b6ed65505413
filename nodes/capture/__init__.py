"""Capture: cameras into the ring, frames out against credits, the ledger of every frame."""
