"""Decisions that the conditions are based on: when prepare runs, what the Deployment is, which problem blocks a start.
Nothing here performs I/O."""
