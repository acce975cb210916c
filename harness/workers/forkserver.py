"""Loaded once in the process from which local workers are forked: all libraries that they need."""

import atexit
import os

import harness.workers.preload  # noqa: F401

atexit.register(os._exit, 0)  # a normal end takes half a second with torch loaded, and the shell waits for it
