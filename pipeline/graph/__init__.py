"""Several stages as jobs of their own, on a cluster or here; see jobs/pipeline.py."""
