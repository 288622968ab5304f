"""What holds for all tests: a busy machine is no error."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# As a worker sets it, before anything loads PyTorch: threads that spin while they wait take a busy machine's time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
