"""The towers of Chinese-CLIP as torch.nn modules that torch.jit.script accepts.

Parameters carry the names that cn_clip and ModelScope give them. All but `config` needs Python's
torch, which embedding does not. It may import nothing else of cnclip but `errors` and `_core`.
"""
