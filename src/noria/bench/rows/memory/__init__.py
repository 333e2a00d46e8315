"""Bytes that things keep, and the time an import takes."""
