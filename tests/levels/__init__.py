"""Answers hold on every processor: what they are, and levels at which libraries compute as older processors do."""
