"""One run of the worker: what its commands work with, what runs them, how signals end them."""
