#include "engine/torch/torch_prepared.hpp"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <c10/util/safe_numerics.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/linear.h"

namespace {

constexpr uint64_t alignment = 64; /* that of libtorch's own tensors */
static_assert(alignment % CNCLIP_LINEAR_ALIGNMENT == 0);

constexpr char magic[8] = {'c', 'n', 'c', 'l', 'i', 'p', '-', '1'};

struct PreparedHeader {
  char magic[8];
  uint64_t graph_offset, graph_bytes;
  char unused[alignment - 24];
};
static_assert(sizeof(PreparedHeader) == alignment);

using Object = c10::ivalue::Object;

uint64_t aligned(uint64_t offset) {
  return (offset + alignment - 1) / alignment * alignment;
}

// Writing

class OutputFile {
 public:
  explicit OutputFile(const char *path) : file_(std::fopen(path, "wbe")) {
    check(file_ != nullptr);
  }

  void write(const void *data, uint64_t bytes) {
    check(bytes == 0 || std::fwrite(data, 1, bytes, file_.get()) == bytes);
    offset_ += bytes;
  }
  void align() {
    static constexpr char zeros[alignment] = {};
    write(zeros, aligned(offset_) - offset_);
  }
  void close() { check(std::fclose(file_.release()) == 0); }

 private:
  struct Closer {
    void operator()(std::FILE *file) const { std::fclose(file); }
  };

  static void check(bool done) { TORCH_CHECK(done, std::strerror(errno)); }

  std::unique_ptr<std::FILE, Closer> file_;
  uint64_t offset_ = 0;
};

/* One element for all tensors of a type: each would be a file of the graph's archive. */
using Elements = std::map<c10::ScalarType, at::Tensor>;

/* A copy of a module with an element in place of each tensor; the tensors are added to `tensors`.
 */
c10::intrusive_ptr<Object> without_tensors(const Object &module, Elements *elements,
                                           std::vector<at::Tensor> *tensors) {
  c10::intrusive_ptr<Object> copy = module.copy();
  for (size_t i = 0; i < module.slots().size(); i++) {
    const c10::IValue &value = module.getSlot(i);
    if (value.isTensor()) {
      const at::Tensor &tensor = value.toTensor();
      TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(),
                  "a tensor is not contiguous memory of the CPU");
      tensors->push_back(tensor);
      at::Tensor &element = (*elements)[tensor.scalar_type()];
      if (!element.defined()) element = at::zeros({}, tensor.options());
      copy->setSlot(i, element.expand(tensor.sizes()));
    } else if (value.isObject()) {
      copy->setSlot(i, without_tensors(value.toObjectRef(), elements, tensors));
    }
  }
  return copy;
}

/* A module with separate classes, which have no method `prepare`: a third of the code, which is
 * not called again. */
torch::jit::Module without_prepare(const torch::jit::Module &module) {
  torch::jit::Module copy = module.clone(/*inplace=*/true);
  for (const torch::jit::Module &part : copy.modules()) {
    if (part.type()->findMethod("prepare") != nullptr) part.type()->unsafeRemoveMethod("prepare");
  }
  return copy;
}

// Reading

/* A file as memory. */
class Mapping {
 public:
  explicit Mapping(const std::string &path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    TORCH_CHECK(file >= 0, std::strerror(errno));
    struct stat state = {}; /* where fstat fails, it is that of no file */
    fstat(file, &state);
    const bool is_file = S_ISREG(state.st_mode) && state.st_size > 0;
    if (is_file) {
      bytes_ = static_cast<uint64_t>(state.st_size);
      data_ = mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file, 0);
    }
    close(file);
    TORCH_CHECK(is_file && data_ != MAP_FAILED, "the file cannot be mapped");
  }
  ~Mapping() { munmap(data_, bytes_); }
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;

  char *data() const { return static_cast<char *>(data_); }
  uint64_t bytes() const { return bytes_; }

 private:
  void *data_ = MAP_FAILED;
  uint64_t bytes_ = 0;
};

/* The header of a file, whose graph is inside the file. */
PreparedHeader header_of(const Mapping &file) {
  PreparedHeader header;
  TORCH_CHECK(file.bytes() >= sizeof header, "the file is truncated");
  std::memcpy(&header, file.data(), sizeof header);
  TORCH_CHECK(std::memcmp(header.magic, magic, sizeof magic) == 0, "not a prepared model");
  TORCH_CHECK(sizeof header <= header.graph_offset && header.graph_offset <= file.bytes() &&
                  header.graph_bytes <= file.bytes() - header.graph_offset,
              "the file is truncated");
  return header;
}

/* Puts the tensors of a file in place of those of a module.
 * end: that of all tensors. Returns that of the module's. */
uint64_t map_tensors(Object *module, const std::shared_ptr<Mapping> &file, uint64_t offset,
                     uint64_t end) {
  for (size_t i = 0; i < module->slots().size(); i++) {
    const c10::IValue &value = module->getSlot(i);
    if (value.isTensor()) {
      const at::Tensor &wanted = value.toTensor();
      uint64_t bytes = 0;
      const auto count = static_cast<uint64_t>(wanted.numel()); /* torch checks its product */
      TORCH_CHECK(
          !c10::mul_overflows(count, static_cast<uint64_t>(wanted.element_size()), &bytes) &&
              bytes <= end - offset && aligned(bytes) <= end - offset,
          "a tensor is outside of the file");
      const auto sizes = wanted.sizes().vec();
      module->setSlot(i, at::from_blob(
                             file->data() + offset, sizes, [file](void *) {},
                             at::TensorOptions().dtype(wanted.dtype())));
      offset += aligned(bytes);
    } else if (value.isObject()) {
      offset = map_tensors(&value.toObjectRef(), file, offset, end);
    }
  }
  return offset;
}

}  // namespace

namespace cnclip_torch {

void save_prepared(const torch::jit::Module &module, const char *path) {
  const c10::InferenceMode inference;
  std::vector<at::Tensor> tensors;
  Elements elements;
  const torch::jit::Module graph_alone =
      without_prepare(without_tensors(*module._ivalue(), &elements, &tensors));
  std::ostringstream stream;
  graph_alone.save(stream);
  const std::string graph = stream.str();

  PreparedHeader header{};
  std::memcpy(header.magic, magic, sizeof magic);
  header.graph_offset = sizeof header;
  for (const at::Tensor &tensor : tensors) header.graph_offset += aligned(tensor.nbytes());
  header.graph_bytes = graph.size();

  OutputFile file(path);
  file.write(&header, sizeof header);
  for (const at::Tensor &tensor : tensors) {
    file.write(tensor.const_data_ptr(), tensor.nbytes());
    file.align();
  }
  file.write(graph.data(), graph.size());
  file.close();
}

torch::jit::Module load_prepared(const std::string &path) {
  const c10::InferenceMode inference;
  const auto file = std::make_shared<Mapping>(path);
  const PreparedHeader header = header_of(*file);
  std::istringstream graph(std::string(file->data() + header.graph_offset, header.graph_bytes));
  torch::jit::Module module = torch::jit::load(graph, c10::kCPU, /*load_debug_files=*/false);
  const uint64_t end =
      map_tensors(module._ivalue().get(), file, sizeof header, header.graph_offset);
  TORCH_CHECK(end == header.graph_offset, "the file has other tensors than its graph");
  return module;
}

}  // namespace cnclip_torch
