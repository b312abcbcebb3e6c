"""The demo: a real training, its checkpoints, and what can be done with them. ``flexai demo`` runs it."""
