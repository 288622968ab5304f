import sys

from neuronmodel_kubectl.cli import main

if __name__ == "__main__":
    sys.exit(main())
