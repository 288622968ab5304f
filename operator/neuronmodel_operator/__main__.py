"""`python -m neuronmodel_operator`: the same as `neuronmodel-operator`."""

from neuronmodel_operator.main import main

main()
