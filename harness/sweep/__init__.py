"""Searching: the study (Optuna), the driver, and the workers that train."""
