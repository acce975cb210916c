"""Writes runs into MLflow, and reads them from it."""
