"""A parent that runs a child until it is killed: `python … LOG`. The child's own child writes its id to LOG.pid."""

import os
import sys
from pathlib import Path

from neuronmodel_worker.engines.nxdi import child_process

if __name__ == "__main__":
    child_process.CHILD = "tests.unit.worker.engines.nxdi.sleeping_child"
    log = Path(sys.argv[1])
    child_process.run_child({"log": str(log)}, dict(os.environ), log)
