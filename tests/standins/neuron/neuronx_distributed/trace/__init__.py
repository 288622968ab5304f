"""Tracing and sharding."""
