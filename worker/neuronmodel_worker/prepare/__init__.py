"""What `neuronmodel prepare` does: identify the source, choose, look, build, clear up."""
