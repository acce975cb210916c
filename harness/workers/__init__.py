"""Where runs are trained: processes on this machine, or workers on a Ray cluster."""
