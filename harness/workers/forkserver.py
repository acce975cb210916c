"""Loaded in the process that local workers fork from: all that they need; and its end, which is not theirs."""

import atexit
import os

import harness.workers.preload  # noqa: F401

atexit.register(os._exit, 0)  # to take torch apart takes half a second, and whoever reads our output waits for it
