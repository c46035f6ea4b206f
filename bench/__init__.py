"""A benchmark harness for unlearnable examples against image segmentation."""

__version__ = "0.1.0"
