"""`python -m neuronmodel_worker` is the command `neuronmodel`."""

from neuronmodel_worker.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
