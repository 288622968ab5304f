"""What is compared: a module each (but `task` and `worker`), run in a process of its own so that its memory and
processor time are its own.

A module's `prepare(task)` does what is not to be timed, and returns what is.
"""
