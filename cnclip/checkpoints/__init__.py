"""Readers of the formats in which Chinese-CLIP is published, one file a format.

Each answers a `Checkpoint`: sizes, weights under cn_clip's names, vocabulary. May import
`modeling`, `_core` and `errors`. The readers need Python's torch, so each is imported where it is
used; `files.py` does without, since a converted checkpoint is found by its files alone.
"""
