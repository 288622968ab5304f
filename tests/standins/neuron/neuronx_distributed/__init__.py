"""Stands in for NxD Core."""
