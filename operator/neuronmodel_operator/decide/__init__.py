"""What the conditions ask: when prepare runs, what the Deployment is, what is in the way. Nothing here does I/O."""
