"""The parts of the status that are no conditions: starts, artifacts, sizing, workers, and the Events of a pass."""
