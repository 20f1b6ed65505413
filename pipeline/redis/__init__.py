"""The embedded Redis, and how to log in to any: users, passwords, replies."""
