"""Corpora: what is on disk, and the embedded one."""
