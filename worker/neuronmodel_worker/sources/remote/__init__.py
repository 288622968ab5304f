"""What sources that are read over a network have in common: ranges of bytes, retries, failures, and where columns lie.

Nothing here is imported for a folder.
"""
