"""Decides what is trained next: the plan, the study, and the driver that gives work to the workers."""
