"""Publish: verdicts into the durable spool, from there to Redis, in order and for as long as it takes."""
