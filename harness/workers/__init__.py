"""The processes that train: on this machine, or on a Ray cluster."""
