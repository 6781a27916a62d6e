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

/* --- 16-bit floats ------------------------------------------------------------------------------ */

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

/* --- Pixels to patches -------------------------------------------------------------------------- */

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
      values[i] = channel < 3
                      ? pixel(image, channel, top + place / size, left + place % size)
                      : 0.0f;
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

/* --- Rows: one warp computes one row, which its lanes keep in registers ------------------------- */

/* Lane l has vectors l, l + 32, ... of a row; those past its end are zero. */
struct Row {
  float values[VECTORS][VECTOR];

  /* The first column of this lane's vector number `vector`. */
  static __device__ __forceinline__ int column(int vector) {
    return (vector * WARP + threadIdx.x % WARP) * VECTOR;
  }

  __device__ __forceinline__ void normalize(const float *weight, const float *bias,
                                            float epsilon, half *output) {
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

extern "C" __global__ void normalize(const half *input, long rows, const float *weight, const float *bias, float epsilon,
                                     half *output) {
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
                                         const float *weight, const float *bias,
                                         float epsilon, half *output) {
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
                                       const float *weight, const float *bias,
                                       float epsilon, half *output) {
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

/* --- Activations -------------------------------------------------------------------------------- */

/* The numbers of cnclip_activation in kernels/linear.h. */
__device__ __forceinline__ float activated(int activation, float x) {
  switch (activation) {
    case 1: return fmaxf(x, 0.0f);
    case 2: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 3: return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case 4: return __fdividef(x, 1.0f + __expf(-x));
    case 5: return __fdividef(x, 1.0f + __expf(-1.702f * x));
    default: return x;
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

/* --- Attention ---------------------------------------------------------------------------------- */
/* Softmax without the whole matrix of scores: a warp keeps 16 queries and their sums while blocks of
 * KEYS keys and values pass through shared memory (Dao et al. 2022, arXiv:2205.14135). */

enum {
  HEAD = CNCLIP_HEAD,
  QUERIES = 16,       /* of a warp: rows of one matrix instruction */
  KEYS = 64,          /* in shared memory at once */
  PITCH = HEAD + 8,   /* halves between rows there: eight rows touch all 32 banks once */
  TILE = KEYS * PITCH /* halves of a block of keys, or of values */
};

__device__ __forceinline__ u32 shared_address(const void *pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}

/* Copies 16 bytes to shared memory, or zeros. */
__device__ __forceinline__ void copy_async(half *to, const half *from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
               "l"(from), "r"(exists ? 16 : 0));
}

__device__ __forceinline__ void load_matrices(const half *row, u32 m[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row)));
}

__device__ __forceinline__ void load_matrices_transposed(const half *row, u32 m[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(shared_address(row)));
}

/* sums[16, 8] += a[16, 16] b[16, 8] */
__device__ __forceinline__ void multiply_add(float sums[4], const u32 a[4], u32 b0, u32 b1) {
#if CNCLIP_FP16
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
#endif
               : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Maximum or sum over the four lanes that share a row. */
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(~0u, value, 1));
  return fmaxf(value, __shfl_xor_sync(~0u, value, 2));
}

__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(~0u, value, 1);
  return value + __shfl_xor_sync(~0u, value, 2);
}

/* Begins to copy rows first .. first + KEYS of one head; rows past `count` become zeros. */
__device__ __forceinline__ void begin_block(const half *rows, long stride, int first, int count,
                                            half *tile) {
  enum { PIECES = HEAD / VECTOR };
  for (int i = threadIdx.x; i < KEYS * PIECES; i += blockDim.x) {
    const int row = i / PIECES, piece = i % PIECES;
    const bool exists = first + row < count;
    copy_async(tile + row * PITCH + piece * VECTOR,
               rows + (exists ? first + row : 0) * stride + piece * VECTOR, exists);
  }
}

/* query, key, value: rows of heads * HEAD columns, `stride` halves apart; output: rows of
 * heads * HEAD. Item i has the queries query_starts[i] .. query_starts[i + 1], keys likewise.
 * Grid: blocks of queries, heads, items. A block has 16 queries for each of its warps. scale: of the
 * products, times log2(e). */
extern "C" __global__ void attention(const half *query, long query_stride, const half *key,
                                     const half *value, long key_stride, const int *query_starts,
                                     const int *key_starts, float scale, half *output) {
  extern __shared__ __align__(16) half tiles[]; /* two pairs of a block of keys and one of values */
  const int head = blockIdx.y, item = blockIdx.z, lane = threadIdx.x % WARP;
  const int first_query = query_starts[item], first_key = key_starts[item];
  const int queries = query_starts[item + 1] - first_query;
  const int keys = key_starts[item + 1] - first_key;
  const int block_first = blockIdx.x * (blockDim.x / WARP) * QUERIES;
  if (block_first >= queries) return;
  const int first = block_first + threadIdx.x / WARP * QUERIES; /* query of this warp */
  const bool works = first < queries;
  key += first_key * key_stride + head * HEAD;
  value += first_key * key_stride + head * HEAD;

  begin_block(key, key_stride, 0, keys, tiles);
  begin_block(value, key_stride, 0, keys, tiles + TILE);
  asm volatile("cp.async.commit_group;");

  /* This lane has rows lane / 4 and lane / 4 + 8 of the queries, sums and outputs. */
  u32 q[HEAD / 16][4];
  const int upper = first + lane / 4, lower = upper + 8;
  const half *queries_of_head = query + first_query * query_stride + head * HEAD + lane % 4 * 2;
#pragma unroll
  for (int k = 0; k < HEAD / 16; k++) {
    const half *at = queries_of_head + k * 16;
    q[k][0] = upper < queries ? *(const u32 *)(at + upper * query_stride) : 0;
    q[k][1] = lower < queries ? *(const u32 *)(at + lower * query_stride) : 0;
    q[k][2] = upper < queries ? *(const u32 *)(at + upper * query_stride + 8) : 0;
    q[k][3] = lower < queries ? *(const u32 *)(at + lower * query_stride + 8) : 0;
  }

  float sums[HEAD / 8][4] = {}, largest[2] = {-1e30f, -1e30f}, totals[2] = {0, 0};
  const int matrix = lane / 8, matrix_row = lane % 8;
  for (int start = 0, turn = 0; start < keys; start += KEYS, turn ^= 1) {
    if (start + KEYS < keys) {
      half *next = tiles + (turn ^ 1) * 2 * TILE;
      begin_block(key, key_stride, start + KEYS, keys, next);
      begin_block(value, key_stride, start + KEYS, keys, next + TILE);
    }
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;");
    __syncthreads();
    const half *key_tile = tiles + turn * 2 * TILE, *value_tile = key_tile + TILE;
    const int columns = min(KEYS, keys - start); /* the others have no keys */

    if (works) {
      float scores[KEYS / 8][4];
#pragma unroll
      for (int n = 0; n < KEYS; n += 16) {
        for (int j = 0; j < 4; j++) scores[n / 8][j] = scores[n / 8 + 1][j] = 0;
        if (n >= columns) continue;
        const half *rows = key_tile + (n + matrix / 2 * 8 + matrix_row) * PITCH + matrix % 2 * 8;
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
          u32 b[4];
          load_matrices(rows + k * 16, b);
          multiply_add(scores[n / 8], q[k], b[0], b[1]);
          multiply_add(scores[n / 8 + 1], q[k], b[2], b[3]);
        }
      }

      float most[2] = {-1e30f, -1e30f};
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
        for (int j = 0; j < 4; j++) {
          const bool exists = n * 8 + lane % 4 * 2 + j % 2 < columns;
          scores[n][j] = exists ? scores[n][j] * scale : -1e30f;
          most[j / 2] = fmaxf(most[j / 2], scores[n][j]);
        }
      }
      for (int r = 0; r < 2; r++) {
        const float now = fmaxf(largest[r], quad_max(most[r]));
        const float shrink = exp2f(largest[r] - now);
        largest[r] = now;
        totals[r] *= shrink;
#pragma unroll
        for (int d = 0; d < HEAD / 8; d++) {
          sums[d][2 * r] *= shrink;
          sums[d][2 * r + 1] *= shrink;
        }
      }
#pragma unroll
      for (int n = 0; n < KEYS / 8; n++) {
        for (int j = 0; j < 4; j++) {
          scores[n][j] = exp2f(scores[n][j] - largest[j / 2]);
          totals[j / 2] += scores[n][j];
        }
      }

#pragma unroll
      for (int n = 0; n < KEYS; n += 16) {
        if (n >= columns) continue;
        const float *left = scores[n / 8], *right = scores[n / 8 + 1];
        const u32 p[4] = {pack(left[0], left[1]), pack(left[2], left[3]),
                          pack(right[0], right[1]), pack(right[2], right[3])};
        const half *rows = value_tile + (n + matrix % 2 * 8 + matrix_row) * PITCH + matrix / 2 * 8;
#pragma unroll
        for (int d = 0; d < HEAD; d += 16) {
          u32 b[4];
          load_matrices_transposed(rows + d, b);
          multiply_add(sums[d / 8], p, b[0], b[1]);
          multiply_add(sums[d / 8 + 1], p, b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }

  if (!works) return;
  const long width = (long)gridDim.y * HEAD;
  for (int r = 0; r < 2; r++) {
    const int row = r == 0 ? upper : lower;
    const float total = quad_sum(totals[r]);
    if (row >= queries) continue;
    half *to = output + (first_query + row) * width + head * HEAD + lane % 4 * 2;
#pragma unroll
    for (int d = 0; d < HEAD / 8; d++) {
      *(u32 *)(to + d * 8) = pack(sums[d][2 * r] / total, sums[d][2 * r + 1] / total);
    }
  }
}

/* --- Resampling --------------------------------------------------------------------------------- */
/* Pillow's fixed-point bicubic, as image/resample.h describes it: equal to the bit. */

/* One image of a batch and one pass over it. A pass makes `lines` lines of `length` pixels of four
 * bytes each: rows of the output for the vertical pass, and for the horizontal one rows of the
 * image that become shorter. */
typedef struct {
  u64 input, output;        /* addresses of the first pixels */
  u64 first, coefficients;  /* of a filter: int [outputs], int [outputs][capacity] */
  int input_stride;         /* bytes between rows */
  int width, height;        /* of the output, in pixels; its rows follow each other */
  int capacity;             /* coefficients of each output position */
  int input_size;           /* positions that the input has in the filter's direction */
  int vertical;
} resample_pass;

/* Grid: rows of the output in x, images in y. A block makes one row. Sums wrap harmlessly: the true
 * ones fit an int. */
extern "C" __global__ void resample(const resample_pass *passes) {
  const resample_pass pass = passes[blockIdx.y];
  const int y = blockIdx.x;
  if (y >= pass.height) return;
  enum { BITS = 32 - 8 - 2 };
  for (int x = threadIdx.x; x < pass.width; x += blockDim.x) {
    const int position = pass.vertical ? y : x;
    const int first = ((const int *)pass.first)[position];
    const int *coefficients = (const int *)pass.coefficients + (long)position * pass.capacity;
    const u8 *from = (const u8 *)pass.input +
                     (pass.vertical ? (long)first * pass.input_stride + (long)x * 4
                                    : (long)y * pass.input_stride + (long)first * 4);
    const long step = pass.vertical ? pass.input_stride : 4;
    const int taps = min(pass.capacity, pass.input_size - first);
    int red = 1 << (BITS - 1), green = red, blue = red;
    for (int i = 0; i < taps; i++) {
      const uchar4 pixel = *(const uchar4 *)(from + i * step);
      const int coefficient = coefficients[i];
      red += pixel.x * coefficient;
      green += pixel.y * coefficient;
      blue += pixel.z * coefficient;
    }
    uchar4 result;
    result.x = (u8)min(max(red >> BITS, 0), 255);
    result.y = (u8)min(max(green >> BITS, 0), 255);
    result.z = (u8)min(max(blue >> BITS, 0), 255);
    result.w = 0;
    ((uchar4 *)pass.output)[(long)y * pass.width + x] = result;
  }
}
