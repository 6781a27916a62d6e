"""ModelScope's module path for constants; see `constant.py`. Imports nothing of cnclip."""
