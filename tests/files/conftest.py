"""The fixture `run` for every test of this directory."""

from files.loops import run as run
