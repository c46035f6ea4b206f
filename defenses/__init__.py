"""The defenses that come with the benchmark, one file each."""
