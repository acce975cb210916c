"""What is done with finished runs: reload, compare, confirm, register, export."""
