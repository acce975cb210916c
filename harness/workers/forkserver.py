"""Loaded once in the process from which local workers are forked: all libraries that they need."""

import atexit
import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # while torch loads, Ctrl-C is for the driver

import harness.workers.preload  # noqa: E402, F401

atexit.register(os._exit, 0)  # a normal end takes half a second with torch loaded, and the shell waits for it
