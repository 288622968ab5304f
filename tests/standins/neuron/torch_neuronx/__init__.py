"""Stands in for torch-neuronx: the operators of a traced model, and what the platform is."""

from neuron_standin import runtime  # noqa: F401 - registers the operators

__version__ = "2.9.0.2.14.27725+e2ff0410"
