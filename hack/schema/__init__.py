"""From the hand-written neuronmodels.yaml here: crds/neuronmodels.yaml, the chart's copy of it and docs/reference."""
