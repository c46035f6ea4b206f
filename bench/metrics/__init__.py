"""Scores of predictions against annotations, and of protected images against their sources."""
