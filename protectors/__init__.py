"""The protectors that come with the benchmark, one file (or small package) each."""
