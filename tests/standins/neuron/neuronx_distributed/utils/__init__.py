"""Of NxD Core, what NxD Inference uses here."""
