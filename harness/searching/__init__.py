"""What is trained next: plans, studies, and the driver that feeds the workers."""
