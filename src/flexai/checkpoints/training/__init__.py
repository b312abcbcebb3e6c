"""Training jobs: running a command, capturing the checkpoints it writes, reading what they are."""
