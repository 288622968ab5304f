import sys

from neuronxcc.driver import main

sys.exit(main())
