"""Decides what is trained next: plans, studies, and the driver that gives work to the workers."""
