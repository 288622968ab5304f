"""One run of the worker: what its commands work with, what runs them, and how signals end them."""
