// SPDX-License-Identifier: Apache-2.0
// Packed attention of bfloat16 on tensor cores, forward and backward, as FlashAttention-2 (arXiv 2307.08691) does it: a
// warp has 16 or 32 rows of the scores and of the result in registers, the other side comes through shared memory while
// the tile before it is computed; products, softmax and sums are float32, the products' factors bfloat16. Unlike there,
// backward has one kernel for the queries' gradient and one for the keys' and values', each computing the scores again:
// no atomic additions, so the same bits every time.
// In registers, element e of block n of a group of 16 rows is row 8 (e / 2) + lane / 4, column 8 n + 2 (lane % 4) +
// e % 2. In shared memory the chunk c of 8 numbers of row r is at c ^ (r % 8): no bank conflicts.
#include <type_traits>

#include "ops/attention_device.h"
#include "ops/cuda_mma.h"

namespace sao::ops::cuda {
namespace mma {
namespace {

constexpr float kLog2OfE = 1.44269504089f, kLogOf2 = 0.69314718056f;
constexpr int kChunk = 8;                       // numbers of a copy: 16 bytes
constexpr std::size_t kSharedBytes = 99 << 10;  // what a block can have on every architecture

struct Arguments : AttentionArguments<BFloat16> {
  // Weights are 2^(exponent * score - ..), where the score is the product or, with a cap, its tanh:
  // tanh(scale / cap * product) = 1 - 2 / (1 + 2^(cap_exponent * product)).
  float exponent, cap_exponent;
  int reach;  // how many queries see a key, the first at its own position
  int group;  // heads that share a key/value head

  __device__ bool sees_all(int first_query, int last_query, int first, int last_key) const {
    return last_key <= first_query && first > last_query - reach;
  }
  __device__ bool sees_any(int first_query, int last_query, int first, int last_key) const {
    return first <= last_query && last_key > first_query - reach;
  }
};

// Of kGroups * 16 rows and kColumns columns, those of one thread.
template <int kGroups, int kColumns>
struct Fragments {
  static constexpr int kBlocks = kColumns / 8;
  float value[kGroups][kBlocks][4];

  __device__ void clear() {
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        SAO_UNROLL
        for (int e = 0; e < 4; ++e) value[g][n][e] = 0.0f;
      }
    }
  }

  // Sets to x the elements whose column is less than their row + left or more than their row + right, where the first
  // element is at (row, column).
  __device__ void set_outside(int left, int right, int row, int column, float x) {
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int diagonal = row + 16 * g + 8 * half + lane() / 4 - column - lane() % 4 * 2;
        SAO_UNROLL
        for (int n = 0; n < kBlocks; ++n) {
          SAO_UNROLL
          for (int e = 0; e < 2; ++e) {
            if (8 * n + e < diagonal + left || 8 * n + e > diagonal + right) value[g][n][2 * half + e] = x;
          }
        }
      }
    }
  }
};

// Where a chunk of a row is, in numbers from the start of the tile.
template <int kDim>
__device__ unsigned place_of(unsigned row, unsigned chunk) {
  return row * kDim + (chunk ^ (row % 8)) * kChunk;
}

// From the place of chunk 0 or 1 to that of chunk 2 step or 2 step + 1 of the same row.
__device__ inline unsigned at_step(unsigned place, int step) {
  return (place ^ static_cast<unsigned>(2 * step % 8 * kChunk)) + static_cast<unsigned>(2 * step / 8 * 8 * kChunk);
}

// What a lane names in load_matrices to get 16 rows and 16 columns: as a left factor, or as a right one that is
// transposed then; and as a right factor that is transposed already.
template <int kDim>
__device__ unsigned place_of_rows() {
  const unsigned l = computed_here(threadIdx.x) % 32;
  return place_of<kDim>(l % 16, l / 16);
}
template <int kDim>
__device__ unsigned place_of_columns() {
  const unsigned l = computed_here(threadIdx.x) % 32;
  return place_of<kDim>(l / 16 * 8 + l % 8, l / 8 % 2);
}

// The left factors of a product: 16 rows a group of a tile, 16 columns a step.
template <int kGroups, int kDim>
struct LeftInShared {
  const BFloat16* tile;
  int first_row;
  struct Here {
    const BFloat16* rows;
    unsigned place;
    __device__ void get(std::uint32_t (&a)[4], int g, int step) const {
      load_matrices(a, rows + at_step(place, step) + 16 * g * kDim);
    }
  };
  __device__ Here here() const { return {tile + first_row * kDim, place_of_rows<kDim>()}; }
};

template <int kGroups, int kColumns>
struct LeftInRegisters {
  std::uint32_t value[kGroups][kColumns / 16][4];
  __device__ explicit LeftInRegisters(const LeftInShared<kGroups, kColumns>& shared) {
    const auto from = shared.here();
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int step = 0; step < kColumns / 16; ++step) from.get(value[g][step], g, step);
    }
  }
  __device__ explicit LeftInRegisters(const Fragments<kGroups, kColumns>& from) {
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int step = 0; step < kColumns / 16; ++step) {
        SAO_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float(&block)[4] = from.value[g][2 * step + i / 2];
          value[g][step][i] = bfloat16_pair(block[i % 2 * 2], block[i % 2 * 2 + 1]);
        }
      }
    }
  }
  __device__ const LeftInRegisters& here() const { return *this; }
  __device__ void get(std::uint32_t (&a)[4], int g, int step) const {
    SAO_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = value[g][step][i];
  }
};

// products = left . rows^T
template <int kDim, int kGroups, int kColumns, class Left>
__device__ void multiply_by_transposed(const Left& left_factor, const BFloat16* rows,
                                       Fragments<kGroups, kColumns>& products) {
  const auto& left = left_factor.here();
  products.clear();
  const unsigned place = place_of_columns<kDim>();
  SAO_UNROLL
  for (int step = 0; step < kDim / 16; ++step) {
    std::uint32_t a[kGroups][4];
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) left.get(a[g], g, step);
    SAO_UNROLL
    for (int n = 0; n < kColumns / 8; n += 2) {
      std::uint32_t b[4];
      load_matrices(b, rows + at_step(place, step) + 8 * n * kDim);
      SAO_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        multiply_add(products.value[g][n], a[g], b[0], b[1]);
        multiply_add(products.value[g][n + 1], a[g], b[2], b[3]);
      }
    }
  }
}

// sums += left . rows
template <int kGroups, int kInner, int kDim>
__device__ void add_product(const LeftInRegisters<kGroups, kInner>& left, const BFloat16* rows,
                            Fragments<kGroups, kDim>& sums) {
  const unsigned place = place_of_rows<kDim>();
  SAO_UNROLL
  for (int step = 0; step < kInner / 16; ++step) {
    std::uint32_t a[kGroups][4];
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) left.get(a[g], g, step);
    SAO_UNROLL
    for (int n = 0; n < kDim / 8; n += 2) {
      std::uint32_t b[4];
      load_matrices_transposed(b, rows + at_step(place, n / 2) + 16 * step * kDim);
      SAO_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        multiply_add(sums.value[g][n], a[g], b[0], b[1]);
        multiply_add(sums.value[g][n + 1], a[g], b[2], b[3]);
      }
    }
  }
}

// The block's part of the tiles. It is read again where it is needed: registers are scarce.
template <int kRows, bool kKeysFirst = false>
__device__ AttentionTile tile_here(const Arguments& a) {
  return part_of_tiles<kRows, kKeysFirst>(a.tiles, a.tile_count, computed_here(blockIdx.x));
}

// Starts to copy positions first .. first + kRows - 1; those from `end` on, and columns from head_dim on, are zero.
template <int kRows, int kDim, int kBlockThreads>
__device__ void copy_tile(BFloat16* tile, const Positions<BFloat16>& rows, int first, int end, int head_dim) {
  constexpr int kChunks = kDim / kChunk, kStep = kBlockThreads / kChunks;
  static_assert(kRows % kStep == 0 && (kStep % 8 == 0 || 8 % kStep == 0));
  const unsigned thread = computed_here(threadIdx.x), place = place_of<kDim>(thread / kChunks, thread % kChunks);
  const int chunk = static_cast<int>(thread % kChunks), row0 = static_cast<int>(thread / kChunks);
  const int rows_left = chunk * kChunk < head_dim ? end - first - row0 : 0;
  const int of_parent = rows.parent_length - first - row0;
  const std::int64_t jump = rows.jump * rows.stride;
  const BFloat16* from = rows.own + (first + row0) * rows.stride + chunk * kChunk;
  SAO_UNROLL
  for (int i = 0; i < kRows; i += kStep) {
    start_copy<16>(tile + (place ^ static_cast<unsigned>(i % 8 * kChunk)) + i * kDim,
                   i < of_parent ? from + jump : from, i < rows_left);
    from += kStep * rows.stride;
  }
}

// Starts to copy log_sum_exp and then delta of queries first .. first + kQueries - 1 of the sequence whose position 0
// would be row `begin`; zeros from `end` on.
template <int kQueries>
__device__ void copy_sums(const Arguments& a, int begin, int head, int first, int end, float* to) {
  const int thread = static_cast<int>(computed_here(threadIdx.x));
  if (thread >= kQueries) return;
  const bool inside = first + thread < end;
  const std::int64_t at = row_of(a, begin, first + thread, head);
  start_copy<4>(to + thread, a.log_sum_exp + at, inside);
  start_copy<4>(to + kQueries + thread, a.delta + at, inside);
}

// Products to scores.
template <int kGroups, int kColumns>
__device__ void apply_softcap(const Arguments& a, Fragments<kGroups, kColumns>& products) {
  if (a.cap_exponent == 0.0f) return;
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    SAO_UNROLL
    for (int n = 0; n < kColumns / 8; ++n) {
      SAO_UNROLL
      for (int e = 0; e < 4; ++e) {
        float& x = products.value[g][n][e];
        x = fmaf(-2.0f, fast_reciprocal(1.0f + fast_exp2(x * a.cap_exponent)), 1.0f);
      }
    }
  }
}

// The softmax's weight of a key, and its derivative with respect to the product, less the scale.
struct Weight {
  float weight, slope;
};
__device__ Weight weigh(const Arguments& a, float score, float log2_sum) {
  const float weight = fast_exp2(fmaf(score, a.exponent, -log2_sum));
  return {weight, weight * fmaf(a.cap_exponent == 0.0f ? 0.0f : -score, score, 1.0f)};
}

// Writes sums * factors as rows first .. of one head, up to `end`.
template <int kGroups, int kDim>
__device__ void write_rows(Fragments<kGroups, kDim>& sums, const float (&factors)[kGroups][2], BFloat16* rows,
                           std::int64_t row_stride, int first, int end, int head_dim) {
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    SAO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = first + 16 * g + 8 * half + lane() / 4;
      if (row >= end) continue;
      BFloat16* to = rows + row * row_stride + lane() % 4 * 2;
      SAO_UNROLL
      for (int n = 0; n < kDim / 8; ++n) {
        const float* pair = &sums.value[g][n][2 * half];
        if (8 * n < head_dim) store_pair(to + 8 * n, pair[0] * factors[g][half], pair[1] * factors[g][half]);
      }
    }
  }
}

// Shapes of the tiles, and where they are in shared memory: as many rows a warp as its registers hold, and of the
// widest heads its left factors too.
template <int kDim>
struct Forward {
  static constexpr bool kInRegisters = kDim > 128;  // the queries
  static constexpr int kGroups = kDim <= 128 ? 2 : 1, kRows = 16 * kGroups, kQueries = 128;
  static constexpr int kThreads = kQueries / kRows * 32, kKeys = kDim <= 64 ? 64 : kDim <= 128 ? 48 : 32;
  static constexpr std::size_t kQueryBytes = sizeof(BFloat16) * kDim * kQueries;
  static constexpr std::size_t kStageBytes = sizeof(BFloat16) * kDim * 2 * kKeys;
  // Two stages of keys and values; one takes the place of queries that have gone to registers.
  static constexpr std::size_t kStage0 = kQueryBytes, kStage1 = kInRegisters ? 0 : kQueryBytes + kStageBytes;
  static constexpr std::size_t kBytes = kQueryBytes + (kInRegisters ? 1 : 2) * kStageBytes;
  static_assert(kBytes <= kSharedBytes && kStageBytes <= kQueryBytes);
};

template <int kDim>
struct OfQueries {
  static constexpr bool kInRegisters = kDim > 128;  // the output's gradient
  static constexpr int kGroups = kDim <= 128 ? 2 : 1, kRows = 16 * kGroups, kWarps = 4, kThreads = 32 * kWarps;
  static constexpr int kQueries = kWarps * kRows, kKeys = 32;
  static constexpr std::size_t kQueryBytes = sizeof(BFloat16) * kDim * kQueries;
  static constexpr std::size_t kStageBytes = sizeof(BFloat16) * kDim * 2 * kKeys;
  static constexpr std::size_t kStage0 = (kInRegisters ? 1 : 2) * kQueryBytes, kStage1 = kStage0 + kStageBytes;
  static constexpr std::size_t kGrads = kInRegisters ? kStage1 : kQueryBytes;
  // log_sum_exp and delta of each query
  static constexpr std::size_t kSums = kStage1 + kStageBytes, kBytes = kSums + sizeof(float) * 2 * kQueries;
  static_assert(kBytes <= kSharedBytes && kQueries <= kThreads && (!kInRegisters || kQueryBytes <= kStageBytes));
};

// The two stages of keys and values of one head that both of these have.
template <class Shape, int kDim>
struct Stages {
  unsigned char* shared;
  int kv_head, end;  // of the keys

  // [keys][D] of K, and behind it the same of V.
  __device__ BFloat16* keys(int stage) const {
    return reinterpret_cast<BFloat16*>(shared + (stage == 0 ? Shape::kStage0 : Shape::kStage1));
  }
  __device__ void start_copies(const Arguments& a, int stage, int first) const {
    constexpr int kKeys = Shape::kKeys;
    const int head_dim = static_cast<int>(a.head_dim);
    BFloat16* to = keys(stage);
    const AttentionTile tile = tile_here<Shape::kQueries>(a);
    const int head = static_cast<int>(computed_here(static_cast<unsigned>(kv_head)));
    copy_tile<kKeys, kDim, Shape::kThreads>(to, positions_seen(a.k, tile, head), first, end, head_dim);
    copy_tile<kKeys, kDim, Shape::kThreads>(to + kKeys * kDim, positions_seen(a.v, tile, head), first, end, head_dim);
  }
};

// Half of the warps sum the values' gradients, the others the keys': each has its side of the scores, K or V.
template <int kDim>
struct OfKeys {
  static constexpr bool kInRegisters = kDim > 128;  // K or V
  static constexpr int kGroups = kDim <= 128 ? 2 : 1, kRows = 16 * kGroups, kPairs = kDim <= 128 ? 2 : 4;
  static constexpr int kThreads = 64 * kPairs, kKeys = kPairs * kRows, kQueries = kDim <= 64 ? 64 : 32;
  static constexpr std::size_t kTileBytes = sizeof(BFloat16) * kDim * kQueries;
  static constexpr std::size_t kSumBytes = sizeof(float) * 2 * kQueries;  // log_sum_exp and delta of each query
  static constexpr std::size_t kSlopeBytes = sizeof(float) * kKeys * kQueries;
  static constexpr std::size_t kKeyBytes = sizeof(BFloat16) * kDim * kKeys;
  // Rings: of Q and of the sums three, as the keys' warps are a step behind; of the rest two.
  static constexpr std::size_t kGrads = 3 * kTileBytes, kSlopes = kGrads + 2 * kTileBytes;
  static constexpr std::size_t kSums = kSlopes + 2 * kSlopeBytes, kKeysAt = kSums + 3 * kSumBytes;
  static constexpr std::size_t kBytes = kKeysAt + (kInRegisters ? 0 : 2 * kKeyBytes);
  static_assert(kBytes <= kSharedBytes && kQueries <= kThreads && (!kInRegisters || 2 * kKeyBytes <= kKeysAt));
};

// One block: one tile of queries of one head.
template <int kDim>
__global__ void __launch_bounds__(Forward<kDim>::kThreads) attend_tiles(Arguments a) {
  using Shape = Forward<kDim>;
  constexpr int kGroups = Shape::kGroups, kQueries = Shape::kQueries, kKeys = Shape::kKeys, kRows = Shape::kRows;
  using Left = std::conditional_t<Shape::kInRegisters, LeftInRegisters<kGroups, kDim>, LeftInShared<kGroups, kDim>>;
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  BFloat16* queries = reinterpret_cast<BFloat16*>(shared);
  const AttentionTile tile = tile_here<kQueries>(a);
  if (tile.first >= tile.length) return;
  const int head = static_cast<int>(blockIdx.y), kv_head = a.kv_head_of(head);
  const int head_dim = static_cast<int>(a.head_dim);
  const int end = min(tile.first + kQueries, tile.length), query0 = tile.first + warp() * kRows;

  const Stages<Shape, kDim> stages{shared, kv_head, end};
  int first = a.first_key(tile.first) / kKeys * kKeys;
  copy_tile<kQueries, kDim, Shape::kThreads>(queries, own_positions(a.q, tile.query_begin, head), tile.first, end,
                                             head_dim);
  stages.start_copies(a, 0, first);
  if constexpr (Shape::kInRegisters) {
    wait_for_copies();
    __syncthreads();
  }
  const Left left = Left(LeftInShared<kGroups, kDim>{queries, warp() * kRows});
  Fragments<kGroups, kDim> out;
  out.clear();
  float top[kGroups][2], total[kGroups][2];
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    top[g][0] = top[g][1] = -kInfinity;
    total[g][0] = total[g][1] = 0.0f;
  }
  for (int stage = 0; first < end; first += kKeys, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this stage is here; the other has been read
    if (first + kKeys < end) stages.start_copies(a, stage ^ 1, first + kKeys);
    // Of a tile on the diagonal, and of the last of a sequence, not every warp has something to see.
    if (query0 >= end || !a.sees_any(query0, query0 + kRows - 1, first, first + kKeys - 1)) continue;
    const BFloat16* keys = stages.keys(stage);
    Fragments<kGroups, kKeys> score;
    multiply_by_transposed<kDim>(left, keys, score);
    apply_softcap(a, score);
    if (!a.sees_all(query0, query0 + kRows - 1, first, first + kKeys - 1)) {
      score.set_outside(1 - a.reach, 0, query0, first, -kInfinity);
    }
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int half = 0; half < 2; ++half) {
        float highest = top[g][half];
        SAO_UNROLL
        for (int n = 0; n < kKeys / 8; ++n)
          highest = fmaxf(highest, fmaxf(score.value[g][n][2 * half], score.value[g][n][2 * half + 1]));
        highest = maximum_over<4>(highest);
        // A row that has seen no key yet keeps its -infinity; its weights are all zero.
        const float base = highest == -kInfinity ? 0.0f : highest * a.exponent;
        const float shrink = fast_exp2(fmaf(top[g][half], a.exponent, -base));
        float sum = 0.0f;
        SAO_UNROLL
        for (int n = 0; n < kKeys / 8; ++n) {
          SAO_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            score.value[g][n][e] = fast_exp2(fmaf(score.value[g][n][e], a.exponent, -base));
            sum += score.value[g][n][e];
          }
        }
        top[g][half] = highest;
        total[g][half] = fmaf(total[g][half], shrink, sum);  // of this thread's columns
        SAO_UNROLL
        for (int n = 0; n < kDim / 8; ++n) {
          out.value[g][n][2 * half] *= shrink;
          out.value[g][n][2 * half + 1] *= shrink;
        }
      }
    }
    add_product(LeftInRegisters<kGroups, kKeys>(score), keys + kKeys * kDim, out);
  }
  const int query_begin = tile_here<kQueries>(a).query_begin;
  float factors[kGroups][2];
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) {
    SAO_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int query = query0 + 16 * g + 8 * half + lane() / 4;
      const float sum = sum_over<4>(total[g][half]);
      factors[g][half] = 1.0f / sum;
      if (a.log_sum_exp != nullptr && query < end && lane() % 4 == 0)
        a.log_sum_exp[row_of(a, query_begin, query, head)] = top[g][half] * a.exponent * kLogOf2 + logf(sum);
    }
  }
  write_rows(out, factors, a.out + (query_begin * a.heads + head) * head_dim, a.heads * head_dim, query0, end,
             head_dim);
}

// One block: one tile of queries of one head.
template <int kDim>
__global__ void __launch_bounds__(OfQueries<kDim>::kThreads) backward_queries(Arguments a) {
  using Shape = OfQueries<kDim>;
  constexpr int kGroups = Shape::kGroups, kQueries = Shape::kQueries, kKeys = Shape::kKeys, kRows = Shape::kRows;
  using LeftGrads =
      std::conditional_t<Shape::kInRegisters, LeftInRegisters<kGroups, kDim>, LeftInShared<kGroups, kDim>>;
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  BFloat16* queries = reinterpret_cast<BFloat16*>(shared);
  BFloat16* grads = reinterpret_cast<BFloat16*>(shared + Shape::kGrads);  // the output's gradient
  const AttentionTile tile = tile_here<kQueries>(a);
  if (tile.first >= tile.length) return;
  const int head = static_cast<int>(blockIdx.y), kv_head = a.kv_head_of(head);
  const int head_dim = static_cast<int>(a.head_dim);
  const HeadRows<BFloat16> out_grad = a.out_grad_rows();
  const int end = min(tile.first + kQueries, tile.length);

  const Stages<Shape, kDim> stages{shared, kv_head, end};
  int first = a.first_key(tile.first) / kKeys * kKeys;
  copy_tile<kQueries, kDim, Shape::kThreads>(grads, own_positions(out_grad, tile.query_begin, head), tile.first, end,
                                             head_dim);
  copy_tile<kQueries, kDim, Shape::kThreads>(queries, own_positions(a.q, tile.query_begin, head), tile.first, end,
                                             head_dim);
  float* sums = reinterpret_cast<float*>(shared + Shape::kSums);
  copy_sums<kQueries>(a, tile.query_begin, head, tile.first, end, sums);
  stages.start_copies(a, 0, first);
  if constexpr (Shape::kInRegisters) {
    wait_for_copies();
    __syncthreads();
  }
  const LeftInShared<kGroups, kDim> left_queries{queries, warp() * kRows};
  const LeftGrads left_grads = LeftGrads(LeftInShared<kGroups, kDim>{grads, warp() * kRows});
  Fragments<kGroups, kDim> q_grad;
  q_grad.clear();
  for (int stage = 0; first < end; first += kKeys, stage ^= 1) {
    wait_for_copies();
    __syncthreads();  // this stage is here; the other has been read
    if (first + kKeys < end) stages.start_copies(a, stage ^ 1, first + kKeys);
    const int query0 = tile.first + static_cast<int>(computed_here(threadIdx.x) / 32) * kRows;
    if (query0 >= end || !a.sees_any(query0, query0 + kRows - 1, first, first + kKeys - 1)) continue;
    const BFloat16* keys = stages.keys(stage);
    Fragments<kGroups, kKeys> weight_grad, score;
    multiply_by_transposed<kDim>(left_grads, keys + kKeys * kDim, weight_grad);
    multiply_by_transposed<kDim>(left_queries, keys, score);
    apply_softcap(a, score);
    const unsigned thread = computed_here(threadIdx.x);
    const float* sums_of_warp = sums + thread / 32 * kRows + thread % 32 / 4;
    SAO_UNROLL
    for (int g = 0; g < kGroups; ++g) {
      SAO_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float* of_row = sums_of_warp + 16 * g + 8 * half;
        const float log2_sum = of_row[0] * kLog2OfE, delta = of_row[kQueries];
        SAO_UNROLL
        for (int n = 0; n < kKeys / 8; ++n) {
          SAO_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            float& x = score.value[g][n][e];
            x = weigh(a, x, log2_sum).slope * (weight_grad.value[g][n][e] - delta);
          }
        }
      }
    }
    if (!a.sees_all(query0, query0 + kRows - 1, first, first + kKeys - 1)) {
      score.set_outside(1 - a.reach, 0, query0, first, 0.0f);
    }
    add_product(LeftInRegisters<kGroups, kKeys>(score), keys, q_grad);
  }
  float factors[kGroups][2];
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) factors[g][0] = factors[g][1] = a.scale;
  const int query_begin = tile_here<kQueries>(a).query_begin;
  write_rows(q_grad, factors, a.q_grad + (query_begin * a.heads + head) * head_dim, a.heads * head_dim,
             tile.first + warp() * kRows, end, head_dim);
}

// One block: one tile of keys and values of one key/value head, against all queries of its group that see them: those
// of their sequence, then those of each that continues it. A pair of warps has the same keys. One computes the weights
// and sums the values' gradient; the other, with the slopes that it gets from the first, computes the products'
// gradients and sums the keys'. It does the second half of that one step later: then it never waits for the first, and
// multiplies while that one computes weights.
template <int kDim>
__global__ void __launch_bounds__(OfKeys<kDim>::kThreads) backward_keys(Arguments a) {
  using Shape = OfKeys<kDim>;
  constexpr int kGroups = Shape::kGroups, kQueries = Shape::kQueries, kKeys = Shape::kKeys, kRows = Shape::kRows;
  constexpr int kThreads = Shape::kThreads, kBlocks = kQueries / 8;
  using Left = std::conditional_t<Shape::kInRegisters, LeftInRegisters<kGroups, kDim>, LeftInShared<kGroups, kDim>>;
  unsigned char* shared = reinterpret_cast<unsigned char*>(dynamic_shared);
  BFloat16* keys = reinterpret_cast<BFloat16*>(Shape::kInRegisters ? shared : shared + Shape::kKeysAt);
  BFloat16* values = keys + kKeys * kDim;
  const AttentionTile tile = tile_here<kKeys, true>(a);
  if (tile.first >= tile.length) return;
  const int first = tile.first;
  const int kv_head = static_cast<int>(blockIdx.y), head_dim = static_cast<int>(a.head_dim);
  const int pair = warp() % Shape::kPairs, key0 = first + pair * kRows;
  const bool of_values = warp() < Shape::kPairs;
  const HeadRows<BFloat16> out_grad = a.out_grad_rows();

  copy_tile<kKeys, kDim, kThreads>(keys, own_positions(a.k, tile.begin, kv_head), first, tile.length, head_dim);
  copy_tile<kKeys, kDim, kThreads>(values, own_positions(a.v, tile.begin, kv_head), first, tile.length, head_dim);
  if constexpr (Shape::kInRegisters) {
    wait_for_copies();
    __syncthreads();
  }
  const Left left = Left(LeftInShared<kGroups, kDim>{of_values ? keys : values, pair * kRows});
  if constexpr (Shape::kInRegisters) {
    __syncthreads();  // the rings are free
  }

  const auto queries_at = [&](int third) { return reinterpret_cast<BFloat16*>(shared + third * Shape::kTileBytes); };
  const auto grads_at = [&](int half) {
    return reinterpret_cast<BFloat16*>(shared + Shape::kGrads + half * Shape::kTileBytes);
  };
  const auto sums_at = [&](int third) {
    return reinterpret_cast<float*>(shared + Shape::kSums + third * Shape::kSumBytes);
  };
  const auto slopes_at = [&](int half) {  // [pair][group][block][lane]
    return reinterpret_cast<float4*>(shared + Shape::kSlopes + half * Shape::kSlopeBytes) +
           pair * kGroups * kBlocks * 32 + lane();
  };

  // The step whose copies start next: queries first .. of one head and of one of the sequences that see the keys.
  QueryRange next = a.queries_that_see(tile, kKeys, 0);
  int head = kv_head * a.group, number = 0;
  bool more = true;
  const auto advance = [&] {
    next.first += kQueries;
    if (next.first < next.end) return;
    if (++head == (kv_head + 1) * a.group) {
      head = kv_head * a.group;
      ++number;
    }
    const AttentionTile here = tile_here<kKeys, true>(a);
    for (; number <= here.child_count; ++number) {
      next = a.queries_that_see(here, kKeys, number);
      if (next.first < next.end) return;
    }
    more = false;
  };
  const auto copy_step = [&](int third, int half) {
    copy_tile<kQueries, kDim, kThreads>(queries_at(third), own_positions(a.q, next.begin, head), next.first, next.end,
                                        head_dim);
    copy_tile<kQueries, kDim, kThreads>(grads_at(half), own_positions(out_grad, next.begin, head), next.first, next.end,
                                        head_dim);
    copy_sums<kQueries>(a, next.begin, head, next.first, next.end, sums_at(third));
  };
  const auto hide = [&](Fragments<kGroups, kQueries>& values_of, int query0) {
    if (!a.sees_all(query0, query0 + kQueries - 1, key0, key0 + kRows - 1))
      values_of.set_outside(0, a.reach - 1, key0, query0, 0.0f);
  };

  Fragments<kGroups, kDim> sums;
  sums.clear();
  Fragments<kGroups, kQueries> weight_grads;
  weight_grads.clear();
  copy_step(0, 0);
  int this_query0 = next.first;
  for (int step = 0, third = 0;; ++step) {
    wait_for_copies();
    __syncthreads();  // this step's copies and the last one's slopes are here; what it replaces has been read
    const int last_query0 = this_query0, half = step % 2, last_third = third == 0 ? 2 : third - 1;
    const int this_third = third;
    third = third == 2 ? 0 : third + 1;
    this_query0 = next.first;
    const bool is_step = more;  // or only the rest of the last one
    if (more) advance();
    if (more) copy_step(third, 1 - half);
    if (of_values) {
      if (!is_step) break;
      Fragments<kGroups, kQueries> weights;
      multiply_by_transposed<kDim>(left, queries_at(this_third), weights);
      apply_softcap(a, weights);
      SAO_UNROLL
      for (int n = 0; n < kBlocks; ++n) {
        const float* log_sum_exp = sums_at(this_third) + 8 * n + lane() % 4 * 2;
        const float log2_sum[2] = {log_sum_exp[0] * kLog2OfE, log_sum_exp[1] * kLog2OfE};
        SAO_UNROLL
        for (int g = 0; g < kGroups; ++g) {
          float slope[4];
          SAO_UNROLL
          for (int e = 0; e < 4; ++e) {
            const Weight w = weigh(a, weights.value[g][n][e], log2_sum[e % 2]);
            weights.value[g][n][e] = w.weight;
            slope[e] = w.slope;
          }
          slopes_at(half)[(g * kBlocks + n) * 32] = make_float4(slope[0], slope[1], slope[2], slope[3]);
        }
      }
      hide(weights, this_query0);
      add_product(LeftInRegisters<kGroups, kQueries>(weights), grads_at(half), sums);
    } else {
      if (step > 0) {
        SAO_UNROLL
        for (int n = 0; n < kBlocks; ++n) {
          const float* delta = sums_at(last_third) + kQueries + 8 * n + lane() % 4 * 2;
          SAO_UNROLL
          for (int g = 0; g < kGroups; ++g) {
            const float4 slope = slopes_at(1 - half)[(g * kBlocks + n) * 32];
            float(&x)[4] = weight_grads.value[g][n];
            x[0] = slope.x * (x[0] - delta[0]);
            x[1] = slope.y * (x[1] - delta[1]);
            x[2] = slope.z * (x[2] - delta[0]);
            x[3] = slope.w * (x[3] - delta[1]);
          }
        }
        hide(weight_grads, last_query0);
        add_product(LeftInRegisters<kGroups, kQueries>(weight_grads), queries_at(last_third), sums);
      }
      if (!is_step) break;
      multiply_by_transposed<kDim>(left, grads_at(half), weight_grads);
    }
  }
  float factors[kGroups][2];
  SAO_UNROLL
  for (int g = 0; g < kGroups; ++g) factors[g][0] = factors[g][1] = of_values ? 1.0f : a.scale;
  const AttentionTile here = tile_here<kKeys, true>(a);
  write_rows(sums, factors, (of_values ? a.v_grad : a.k_grad) + (here.begin * a.kv_heads + kv_head) * head_dim,
             a.kv_heads * head_dim, key0, here.length, head_dim);
}

Arguments with_exponents(const AttentionArguments<BFloat16>& arguments) {
  Arguments a{};
  static_cast<AttentionArguments<BFloat16>&>(a) = arguments;
  constexpr std::int64_t kFar = std::int64_t{1} << 30;
  a.group = static_cast<int>(a.heads / a.kv_heads);
  a.reach = static_cast<int>(a.window > 0 ? min(a.window, kFar) : kFar);
  a.exponent = (a.softcap > 0.0f ? a.softcap : a.scale) * kLog2OfE;
  a.cap_exponent = a.softcap > 0.0f ? 2.0f * kLog2OfE * a.scale / a.softcap : 0.0f;
  return a;
}

template <int kDim>
void run_forward(const Arguments& a, void* stream) {
  using Shape = Forward<kDim>;
  launch<Shape::kThreads>(attend_tiles<kDim>, a.tile_count * (kTileRows / Shape::kQueries), a.heads, Shape::kBytes,
                          stream, a);
}

template <int kDim>
void run_backward(const Arguments& a, void* stream) {
  using Shape = OfQueries<kDim>;
  launch<Shape::kThreads>(backward_queries<kDim>, a.tile_count * (kTileRows / Shape::kQueries), a.heads, Shape::kBytes,
                          stream, a);
  using Keys = OfKeys<kDim>;
  launch<Keys::kThreads>(backward_keys<kDim>, a.tile_count * (kTileRows / Keys::kKeys), a.kv_heads, Keys::kBytes,
                         stream, a);
}

bool in_chunks(const HeadRows<BFloat16>& rows) {
  return reinterpret_cast<std::uintptr_t>(rows.data) % (kChunk * sizeof(BFloat16)) == 0 &&
         rows.token_stride % kChunk == 0 && rows.head_stride % kChunk == 0;
}

}  // namespace
}  // namespace mma

bool fits_tensor_cores(const AttentionArguments<BFloat16>& a) {
  return a.head_dim % 16 == 0 && a.head_dim <= kMaxHeadDim && a.scale > 0.0f && mma::in_chunks(a.q) &&
         mma::in_chunks(a.k) && mma::in_chunks(a.v) && mma::in_chunks({a.out, 0, 0}) &&
         mma::in_chunks({a.out_grad, 0, 0});
}

void attend_on_tensor_cores(const AttentionArguments<BFloat16>& arguments, void* stream) {
  const mma::Arguments a = mma::with_exponents(arguments);
  if (a.head_dim <= 64) {
    mma::run_forward<64>(a, stream);
  } else if (a.head_dim <= 128) {
    mma::run_forward<128>(a, stream);
  } else {
    mma::run_forward<256>(a, stream);
  }
}

void attend_backward_on_tensor_cores(const AttentionArguments<BFloat16>& arguments, void* stream) {
  const mma::Arguments a = mma::with_exponents(arguments);
  if (a.head_dim <= 64) {
    mma::run_backward<64>(a, stream);
  } else if (a.head_dim <= 128) {
    mma::run_backward<128>(a, stream);
  } else {
    mma::run_backward<256>(a, stream);
  }
}

}  // namespace sao::ops::cuda
