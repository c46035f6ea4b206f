"""Datasets: adapters that read a folder in its own public layout."""
