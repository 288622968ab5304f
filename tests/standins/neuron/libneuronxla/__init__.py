"""Stands in for libneuronxla, of which nothing is called directly."""

__version__ = "2.2.16408.0"
