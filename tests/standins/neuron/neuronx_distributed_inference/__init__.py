"""Stands in for NxD Inference: its signatures, its control flow and its silences."""
