"""Makes crds/neuronmodels.yaml, its copy in the chart and docs/reference from the hand-written neuronmodels.yaml here."""
