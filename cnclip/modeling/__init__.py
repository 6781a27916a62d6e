"""The two towers of Chinese-CLIP in plain torch.nn, for training and as the source of archives.

`config.py` has their sizes; `vit.py`, `resnet.py` and `bert.py` define the towers, `clip.py` joins
them. `lower.py` turns the model into the TorchScript graph of an archive, on the operators of the C
core; `onnx_graph.py` turns the towers into ONNX graphs. Tensors have the names of cn_clip's and
ModelScope's checkpoints. All modules but `config` need Python's torch, which embedding does not.
They import nothing of cnclip but `engine`.
"""
