/* CUDA's driver, its run-time compiler and cuBLASLt, as far as this folder uses them.
 *
 * A torch for CUDA brings these libraries. Their functions are declared here and found at run time,
 * so one engine works with and without CUDA, and is compiled without CUDA's headers. Functions have
 * CUDA's names, constants have its values. */
#ifndef CNCLIP_CUDA_LIBRARY_HPP
#define CNCLIP_CUDA_LIBRARY_HPP

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace cnclip_cuda {

using DevicePointer = unsigned long long; /* CUdeviceptr */
using Context = struct CUctx_st *;
using Module = struct CUmod_st *;
using Kernel = struct CUfunc_st *;
using Stream = struct CUstream_st *;
using Graph = struct CUgraph_st *;
using GraphRun = struct CUgraphExec_st *;
using Program = struct _nvrtcProgram *;
using Blas = struct cublasLtContext *;
using BlasObject = void *; /* a description, a layout or a preference of cuBLASLt */

/* cublasLtMatmulHeuristicResult_t */
struct BlasChoice {
  std::uint64_t algorithm[8];
  std::size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

/* CUtensorMap */
struct alignas(64) TensorMap {
  std::uint64_t words[16];
};

/* CUdevice_attribute */
enum {
  MULTIPROCESSORS = 16,
  COMPUTE_MAJOR = 75,
  COMPUTE_MINOR = 76,
  SHARED_BYTES_OF_MULTIPROCESSOR = 81,
  MAX_SHARED_BYTES_OF_BLOCK = 97,
};
enum { OUT_OF_MEMORY = 2 /* CUresult */ };
enum { STREAM_NON_BLOCKING = 1, CAPTURE_THREAD_LOCAL = 1 };
enum { MAX_DYNAMIC_SHARED_BYTES = 8 /* CUfunction_attribute */ };
enum { TYPE_FLOAT32 = 0, TYPE_FLOAT16 = 2, TYPE_BFLOAT16 = 14 /* cudaDataType */ };
enum { MAP_FLOAT16 = 6, MAP_BFLOAT16 = 9 /* CUtensorMapDataType */ };
enum { MAP_NOT_INTERLEAVED = 0, MAP_SWIZZLE_128 = 3, MAP_L2_256 = 3, MAP_ZEROS = 0 };
enum { COMPUTE_FLOAT32 = 68 /* cublasComputeType_t: no TF32 */ };
enum { DESCRIPTION_TRANSPOSE_A = 3, DESCRIPTION_EPILOGUE = 7, DESCRIPTION_BIAS_POINTER = 8 };
enum { EPILOGUE_BIAS = 4, TRANSPOSED = 1, PREFERENCE_MAX_WORKSPACE_BYTES = 1 };

#define CNCLIP_DRIVER_FUNCTIONS(F)                                                                \
  F(cuGetErrorString, (int error, const char **text))                                             \
  F(cuDeviceGet, (int *device, int number))                                                       \
  F(cuDeviceGetAttribute, (int *value, int attribute, int device))                                \
  F(cuDevicePrimaryCtxRetain, (Context * context, int device))                                    \
  F(cuCtxPushCurrent_v2, (Context context))                                                       \
  F(cuCtxPopCurrent_v2, (Context * context))                                                      \
  F(cuCtxGetCurrent, (Context * context))                                                         \
  F(cuModuleLoadData, (Module * module, const void *image))                                       \
  F(cuModuleUnload, (Module module))                                                              \
  F(cuModuleGetFunction, (Kernel * kernel, Module module, const char *name))                      \
  F(cuFuncSetAttribute, (Kernel kernel, int attribute, int value))                                \
  F(cuLaunchKernel, (Kernel kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z,            \
                     unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,       \
                     Stream stream, void **arguments, void **extra))                              \
  F(cuTensorMapEncodeTiled,                                                                       \
    (TensorMap * map, int type, unsigned dimensions, DevicePointer matrix,                        \
     const std::uint64_t *sizes, const std::uint64_t *strides, const unsigned *box,               \
     const unsigned *steps, int interleave, int swizzle, int l2_promotion, int outside))          \
  F(cuStreamCreate, (Stream * stream, unsigned flags))                                            \
  F(cuStreamSynchronize, (Stream stream))                                                         \
  F(cuStreamDestroy_v2, (Stream stream))                                                          \
  F(cuMemHostAlloc, (void **memory, std::size_t bytes, unsigned flags))                           \
  F(cuMemFreeHost, (void *memory))                                                                \
  F(cuMemcpyHtoDAsync_v2, (DevicePointer to, const void *from, std::size_t bytes, Stream stream)) \
  F(cuMemcpyDtoHAsync_v2, (void *to, DevicePointer from, std::size_t bytes, Stream stream))       \
  F(cuStreamBeginCapture_v2, (Stream stream, int mode))                                           \
  F(cuStreamEndCapture, (Stream stream, Graph * graph))                                           \
  F(cuGraphInstantiateWithFlags, (GraphRun * run, Graph graph, unsigned long long flags))         \
  F(cuGraphLaunch, (GraphRun run, Stream stream))                                                 \
  F(cuGraphDestroy, (Graph graph))                                                                \
  F(cuGraphExecDestroy, (GraphRun run))

#define CNCLIP_COMPILER_FUNCTIONS(F)                                                           \
  F(nvrtcCreateProgram, (Program * program, const char *source, const char *name, int headers, \
                         const char *const *contents, const char *const *names))               \
  F(nvrtcCompileProgram, (Program program, int count, const char *const *options))             \
  F(nvrtcGetCUBINSize, (Program program, std::size_t * bytes))                                 \
  F(nvrtcGetCUBIN, (Program program, char *image))                                             \
  F(nvrtcGetProgramLogSize, (Program program, std::size_t * bytes))                            \
  F(nvrtcGetProgramLog, (Program program, char *log))                                          \
  F(nvrtcDestroyProgram, (Program * program))

#define CNCLIP_BLAS_FUNCTIONS(F)                                                                   \
  F(cublasLtCreate, (Blas * blas))                                                                 \
  F(cublasLtDestroy, (Blas blas))                                                                  \
  F(cublasLtMatmulDescCreate, (BlasObject * object, int compute_type, int scale_type))             \
  F(cublasLtMatmulDescSetAttribute,                                                                \
    (BlasObject object, int attribute, const void *value, std::size_t bytes))                      \
  F(cublasLtMatmulDescDestroy, (BlasObject object))                                                \
  F(cublasLtMatrixLayoutCreate, (BlasObject * object, int type, std::uint64_t rows,                \
                                 std::uint64_t columns, std::int64_t stride))                      \
  F(cublasLtMatrixLayoutDestroy, (BlasObject object))                                              \
  F(cublasLtMatmulPreferenceCreate, (BlasObject * object))                                         \
  F(cublasLtMatmulPreferenceSetAttribute,                                                          \
    (BlasObject object, int attribute, const void *value, std::size_t bytes))                      \
  F(cublasLtMatmulPreferenceDestroy, (BlasObject object))                                          \
  F(cublasLtMatmulAlgoGetHeuristic,                                                                \
    (Blas blas, BlasObject description, BlasObject a, BlasObject b, BlasObject c, BlasObject d,    \
     BlasObject preference, int wanted, BlasChoice *choices, int *found))                          \
  F(cublasLtMatmul,                                                                                \
    (Blas blas, BlasObject description, const void *alpha, DevicePointer a, BlasObject a_layout,   \
     DevicePointer b, BlasObject b_layout, const void *beta, DevicePointer c, BlasObject c_layout, \
     DevicePointer d, BlasObject d_layout, const void *algorithm, DevicePointer workspace,         \
     std::size_t workspace_bytes, Stream stream))

/* The functions, each of which returns 0 for success. */
struct Library {
#define CNCLIP_DECLARE(name, parameters) int(*name) parameters = nullptr;
  CNCLIP_DRIVER_FUNCTIONS(CNCLIP_DECLARE)
  CNCLIP_COMPILER_FUNCTIONS(CNCLIP_DECLARE)
  CNCLIP_BLAS_FUNCTIONS(CNCLIP_DECLARE)
#undef CNCLIP_DECLARE
};

/* The libraries of the torch in this process. Static.
 * std::runtime_error: this torch is not for CUDA, or a library or function is missing. */
const Library &library();

/* Throws for a status other than 0: std::bad_alloc if the driver is out of memory, else
 * std::runtime_error. */
void check(int status, const char *function);

/* Calls a function of the library and checks its status. */
#define CNCLIP_CUDA(function, ...) \
  ::cnclip_cuda::check(::cnclip_cuda::library().function(__VA_ARGS__), #function)

/* The context that torch uses too. */
Context context_of(int device);

/* Makes a GPU's context the current one of this thread, and restores the one before. The driver's
 * objects are created, used and destroyed with their context current. */
class CurrentContext {
 public:
  explicit CurrentContext(Context context) { CNCLIP_CUDA(cuCtxPushCurrent_v2, context); }
  ~CurrentContext() {
    Context popped;
    library().cuCtxPopCurrent_v2(&popped);
  }
  CurrentContext(const CurrentContext &) = delete;
  CurrentContext &operator=(const CurrentContext &) = delete;
};

/* A stream, destroyed with this object. */
class OwnedStream {
 public:
  OwnedStream() { CNCLIP_CUDA(cuStreamCreate, &stream_, STREAM_NON_BLOCKING); }
  ~OwnedStream() { library().cuStreamDestroy_v2(stream_); }
  OwnedStream(const OwnedStream &) = delete;
  OwnedStream &operator=(const OwnedStream &) = delete;

  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

/* Memory of this machine that a GPU reads and writes without another copy. To be used and destroyed
 * with the GPU's context current. */
class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory() { release(); }
  PinnedMemory(const PinnedMemory &) = delete;
  PinnedMemory &operator=(const PinnedMemory &) = delete;

  /* Makes at least `bytes` available. The address and the content may be lost.
   * std::bad_alloc. */
  void reserve(std::size_t bytes);
  void *data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void release();
  void *data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace cnclip_cuda

#endif
