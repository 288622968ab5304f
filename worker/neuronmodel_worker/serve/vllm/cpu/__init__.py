"""vLLM on processors: it computes itself, and our loader fills its parameters."""
