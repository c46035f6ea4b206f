"""Segmentation models that an attacker trains, one file per family. Importing one imports no torch."""
