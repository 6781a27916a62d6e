/* out[m, n] = activation(a[m, k] w[n, k]^T + bias[n]) in one kernel, for Hopper GPUs (sm_90a) and
 * matrices of 16-bit floats whose rows follow each other without padding. k and n are multiples of
 * 64, m is any. NVRTC compiles it at run time, so it includes no header. Defined from outside:
 *   CNCLIP_FP16: 1 for float16, 0 for bfloat16
 *   CNCLIP_ACTIVATION: a number of cnclip_activation in kernels/linear.h
 * Sums are float32.
 *
 * A block stays on its multiprocessor and computes one tile of ROWS x COLUMNS after another. One
 * thread, the producer, copies DEPTH columns of a and of w at a time into the next of STAGES
 * buffers in shared memory. Two warpgroups, the consumers, take turns with the tiles: while one
 * multiplies, the other adds the bias to its sums, activates and stores them, so the tensor cores
 * need not wait for that. The two blocks of a cluster compute tiles below each other. They need the
 * same rows of w; each copies half of them to both. */

typedef unsigned short half; /* the bits of a 16-bit float */
typedef unsigned int u32;
typedef unsigned long long u64;
#if CNCLIP_FP16
#define TYPE "f16"
#else
#define TYPE "bf16"
#endif

enum {
  BLOCKS = 2,    /* of a cluster */
  CONSUMERS = 2, /* warpgroups, after the one of the producer */
  THREADS = 128 * (1 + CONSUMERS),
  GROUPS = 2,         /* of 64 rows, those of one matrix instruction */
  ROWS = GROUPS * 64, /* of a tile */
  COLUMNS = 192,
  SUMS = COLUMNS / 2, /* of one thread in 64 rows */
  DEPTH = 64,         /* 128 bytes, the width of the swizzle */
  STAGES = 5,
  GROUP_BYTES = 64 * DEPTH * 2,
  A_BYTES = GROUPS * GROUP_BYTES,
  W_BYTES = COLUMNS * DEPTH * 2,
  PIECE_ROWS = 16, /* of the results that a warp stores at a time */
  PIECE_COLUMNS = 64,
};

/* A CUtensorMap of the host. */
struct alignas(64) tensor_map {
  u64 words[16];
};

/* The swizzle requires that stages and pieces are at multiples of 1,024 bytes. */
struct shared_memory {
  half stages[STAGES][(A_BYTES + W_BYTES) / 2]; /* a, then w */
  half pieces[4 * CONSUMERS][PIECE_ROWS * PIECE_COLUMNS];
  u64 full[STAGES];    /* barriers: the copies to a stage have arrived */
  u64 empty[STAGES];   /* both blocks have used a stage */
  u64 turn[CONSUMERS]; /* the other consumer has begun its last products */
};
static_assert(sizeof(shared_memory) == 221280, "SHARED_BYTES in cuda_hopper.cpp");

__device__ __forceinline__ u32 shared_address(const void *pointer) {
  return (u32)__cvta_generic_to_shared(pointer);
}

/* --- Barriers --------------------------------------------------------------------------------- */

__device__ __forceinline__ void prepare(u64 *barrier, int arrivals) {
  const u32 address = shared_address(barrier);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals));
}

/* Waits until the phase of this parity has passed. A new barrier has passed one of parity 1. */
__device__ __forceinline__ void wait(u64 *barrier, int parity) {
  const u32 address = shared_address(barrier);
  for (u32 passed = 0; !passed;) {
    asm volatile(
        "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
        "selp.u32 %0, 1, 0, p; }"
        : "=r"(passed)
        : "r"(address), "r"(parity)
        : "memory");
  }
}

/* Arrives, and adds the number of bytes whose copies the phase waits for. */
__device__ __forceinline__ void arrive_and_expect(u64 *barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

/* Arrives at the same barrier in a block of the cluster. The products that read the stage have
 * ended, so no order of memory is needed: .release.cluster would also wait for stores, a
 * microsecond each time. */
__device__ __forceinline__ void arrive(u64 *barrier, int block) {
  asm volatile(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
      "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}

__device__ __forceinline__ void synchronize_cluster(void) {
  asm volatile("barrier.cluster.arrive.release; barrier.cluster.wait.acquire;" ::: "memory");
}

/* --- Copies ----------------------------------------------------------------------------------- */
/* They copy a box of a tensor map. Outside the matrix, loads read zeros, and nothing is stored. */

#define COPY "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"

__device__ __forceinline__ void load(half *to, const tensor_map *map, int column, int row,
                                     u64 *barrier) {
  asm volatile(COPY " [%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)), "l"(map), "r"(column),
               "r"(row), "r"(shared_address(barrier))
               : "memory");
}

/* To the same address in all blocks of the cluster; the bytes count at the barrier of each. */
__device__ __forceinline__ void load_for_all(half *to, const tensor_map *map, int column, int row,
                                             u64 *barrier) {
  asm volatile(COPY ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
               "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier)),
               "h"((half)((1 << BLOCKS) - 1))
               : "memory");
}

/* By one thread of a warp, after the whole warp has written the piece. */
__device__ __forceinline__ void store(const tensor_map *map, int column, int row, half *from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3]; "
      "cp.async.bulk.commit_group;" ::"l"(map),
      "r"(column), "r"(row), "r"(shared_address(from))
      : "memory");
}

/* --- Products --------------------------------------------------------------------------------- */

/* The descriptor, for a matrix instruction, of swizzled rows of 128 bytes: bit 62 is the swizzle of
 * 128 bytes, bits 32 to 45 the 1,024 bytes from eight rows to the next eight, bits 0 to 13 the
 * address, both in units of 16 bytes. The mask removes the block's number in its cluster from the
 * address. */
__device__ __forceinline__ u64 descriptor(const half *rows) {
  return (u64)1 << 62 | (u64)64 << 32 | 1 << 16 | (shared_address(rows) & 0x3ffff) >> 4;
}

#define FIVE(a, b, c, d, e) "%" #a ", %" #b ", %" #c ", %" #d ", %" #e ", "
#define TEN(d) FIVE(d##0, d##1, d##2, d##3, d##4) FIVE(d##5, d##6, d##7, d##8, d##9)
#define FOUR(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define SIXTEEN(i) FOUR(i), FOUR(i + 4), FOUR(i + 8), FOUR(i + 12)

/* Begins sums[64, COLUMNS] += a[64, 16] w[COLUMNS, 16]^T, by a warpgroup. */
__device__ __forceinline__ void multiply(float sums[SUMS], u64 a, u64 w) {
  /* clang-format off */
  asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32." TYPE "." TYPE
               " {" TEN() TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6) TEN(7) TEN(8)
               FIVE(90, 91, 92, 93, 94) "%95}, %96, %97, 1, 1, 1, 0, 0;"
               : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48), SIXTEEN(64), SIXTEEN(80)
               : "l"(a), "l"(w));
  /* clang-format on */
}

/* Waits until at most n groups of this warpgroup's products are unfinished. */
#define WAIT_FOR_PRODUCTS(n) asm volatile("wgmma.wait_group.sync.aligned " #n ";" ::: "memory")

/* --- Activations ------------------------------------------------------------------------------ */

__device__ __forceinline__ float float_of(u32 bits) {
  float value;
  asm("cvt.f32." TYPE " %0, %1;" : "=f"(value) : "h"((half)bits));
  return value;
}

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 both;
  asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

/* For the activations from 2 (GELU) on: activation(2 h) = h + h tanh(y) with this y. */
__device__ __forceinline__ float tanh_argument(float h) {
  const float s = h * h, t = fminf(s, 9.0f);
  if (CNCLIP_ACTIVATION == 5) return 1.702f * h;
  if (CNCLIP_ACTIVATION == 4) return h;
  if (CNCLIP_ACTIVATION == 3) return h * (1.59576912f + 0.35773920f * s);
  /* Fitted: GELU within 3e-5. */
  return h * (1.595015078f + t * (0.2960482872f - 0.01125116886f * t));
}

/* h = activation(2 h) for eight values at once, so that none waits for another. */
__device__ __forceinline__ void activate(float h[8]) {
  float y[8];
  for (int i = 0; i < 8; i++) y[i] = tanh_argument(h[i]);
  for (int i = 0; i < 8; i++) asm("tanh.approx.f32 %0, %0;" : "+f"(y[i]));
  for (int i = 0; i < 8; i++) {
    if (CNCLIP_ACTIVATION == 0) h[i] = 2.0f * h[i];
    if (CNCLIP_ACTIVATION == 1) h[i] = fmaxf(2.0f * h[i], 0.0f);
    if (CNCLIP_ACTIVATION >= 2) h[i] += h[i] * y[i];
  }
}

__device__ __forceinline__ void store_matrices(half *row, const u32 m[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(row)),
               "r"(m[0]), "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}

/* Adds the bias to the sums of a tile, activates and stores them. row: the first of this warp's
 * rows, which are 16 of every 64. */
__device__ __forceinline__ void finish_tile(float sums[GROUPS][SUMS], const half *bias, int n,
                                            const tensor_map *out, int row, int first_column,
                                            half *piece) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < COLUMNS / PIECE_COLUMNS; c++) {
    const int column = first_column + c * PIECE_COLUMNS;
    if (column >= n) break;
    float halves[8][2]; /* of the bias: two columns, then two each 8 columns further */
    for (int i = 0; i < 8; i++) {
      const u32 both = __ldg((const u32 *)(bias + column + i * 8) + lane % 4);
      halves[i][0] = 0.5f * float_of(both);
      halves[i][1] = 0.5f * float_of(both >> 16);
    }
#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
      u32 results[4][4];
      for (int i = 0; i < 4; i++) {
        float h[8]; /* two columns of two rows 8 apart, then two columns 8 further */
        for (int j = 0; j < 8; j++) {
          h[j] = fmaf(sums[g][(c * 4 + i) * 8 + j], 0.5f, halves[i * 2 + j / 4][j % 2]);
        }
        activate(h);
        for (int j = 0; j < 4; j++) results[i][j] = pack(h[j * 2], h[j * 2 + 1]);
      }
      /* The copy of the previous piece must have read the shared memory. */
      if (lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      __syncwarp();
      for (int i = 0; i < 4; i++) {
        const int vector = (i * 2 + lane / 16) ^ lane % 8; /* of 16 bytes, swizzled */
        store_matrices(piece + lane % 16 * PIECE_COLUMNS + vector * 8, results[i]);
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      if (lane == 0) store(out, column, row + g * 64, piece);
    }
  }
}

/* The tensor maps have two dimensions, columns first, swizzles of 128 bytes, and boxes of
 *   a: DEPTH x ROWS   w: DEPTH x COLUMNS / BLOCKS   out: PIECE_COLUMNS x PIECE_ROWS
 * Grid: the multiprocessors, a multiple of BLOCKS; sizeof(shared_memory) is dynamic. */
extern "C" __global__ void __cluster_dims__(BLOCKS, 1, 1) __launch_bounds__(THREADS, 1)
    linear_activated(const __grid_constant__ tensor_map a, const __grid_constant__ tensor_map w,
                     const __grid_constant__ tensor_map out, const half *bias, int m, int n,
                     int k) {
  extern __shared__ __align__(1024) shared_memory memory[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, steps = k / DEPTH;
  const int block = blockIdx.x % BLOCKS; /* in its cluster, which computes BLOCKS tiles at a time */
  const int cluster = blockIdx.x / BLOCKS, clusters = gridDim.x / BLOCKS;
  const int tiles_across = (n + COLUMNS - 1) / COLUMNS;
  const int tiles = (m + ROWS * BLOCKS - 1) / (ROWS * BLOCKS) * tiles_across;

  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      prepare(&memory->full[s], 1);
      prepare(&memory->empty[s], 4 * BLOCKS); /* the warps of a consumer in each block */
    }
    for (int i = 0; i < CONSUMERS; i++) prepare(&memory->turn[i], 4);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  synchronize_cluster();

  if (warp < 4) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    int stage = 0, phase = 0;
    for (int tile = cluster; tile < tiles && threadIdx.x == 0; tile += clusters) {
      const int row = (tile / tiles_across * BLOCKS + block) * ROWS;
      const int first = block * (COLUMNS / BLOCKS); /* of the rows of w that this block copies */
      const int row_of_w = tile % tiles_across * COLUMNS + first;
      for (int step = 0; step < steps; step++) {
        half *to = memory->stages[stage], *w_to = to + A_BYTES / 2 + first * DEPTH;
        u64 *full = &memory->full[stage];
        wait(&memory->empty[stage], phase ^ 1);
        arrive_and_expect(full, A_BYTES + W_BYTES);
        load(to, &a, step * DEPTH, row, full);
        load_for_all(w_to, &w, step * DEPTH, row_of_w, full);
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const int consumer = warp / 4 - 1;
    int number = consumer, turn_phase = consumer ^ 1; /* number: of a tile of this block */
    for (int tile; (tile = cluster + number * clusters) < tiles; number += CONSUMERS) {
      int stage = number * steps % STAGES, phase = number * steps / STAGES % 2, last = 0;
      float sums[GROUPS][SUMS] = {};
      wait(&memory->turn[consumer], turn_phase);
      turn_phase ^= 1;
      for (int step = 0; step < steps; step++) {
        wait(&memory->full[stage], phase);
        const u64 left = descriptor(memory->stages[stage]), right = left + A_BYTES / 16;
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
        for (int i = 0; i < DEPTH / 16; i++) {
          for (int g = 0; g < GROUPS; g++) {
            multiply(sums[g], left + g * (GROUP_BYTES / 16) + i * 2, right + i * 2);
          }
        }
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        if (step > 0) { /* the previous group has ended: its stage is free */
          WAIT_FOR_PRODUCTS(1);
          if (lane < BLOCKS) arrive(&memory->empty[last], lane);
        }
        last = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
      }
      if (lane == 0) arrive(&memory->turn[consumer ^ 1], block);
      WAIT_FOR_PRODUCTS(0);
      if (lane < BLOCKS) arrive(&memory->empty[last], lane);
      const int row = (tile / tiles_across * BLOCKS + block) * ROWS + warp % 4 * PIECE_ROWS;
      finish_tile(sums, bias, n, &out, row, tile % tiles_across * COLUMNS,
                  memory->pieces[warp - 4]);
    }
    if (lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
  synchronize_cluster(); /* the other block may still copy to this one and arrive at its barriers */
}
