"""Readers and writers of the formats in which Chinese-CLIP is published, one file per format.

Each reader returns a `Checkpoint`: sizes, weights by cn_clip's names, vocabulary. The package
imports `archive`, `modeling`, `_core` and `errors`. The readers need Python's torch, so they are
imported where they are used; `files.py`, which finds a checkpoint's files, does not.
"""
