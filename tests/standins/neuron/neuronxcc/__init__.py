"""Stands in for the compiler."""

__version__ = "2.25.3371.0+f524f7f8"
