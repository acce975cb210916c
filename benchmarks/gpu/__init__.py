"""The steps of `gpu_check.py`, one file a subject, and what runs them."""
