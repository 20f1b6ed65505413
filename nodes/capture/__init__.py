"""Capture: takes frames from a camera into its ring, leases them to workers against credits, and counts every frame in the ledger."""
