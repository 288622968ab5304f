"""Stands in for the compiler."""

__version__ = "2.26.6360.0+a1b2c3d4"
