"""The fixture `run` for every test of this directory."""

from sync.loops import run as run
