"""How much memory and disk space a start takes, and whether a machine has it. docs/sizing.md has the formula."""

from neuronmodel_worker.sizing.fitting import DoesNotFit, check, misfits, require_fit
from neuronmodel_worker.sizing.needs import size

__all__ = ["DoesNotFit", "check", "misfits", "require_fit", "size"]
