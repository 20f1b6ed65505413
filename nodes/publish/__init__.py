"""Publish: stores verdicts in the durable spool, and sends its events to Redis and other sinks, in order, until they have them."""
