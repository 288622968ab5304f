"""`python -m neuronmodel_worker` is the command `neuronmodel`."""

from neuronmodel_worker.cli import run_and_exit

if __name__ == "__main__":
    run_and_exit()
