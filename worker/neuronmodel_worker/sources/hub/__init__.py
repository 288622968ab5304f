"""Repositories of the Hugging Face Hub, and of servers that speak its API, read at one commit.

Its modules are imported one by one: a name is parsed without what reads a network.
"""
