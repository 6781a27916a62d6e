/* The kernels of the towers on a GPU, for matrices of 16-bit floats whose rows of all items follow
 * each other without padding. NVRTC compiles them at run time for the GPU that is there, so they
 * include no header. Defined from outside:
 *   CNCLIP_FP16: 1 for float16, 0 for bfloat16
 *   CNCLIP_HEAD: columns of an attention head, a multiple of 16
 *   CNCLIP_WIDTH: columns of a tower's rows, a multiple of 8
 * Sums are float32. Rows start at addresses that are multiples of 16 bytes. */

typedef unsigned char u8;
typedef unsigned short half; /* the bits of a 16-bit float */
typedef unsigned int u32;
typedef unsigned long long u64;

enum {
  WARP = 32,
  VECTOR = 8, /* halves in 16 bytes */
  COLUMNS = CNCLIP_WIDTH,
  VECTORS = (CNCLIP_WIDTH + WARP * VECTOR - 1) / (WARP * VECTOR) /* of a row, in each lane */
};

/* --- 16-bit floats ---------------------------------------------------------------------------- */

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 both;
#if CNCLIP_FP16
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
#endif
  return both;
}

__device__ __forceinline__ float float_of_f16(half bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ __forceinline__ void unpack(u32 both, float *low, float *high) {
#if CNCLIP_FP16
  *low = float_of_f16((half)both);
  *high = float_of_f16((half)(both >> 16));
#else
  *low = __uint_as_float(both << 16);
  *high = __uint_as_float(both & 0xffff0000u);
#endif
}

__device__ __forceinline__ void load_vector(const half *from, float values[VECTOR]) {
  const uint4 raw = *(const uint4 *)from;
  unpack(raw.x, values + 0, values + 1);
  unpack(raw.y, values + 2, values + 3);
  unpack(raw.z, values + 4, values + 5);
  unpack(raw.w, values + 6, values + 7);
}

__device__ __forceinline__ void store_vector(half *to, const float values[VECTOR]) {
  *(uint4 *)to = make_uint4(pack(values[0], values[1]), pack(values[2], values[3]),
                            pack(values[4], values[5]), pack(values[6], values[7]));
}

__device__ __forceinline__ void load_floats(const float *from, float values[VECTOR]) {
  const float4 low = *(const float4 *)from, high = *(const float4 *)(from + 4);
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

__device__ __forceinline__ float warp_sum(float value) {
  for (int step = WARP / 2; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  return value;
}

/* The row of this thread's warp. */
__device__ __forceinline__ long warp_row(void) {
  return ((long)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
}

/* --- Pixels to patches ------------------------------------------------------------------------ */

/* Patches of `size` x `size` pixels as rows of `columns` halves: channel, y, x, then zeros. One
 * block writes one row. pixel(image, channel, y, x) is the normalised value. */
template <typename Pixel>
__device__ __forceinline__ void write_patch(int side, int size, int columns, half *rows,
                                            Pixel pixel) {
  const int grid = side / size, area = size * size, patch = blockIdx.x % (grid * grid);
  const int top = patch / grid * size, left = patch % grid * size;
  const long image = blockIdx.x / (grid * grid);
  u32 *row = (u32 *)(rows + (long)blockIdx.x * columns);
  for (int pair = threadIdx.x; pair < columns / 2; pair += blockDim.x) {
    float values[2];
    for (int i = 0; i < 2; i++) {
      const int column = 2 * pair + i, channel = column / area, place = column % area;
      values[i] =
          channel < 3 ? pixel(image, channel, top + place / size, left + place % size) : 0.0f;
    }
    row[pair] = pack(values[0], values[1]);
  }
}

/* pixels: [n, side, side, 4] bytes, the fourth ignored. table: [3, 256], the normalised value of
 * each byte. */
extern "C" __global__ void patches_of_bytes(const u8 *pixels, const float *table, int side,
                                            int size, int columns, half *rows) {
  write_patch(side, size, columns, rows, [=](long image, int channel, int y, int x) {
    return table[channel * 256 + pixels[((image * side + y) * side + x) * 4 + channel]];
  });
}

/* pixels: float32 [n, 3, side, side]. */
extern "C" __global__ void patches_of_floats(const float *pixels, int side, int size, int columns,
                                             half *rows) {
  write_patch(side, size, columns, rows, [=](long image, int channel, int y, int x) {
    return pixels[((image * 3 + channel) * side + y) * side + x];
  });
}

/* --- Rows: one warp computes one row, which its lanes keep in registers ----------------------- */

/* Lane l has vectors l, l + 32, ... of a row; those past its end are zero. */
struct Row {
  float values[VECTORS][VECTOR];

  /* The first column of this lane's vector number `vector`. */
  static __device__ __forceinline__ int column(int vector) {
    return (vector * WARP + threadIdx.x % WARP) * VECTOR;
  }

  __device__ __forceinline__ void normalize(const float *weight, const float *bias, float epsilon,
                                            half *output) {
    float sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      for (int j = 0; j < VECTOR; j++) sum += values[i][j];
    }
    const float mean = warp_sum(sum) / COLUMNS;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      if (column(i) >= COLUMNS) break;
      for (int j = 0; j < VECTOR; j++) squares += (values[i][j] - mean) * (values[i][j] - mean);
    }
    const float scale = rsqrtf(warp_sum(squares) / COLUMNS + epsilon);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
      const int at = column(i);
      if (at >= COLUMNS) break;
      float weights[VECTOR], biases[VECTOR];
      load_floats(weight + at, weights);
      load_floats(bias + at, biases);
      for (int j = 0; j < VECTOR; j++) {
        values[i][j] = (values[i][j] - mean) * scale * weights[j] + biases[j];
      }
      store_vector(output + at, values[i]);
    }
  }
};

extern "C" __global__ void normalize(const half *input, long rows, const float *weight,
                                     const float *bias, float epsilon, half *output) {
  const long row = warp_row();
  if (row >= rows) return;
  Row x;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = x.column(i);
    if (at < COLUMNS) {
      load_vector(input + row * COLUMNS + at, x.values[i]);
    } else {
      for (int j = 0; j < VECTOR; j++) x.values[i][j] = 0;
    }
  }
  x.normalize(weight, bias, epsilon, output + row * COLUMNS);
}

/* Row 0 of an image is the class embedding, the others are its patches; positions are added, then
 * the rows are normalised. */
extern "C" __global__ void embed_patches(const half *patches, const float *class_row,
                                         const float *positions, long rows, int per_image,
                                         const float *weight, const float *bias, float epsilon,
                                         half *output) {
  const long row = warp_row(), image = row / per_image;
  const int place = (int)(row % per_image);
  if (row >= rows) return;
  const half *patch = patches + (image * (per_image - 1) + place - 1) * COLUMNS;
  Row x;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = x.column(i);
    float *values = x.values[i], position[VECTOR];
    for (int j = 0; j < VECTOR; j++) values[j] = 0;
    if (at >= COLUMNS) continue;
    if (place == 0) {
      load_floats(class_row + at, values);
    } else {
      load_vector(patch + at, values);
    }
    load_floats(positions + (long)place * COLUMNS + at, position);
    for (int j = 0; j < VECTOR; j++) values[j] += position[j];
  }
  x.normalize(weight, bias, epsilon, output + row * COLUMNS);
}

/* A table's values as they are stored: float32, or float16. */
__device__ __forceinline__ void add_stored(const void *table, int is_f16, long at,
                                           float values[VECTOR]) {
  if (is_f16) {
    const half *from = (const half *)table + at;
    for (int j = 0; j < VECTOR; j++) values[j] += float_of_f16(from[j]);
  } else {
    const float *from = (const float *)table + at;
    for (int j = 0; j < VECTOR; j++) values[j] += from[j];
  }
}

/* Word, position and segment embeddings, summed and normalised. */
extern "C" __global__ void embed_words(const int *ids, const int *places, const void *words,
                                       int words_are_f16, const void *positions,
                                       int positions_are_f16, const float *segment, long rows,
                                       const float *weight, const float *bias, float epsilon,
                                       half *output) {
  const long row = warp_row();
  if (row >= rows) return;
  Row x;
#pragma unroll
  for (int i = 0; i < VECTORS; i++) {
    const int at = x.column(i);
    for (int j = 0; j < VECTOR; j++) x.values[i][j] = 0;
    if (at >= COLUMNS) continue;
    add_stored(words, words_are_f16, (long)ids[row] * COLUMNS + at, x.values[i]);
    add_stored(positions, positions_are_f16, (long)places[row] * COLUMNS + at, x.values[i]);
    add_stored(segment, 0, at, x.values[i]);
  }
  x.normalize(weight, bias, epsilon, output + row * COLUMNS);
}

/* output[i] = input[numbers[i]]; one warp copies one row. */
extern "C" __global__ void gather_rows(const half *input, const int *numbers, long rows,
                                       half *output) {
  const long row = warp_row();
  if (row >= rows) return;
  const uint4 *from = (const uint4 *)(input + (long)numbers[row] * COLUMNS);
  uint4 *to = (uint4 *)(output + row * COLUMNS);
  for (int i = threadIdx.x % WARP; i < COLUMNS / VECTOR; i += WARP) to[i] = from[i];
}

/* Rows of float32 to unit length, in place; one warp computes one row. */
extern "C" __global__ void unit_rows(float *x, long rows, int columns) {
  const long row = warp_row();
  if (row >= rows) return;
  float *values = x + row * columns, squares = 0;
  for (int i = threadIdx.x % WARP; i < columns; i += WARP) squares += values[i] * values[i];
  const float length = sqrtf(warp_sum(squares));
  for (int i = threadIdx.x % WARP; i < columns; i += WARP) values[i] /= length;
}

/* --- Activations ------------------------------------------------------------------------------ */

/* The numbers of cnclip_activation in kernels/linear.h. */
__device__ __forceinline__ float activated(int activation, float x) {
  switch (activation) {
    case 1:
      return fmaxf(x, 0.0f);
    case 2:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 3:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case 4:
      return __fdividef(x, 1.0f + __expf(-x));
    case 5:
      return __fdividef(x, 1.0f + __expf(-1.702f * x));
    default:
      return x;
  }
}

/* In place, on `count` values, a multiple of VECTOR; one thread computes one vector. */
extern "C" __global__ void activate(half *x, long count, int activation) {
  const long at = ((long)blockIdx.x * blockDim.x + threadIdx.x) * VECTOR;
  if (at >= count) return;
  float values[VECTOR];
  load_vector(x + at, values);
  for (int j = 0; j < VECTOR; j++) values[j] = activated(activation, values[j]);
  store_vector(x + at, values);
}

/* --- Attention -------------------------------------------------------------------------------- */
/* Softmax without the whole matrix of scores (Dao et al. 2022, arXiv:2205.14135). A block computes
 * one head of an item. Its keys and values are copied to shared memory once, if they fit; warps
 * then take 16 queries at a time and wait for nothing but keys that are still on their way. */

enum {
  HEAD = CNCLIP_HEAD,
  PIECES = HEAD / VECTOR,             /* 16-byte pieces of a row */
  QUERIES = 16,                       /* of a warp at a time: rows of one matrix instruction */
  GRANULE = 16,                       /* keys that one matrix instruction multiplies with values */
  GRANULE_BYTES = GRANULE * HEAD * 2, /* of its keys, or of its values */
  /* Of a chunk, whose scores a warp has in registers at once: more are faster, but then fewer warps
   * fit on a multiprocessor. */
  GRANULES = 7,
  CHUNK = GRANULES * GRANULE,
  TWO_ONES = CNCLIP_FP16 ? 0x3c003c00 : 0x3f803f80
};

__device__ __forceinline__ u32 shared_address(const void *pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}

/* Copies 16 bytes to shared memory, or zeros. */
__device__ __forceinline__ void copy_async(u32 to, const half *from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(exists ? 16 : 0));
}

/* A barrier in shared memory completes a phase when all `threads` threads of a block have arrived,
 * here: when all their copies begun so far have. Phases are numbered 0, 1, 0, 1, ... */
__device__ __forceinline__ void begin_barrier(u32 barrier, int threads) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(threads) : "memory");
}

__device__ __forceinline__ void arrive_after_copies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void wait_for_phase(u32 barrier, int phase) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.test_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(phase)
      : "memory");
}

__device__ __forceinline__ void load_matrices(u32 from, u32 m[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(from));
}

__device__ __forceinline__ void load_matrices_transposed(u32 from, u32 m[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(from));
}

/* sums[16, 8] += a[16, 16] b[16, 8] */
__device__ __forceinline__ void multiply_add(float sums[4], const u32 a[4], u32 b0, u32 b1) {
#if CNCLIP_FP16
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/* Maximum over the four lanes that share a row. */
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

/* Begins to copy keys and values first .. last of one head, `last` excluded, to granules at
 * `keys_at` and `values_at`. A granule has piece 0 of its 16 rows, then piece 1 of them, and so on:
 * then the eight rows of a matrix that a warp loads follow each other. Rows past `count` repeat the
 * last key, which changes no maximum, and have values of zero. A warp copies four pieces of eight
 * rows at once. */
__device__ __forceinline__ void begin_rows(const half *key, const half *value, long stride,
                                           int first, int last, int count, u32 keys_at,
                                           u32 values_at) {
  const int lane = threadIdx.x % WARP, piece = lane / 8, step = blockDim.x / WARP * 8;
#pragma unroll 4
  for (int row = threadIdx.x / WARP * 8 + lane % 8; row < last - first; row += step) {
    const bool exists = first + row < count;
    const long from = min(first + row, count - 1) * stride + piece * VECTOR;
    const u32 to = row / GRANULE * GRANULE_BYTES + row % GRANULE * 16 + piece * GRANULE * 16;
#pragma unroll
    for (int p = 0; p < PIECES; p += 4) {
      if (p + piece >= PIECES) break;
      copy_async(keys_at + to + p * GRANULE * 16, key + from + p * VECTOR, true);
      copy_async(values_at + to + p * GRANULE * 16, value + from + p * VECTOR, exists);
    }
  }
}

/* The state of a warp's 16 queries. This lane has rows lane / 4 and lane / 4 + 8, and two of every
 * eight columns: lane % 4 * 2 and the next. */
struct Queries {
  u32 q[HEAD / 16][4];
  float sums[HEAD / 8][4]; /* of values, weighted */
  float totals[4];         /* of weights: one product with ones, whose columns are equal */
  float largest[2];        /* score of a row so far, times scale */

  /* Rows first .. first + 16; those past `count` are zero. */
  __device__ __forceinline__ void load(const half *query, long stride, int first, int count) {
    const int upper = first + threadIdx.x % WARP / 4, lower = upper + 8;
    query += threadIdx.x % 4 * 2;
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
      const half *at = query + k * 16;
      q[k][0] = upper < count ? *(const u32 *)(at + upper * stride) : 0;
      q[k][1] = lower < count ? *(const u32 *)(at + lower * stride) : 0;
      q[k][2] = upper < count ? *(const u32 *)(at + upper * stride + 8) : 0;
      q[k][3] = lower < count ? *(const u32 *)(at + lower * stride + 8) : 0;
    }
  }

  __device__ __forceinline__ void clear(void) {
    for (int d = 0; d < HEAD / 8; d++) {
      for (int j = 0; j < 4; j++) sums[d][j] = 0;
    }
    for (int j = 0; j < 4; j++) totals[j] = 0;
    largest[0] = largest[1] = -1e30f;
  }

  /* Takes N granules of keys and values, which exist for the first `columns` rows. The addresses
   * are those of this lane: 16 bytes after the one of the lane before. */
  template <int N>
  __device__ __forceinline__ void take(u32 keys, u32 values, int columns, float scale) {
    float scores[N * 2][4];
#pragma unroll
    for (int n = 0; n < N * 2; n++) {
      for (int j = 0; j < 4; j++) scores[n][j] = 0;
    }
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
#pragma unroll
      for (int n = 0; n < N; n++) {
        u32 b[4]; /* keys 0 .. 7 and 8 .. 15 of one piece, then of the next */
        load_matrices(keys + n * GRANULE_BYTES + k * 512, b);
        multiply_add(scores[2 * n], q[k], b[0], b[2]);
        multiply_add(scores[2 * n + 1], q[k], b[1], b[3]);
      }
    }

    float most[2];
    bool grows = false;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float m = fmaxf(scores[0][2 * r], scores[0][2 * r + 1]);
#pragma unroll
      for (int n = 1; n < N * 2; n++) {
        m = fmaxf(m, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
      }
      most[r] = m * scale;
      grows |= most[r] > largest[r];
    }
    if (__any_sync(~0u, grows)) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const float now = fmaxf(largest[r], quad_max(most[r]));
        const float shrink = exp2_fast(largest[r] - now);
        largest[r] = now;
        totals[2 * r] *= shrink;
#pragma unroll
        for (int d = 0; d < HEAD / 8; d++) {
          sums[d][2 * r] *= shrink;
          sums[d][2 * r + 1] *= shrink;
        }
      }
    }

#pragma unroll
    for (int n = 0; n < N; n++) {
      float *left = scores[2 * n], *right = scores[2 * n + 1];
      for (int j = 0; j < 4; j++) {
        left[j] = exp2_fast(fmaf(left[j], scale, -largest[j / 2]));
        right[j] = exp2_fast(fmaf(right[j], scale, -largest[j / 2]));
      }
      const u32 p[4] = {pack(left[0], left[1]), pack(left[2], left[3]), pack(right[0], right[1]),
                        pack(right[2], right[3])};
      u32 ones[2] = {TWO_ONES, TWO_ONES};
      if (columns < (n + 1) * GRANULE) {
        const int rest = columns - n * GRANULE - threadIdx.x % 4 * 2;
        ones[0] &= rest > 1 ? ~0u : rest > 0 ? 0xffffu : 0;
        ones[1] &= rest > 9 ? ~0u : rest > 8 ? 0xffffu : 0;
      }
      multiply_add(totals, p, ones[0], ones[1]);
#pragma unroll
      for (int d = 0; d < HEAD / 16; d++) {
        u32 b[4]; /* of one piece rows 0 .. 7 and 8 .. 15, then of the next */
        load_matrices_transposed(values + n * GRANULE_BYTES + d * 512, b);
        multiply_add(sums[2 * d], p, b[0], b[1]);
        multiply_add(sums[2 * d + 1], p, b[2], b[3]);
      }
    }
  }

  /* Takes as few granules as have `columns` rows, N or fewer. */
  template <int N>
  __device__ __forceinline__ void take_rest(u32 keys, u32 values, int columns, float scale) {
    if constexpr (N > 1) {
      if (columns <= (N - 1) * GRANULE) {
        take_rest<N - 1>(keys, values, columns, scale);
        return;
      }
    }
    take<N>(keys, values, columns, scale);
  }

  /* output: of row `first`. */
  __device__ __forceinline__ void store(half *output, long stride, int first, int count) const {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int row = lane / 4 + r * 8;
      const float inverse = 1 / totals[2 * r];
      half *to = output + row * stride;
#pragma unroll
      for (int d = 0; d < HEAD / 8; d += 2) {
        /* Neighbours exchange columns, so that each stores four, and a row gets 32 bytes at once.
         */
        const u32 left = pack(sums[d][2 * r] * inverse, sums[d][2 * r + 1] * inverse);
        const u32 right = pack(sums[d + 1][2 * r] * inverse, sums[d + 1][2 * r + 1] * inverse);
        const u32 other = __shfl_xor_sync(~0u, lane % 2 ? left : right, 1);
        const uint2 both = lane % 2 ? make_uint2(other, right) : make_uint2(left, other);
        if (first + row < count) *(uint2 *)(to + (d + lane % 2) * 8 + lane / 2 % 2 * 4) = both;
      }
    }
  }
};

/* query, key, value: rows of heads * HEAD columns, `stride` halves apart; output: rows of
 * heads * HEAD. Item i has the queries query_starts[i] .. query_starts[i + 1], keys likewise.
 *
 * scale: of the products, times log2(e), above 0.
 *
 * capacity: keys that fit in shared memory; no fewer than any item has, or a multiple of CHUNK:
 * then blocks copy the keys of longer items again for each of their turns.
 *
 * Grid: blocks that share the queries of an item, heads, items. Block: up to 384 threads, at least
 * one per chunk of `capacity`. Shared
 * memory: GRANULE_BYTES for the keys and as many for the values of each granule of `capacity`, then
 * 8 bytes for each chunk. */
extern "C" __global__ __launch_bounds__(384, 1) void attention(
    const half *query, long query_stride, const half *key, const half *value, long key_stride,
    const int *query_starts, const int *key_starts, float scale, half *output, int capacity) {
  extern __shared__ __align__(128) u8 shared[];
  const int head = blockIdx.y, item = blockIdx.z, lane = threadIdx.x % WARP;
  const int first_query = query_starts[item], first_key = key_starts[item];
  const int queries = query_starts[item + 1] - first_query;
  const int keys = key_starts[item + 1] - first_key;
  const int block_queries = blockDim.x / WARP * QUERIES;
  const long width = (long)gridDim.y * HEAD;
  query += first_query * query_stride + head * HEAD;
  key += first_key * key_stride + head * HEAD;
  value += first_key * key_stride + head * HEAD;
  output += first_query * width + head * HEAD;

  const int chunks = (capacity + CHUNK - 1) / CHUNK;
  const int room = (capacity + GRANULE - 1) / GRANULE * GRANULE_BYTES;
  const u32 keys_at = shared_address(shared), values_at = keys_at + room;
  const u32 barriers = values_at + room;
  if (threadIdx.x < chunks) begin_barrier(barriers + threadIdx.x * 8, blockDim.x);
  __syncthreads();

  Queries x;
  int first = blockIdx.x * block_queries + threadIdx.x / WARP * QUERIES; /* query of this warp */
  x.load(query, query_stride, first, queries);
  int phase = 1; /* of the copies to shared memory; the first is 0 */
  bool filled = false, resident = false;
  for (int turn = blockIdx.x * block_queries; turn < queries; turn += gridDim.x * block_queries) {
    const bool works = first < queries;
    x.clear();
    for (int start = 0, chunk = 0; start < keys; start += CHUNK, chunk++) {
      if (chunk == chunks || (start == 0 && !resident)) {
        if (filled) __syncthreads(); /* until all warps have used the keys that are there */
        filled = true;
        phase ^= 1, chunk = 0, resident = keys <= capacity;
        const int end = (min(keys, start + capacity) + GRANULE - 1) / GRANULE * GRANULE;
        for (int i = 0; i < chunks; i++) {
          const int from = start + i * CHUNK, to = i * GRANULES * GRANULE_BYTES;
          begin_rows(key, value, key_stride, from, min(from + CHUNK, end), keys, keys_at + to,
                     values_at + to);
          arrive_after_copies(barriers + i * 8);
        }
      }
      wait_for_phase(barriers + chunk * 8, phase);
      if (!works) continue;
      const u32 offset = chunk * GRANULES * GRANULE_BYTES + lane * 16;
      if (start + CHUNK <= keys) {
        x.template take<GRANULES>(keys_at + offset, values_at + offset, CHUNK, scale);
      } else {
        x.template take_rest<GRANULES>(keys_at + offset, values_at + offset, keys - start, scale);
      }
    }
    const int done = first;
    first += gridDim.x * block_queries;
    x.load(query, query_stride, first, queries); /* while the sums are stored */
    if (works) x.store(output + done * width, width, done, queries);
  }
}
