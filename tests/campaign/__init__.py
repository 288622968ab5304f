"""Every fault between operator and API server, one at a time: stories on a real API server, each told once without a
fault and then again with each fault that its own recording gives rise to. `make campaign` runs all of it."""
