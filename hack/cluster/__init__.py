"""A real Kubernetes on one machine, without Docker: two nodes, a registry, DNS, images, a small model.

Standard library only, so that it runs before anything is installed: `python3 -m hack.cluster up` in the project's root.
"""
