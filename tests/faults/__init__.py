"""Faults between the operator and the API server: a proxy that goes wrong as it is told, and what is tried with it."""
