"""The embedded Redis, and how to log in to any Redis: users, passwords, replies."""
