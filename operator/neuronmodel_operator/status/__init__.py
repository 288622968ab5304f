"""The parts of the status other than conditions: starts, artifacts, sizing, workers, and the Events of a pass."""
