"""What operator and worker say to each other and to users: types and names. Nothing here does I/O."""
