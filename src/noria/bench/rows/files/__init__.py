"""Rows about files."""
