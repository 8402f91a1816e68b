"""The ``rdprune bench`` commands. Everything heavy is imported when a command runs."""
