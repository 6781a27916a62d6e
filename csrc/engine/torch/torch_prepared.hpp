/* Files of prepared models: the tensors that a module's `prepare` made, and its graph.
 *
 * A PreparedHeader of 64 bytes is followed by the tensors of the module and its submodules, slot by
 * slot, each at a multiple of 64 bytes, and by the graph: a TorchScript archive of the module
 * without `prepare`, in which a tensor has its type and sizes only, being one element, expanded.
 * The graph's offset is the end of the tensors. What follows the graph is ignored.
 *
 * A graph is code, and only its offset and size are checked. */
#ifndef CNCLIP_TORCH_PREPARED_HPP
#define CNCLIP_TORCH_PREPARED_HPP

#include <string>

#include <torch/csrc/jit/api/module.h>

namespace cnclip_torch {

/* Writes a file. Does not change the module, which other threads may run. c10::Error: the file
 * cannot be written, or the module has a tensor that is not contiguous memory of the CPU. */
void save_prepared(const torch::jit::Module &module, const char *path);

/* The module of a file. Its tensors are the file's memory, mapped read-only, which processes share.
 * It is unmapped when the last tensor is freed. c10::Error: the file cannot be read, or is not as
 * above. */
torch::jit::Module load_prepared(const std::string &path);

}  // namespace cnclip_torch

#endif
