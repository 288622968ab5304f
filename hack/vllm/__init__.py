"""Real vLLMs for processors, each in a virtual environment of its own, and the tests against them."""
