// SPDX-License-Identifier: Apache-2.0
// One new token a sequence against the paged cache, at the memory's speed. A block takes the query heads of one
// key/value head, so that the cache is read once for all of them, and kPartKeys of a sequence's keys; what several
// blocks found of a sequence is merged after (FlashDecoding: Dao et al. 2023). Its warps take pages of these keys by
// turns, each with a softmax of its own so far: a page of keys and one of values are on their way to its shared memory
// while it computes with those before them, and no warp waits for another one on the way. Parts begin at multiples
// of kPartKeys: a row's result depends on its own sequence only.
#include "ops/cuda_mma.h"

namespace sao::ops::cuda {
namespace {

constexpr int kDecodePage = static_cast<int>(kAttentionBlock);
constexpr int kPartKeys = static_cast<int>(kDecodePart);
static_assert(kPartKeys % kDecodePage == 0);
// Of a block, so that the pages on their way fit in shared memory.
template <class T>
constexpr int kDecodeWarps = sizeof(T) == 2 ? 4 : 2;

// The token of a sequence that decodes: its row, and the keys it sees.
struct DecodeSeen {
  std::int64_t row;
  int first, length;  // keys first .. length - 1
  bool any;           // false: the sequence has several new tokens, which others compute
};

template <class T>
__device__ DecodeSeen seen_by(const PagedAttention<T>& a, int sequence) {
  const std::int64_t row = a.starts[sequence];
  const int length = static_cast<int>(a.lengths[sequence]), window = static_cast<int>(a.window);
  return {row, window > 0 && length > window ? length - window : 0, length, a.starts[sequence + 1] - row == 1};
}

// v[i] summed over the lanes that differ in the bits kFrom .. 16; the lanes halve the numbers between them as long as
// there are several, so that a lane is left with v[0] of number *index.
template <int kCount, int kFrom>
__device__ void sum_and_scatter(float (&v)[kCount], int* index) {
  int count = kCount;
  SAO_UNROLL
  for (int bit = 16; bit >= kFrom; bit /= 2) {
    if (count == 1) {
      v[0] += __shfl_xor_sync(kAllLanes, v[0], bit);
      continue;
    }
    count /= 2;
    const bool upper = (lane() & bit) != 0;
    SAO_UNROLL
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= count) break;
      const float sent = upper ? v[i] : v[i + count];
      v[i] = (upper ? v[i + count] : v[i]) + __shfl_xor_sync(kAllLanes, sent, bit);
    }
    if (upper) *index += count;
  }
}

template <int kCount>
__device__ void load_floats(float (&to)[kCount], const float* from) {
  constexpr int kPack = kCount < 4 ? kCount : 4;
  SAO_UNROLL
  for (int i = 0; i < kCount; i += kPack) {
    const Pack<float, kPack> pack = load<kPack>(from + i);
    SAO_UNROLL
    for (int j = 0; j < kPack; ++j) to[i + j] = pack.value[j];
  }
}

// What a block has in shared memory.
template <class T, int kHeads>
struct DecodeShared {
  static constexpr int kWarps = kDecodeWarps<T>;
  T* pages;             // [kWarps][2][16 * D]: of keys, of values
  float* sums;          // [kWarps][groups of lanes][kHeads][D], in the same place, when the pages are done with
  float* queries;       // [D][kHeads]
  float* weights;       // [kWarps][16][kHeads]
  float* totals;        // [kWarps][kHeads][2]: highest score, sum of weights
  std::int32_t* table;  // of the part
  __device__ explicit DecodeShared(int head_dim) {
    pages = reinterpret_cast<T*>(dynamic_shared);
    sums = reinterpret_cast<float*>(dynamic_shared);
    queries = sums + page_bytes(head_dim) / sizeof(float);
    weights = queries + head_dim * kHeads;
    totals = weights + kWarps * kDecodePage * kHeads;
    table = reinterpret_cast<std::int32_t*>(totals + kWarps * kHeads * 2);
  }
  __device__ __host__ static std::size_t page_bytes(int head_dim) {
    const int copied = 2 * kDecodePage * head_dim * static_cast<int>(sizeof(T));
    const int summed = lane_groups(head_dim) * kHeads * head_dim * static_cast<int>(sizeof(float));
    return static_cast<std::size_t>(kWarps) * static_cast<std::size_t>(copied > summed ? copied : summed);
  }
  static std::size_t bytes(std::int64_t head_dim) {
    const std::int64_t floats = kHeads * (head_dim + kWarps * (kDecodePage + 2)) + kPartKeys / kDecodePage;
    return page_bytes(static_cast<int>(head_dim)) + sizeof(float) * static_cast<std::size_t>(floats);
  }
  // Lanes side by side hold the columns of one key's values; as many groups of them as fit take one key each.
  __device__ __host__ static int lane_groups(int head_dim) {
    const int lanes = head_dim / kVector<T>;
    return lanes >= 32 ? 1 : 32 / lanes;
  }
};

// Block (x, y): query heads kHeads * (x % head groups) .. of key/value head .. of sequence .., keys of part y.
template <class T, int kHeads>
__global__ void __launch_bounds__(32 * kDecodeWarps<T>) attend_part(PagedAttention<T> a, int head_groups) {
  constexpr int kNumbers = kVector<T>, kChunks = kDecodePage / kNumbers, kColumnChunks = sizeof(T) == 2 ? 1 : 2;
  constexpr int kWarps = kDecodeWarps<T>, kThreads = 32 * kWarps;
  const int head_dim = static_cast<int>(a.head_dim), group = static_cast<int>(a.heads / a.kv_heads);
  const int kv_heads = static_cast<int>(a.kv_heads);
  const int head_group = static_cast<int>(blockIdx.x) % head_groups;
  const int kv_head = static_cast<int>(blockIdx.x) / head_groups % kv_heads;
  const int sequence = static_cast<int>(blockIdx.x) / head_groups / kv_heads;
  const int part = static_cast<int>(blockIdx.y), begin = part * kPartKeys;
  const DecodeSeen seen = seen_by(a, sequence);
  if (!seen.any || begin >= seen.length || begin + kPartKeys <= seen.first) return;
  const int end = min(seen.length, begin + kPartKeys);
  const int first_page = (seen.first > begin ? seen.first - begin : 0) / kDecodePage;
  const int pages = (end - begin + kDecodePage - 1) / kDecodePage;
  const int head0 = kv_head * group + head_group * kHeads, heads = min(kHeads, group - head_group * kHeads);
  const DecodeShared<T, kHeads> shared(head_dim);
  const int page_size = kDecodePage * head_dim;
  T* const key_page = shared.pages + warp() * 2 * page_size;
  T* const value_page = key_page + page_size;

  // This warp's pages: first_page + warp(), kWarps further each.
  for (int page = first_page + warp() + lane() * kWarps; page < pages; page += 32 * kWarps) {
    shared.table[page] = a.tables[sequence * a.table_stride + begin / kDecodePage + page];
  }
  __syncwarp();
  const auto start_page = [&](T* to, const T* cache, int page, bool values) {
    if (page < pages) {
      const T* from = cache + (static_cast<std::int64_t>(shared.table[page]) * kv_heads + kv_head) * page_size;
      const int first = begin + page * kDecodePage;
      const bool whole = !values || (first >= seen.first && first + kDecodePage <= end);
      SAO_UNROLL_BY(4)
      for (int i = lane() * kNumbers; i < page_size; i += 32 * kNumbers) {
        bool inside = true;
        if (!whole) {  // what is past the end may be anything, also NaN
          const int key = first + i / head_dim;
          inside = key >= seen.first && key < end;
        }
        start_copy<16>(to + i, from + i, inside);
      }
    }
    commit_copies();
  };
  start_page(key_page, a.keys, first_page + warp(), false);
  start_page(value_page, a.values, first_page + warp(), true);

  for (int i = static_cast<int>(threadIdx.x); i < kHeads * head_dim; i += kThreads) {
    const int head = i / head_dim, d = i % head_dim;
    const T* q = a.q.data + seen.row * a.q.token_stride + (head0 + head) * a.q.head_stride;
    shared.queries[d * kHeads + head] = head < heads ? to_float(q[d]) * a.scale : 0.0f;
  }
  __syncthreads();

  // A group of lanes takes a key's values, a lane kNumbers columns of them.
  const int lanes = min(32, head_dim / kNumbers), groups = DecodeShared<T, kHeads>::lane_groups(head_dim);
  const int lane_group = lane() / lanes, column = lane() % lanes * kNumbers;
  float* const weights = shared.weights + warp() * kDecodePage * kHeads;
  float highest[kHeads], total[kHeads], sums[kHeads][kColumnChunks][kNumbers];
  SAO_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    highest[h] = -kInfinity;
    total[h] = 0.0f;
    SAO_UNROLL
    for (int c = 0; c < kColumnChunks; ++c) {
      SAO_UNROLL
      for (int i = 0; i < kNumbers; ++i) sums[h][c][i] = 0.0f;
    }
  }

  for (int page = first_page + warp(); page < pages; page += kWarps) {
    // Scores. A page of keys is [D][16]: lane l reads keys kNumbers * (l % kChunks) .. of column l / kChunks, and so
    // on.
    wait_for_copies_but<1>();
    __syncwarp();
    float products[kHeads][kNumbers];
    SAO_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      SAO_UNROLL
      for (int i = 0; i < kNumbers; ++i) products[h][i] = 0.0f;
    }
    SAO_UNROLL_BY(8)
    for (int d = lane() / kChunks; d < head_dim; d += 32 / kChunks) {
      const Pack<T, kNumbers> key = load<kNumbers>(key_page + d * kDecodePage + lane() % kChunks * kNumbers);
      float q[kHeads];
      load_floats(q, shared.queries + d * kHeads);
      SAO_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        SAO_UNROLL
        for (int i = 0; i < kNumbers; ++i) products[h][i] = fmaf(q[h], to_float(key.value[i]), products[h][i]);
      }
    }
    __syncwarp();
    start_page(key_page, a.keys, page + kWarps, false);

    SAO_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      int key = lane() % kChunks * kNumbers;
      sum_and_scatter<kNumbers, kChunks>(products[h], &key);
      const int position = begin + page * kDecodePage + key;
      const bool visible = position >= seen.first && position < end;
      const float score = visible ? soft_capped(products[h][0], a.softcap) : -kInfinity;
      const float before = highest[h];
      highest[h] = fmaxf(before, maximum_over<32>(score));
      const float base = finite_base(highest[h]);
      const float weight = expf(score - base), shrink = expf(before - base);
      weights[key * kHeads + h] = weight;  // lanes that hold the same key write the same
      total[h] = fmaf(total[h], shrink, weight);
      SAO_UNROLL
      for (int c = 0; c < kColumnChunks; ++c) {
        SAO_UNROLL
        for (int i = 0; i < kNumbers; ++i) sums[h][c][i] *= shrink;
      }
    }

    // Values [16][D].
    wait_for_copies_but<1>();
    __syncwarp();
    if (lane_group < groups) {
      SAO_UNROLL_BY(8)
      for (int key = lane_group; key < kDecodePage; key += groups) {
        float weight[kHeads];
        load_floats(weight, weights + key * kHeads);
        SAO_UNROLL
        for (int c = 0; c < kColumnChunks; ++c) {
          const int d = column + c * 32 * kNumbers;
          if (c > 0 && d >= head_dim) break;
          const Pack<T, kNumbers> value = load<kNumbers>(value_page + key * head_dim + d);
          SAO_UNROLL
          for (int h = 0; h < kHeads; ++h) {
            SAO_UNROLL
            for (int i = 0; i < kNumbers; ++i) {
              sums[h][c][i] = fmaf(weight[h], to_float(value.value[i]), sums[h][c][i]);
            }
          }
        }
      }
    }
    __syncwarp();
    start_page(value_page, a.values, page + kWarps, true);
  }

  __syncthreads();  // the sums go where pages were
  SAO_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    const float sum = sum_over<32>(total[h]) * (kDecodePage / 32.0f);  // each key's weight is in several lanes
    if (lane() == 0) {
      shared.totals[(warp() * kHeads + h) * 2] = highest[h];
      shared.totals[(warp() * kHeads + h) * 2 + 1] = sum;
    }
    if (lane_group >= groups) continue;
    float* to = shared.sums + ((warp() * groups + lane_group) * kHeads + h) * head_dim;
    SAO_UNROLL
    for (int c = 0; c < kColumnChunks; ++c) {
      const int d = column + c * 32 * kNumbers;
      if (c > 0 && d >= head_dim) break;
      SAO_UNROLL
      for (int i = 0; i < kNumbers; ++i) to[d + i] = sums[h][c][i];
    }
  }
  __syncthreads();

  const bool alone = seen.first / kPartKeys == (seen.length - 1) / kPartKeys;
  for (int i = static_cast<int>(threadIdx.x); i < heads * head_dim; i += kThreads) {
    const int h = i / head_dim, d = i % head_dim;
    float top = -kInfinity, whole = 0.0f, sum = 0.0f;
    SAO_UNROLL
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared.totals[(w * kHeads + h) * 2]);
    const float base = finite_base(top);
    for (int w = 0; w < kWarps; ++w) {
      const float* of_warp = shared.totals + (w * kHeads + h) * 2;
      const float shrink = expf(of_warp[0] - base);
      whole = fmaf(of_warp[1], shrink, whole);
      for (int g = 0; g < groups; ++g) {
        sum = fmaf(shared.sums[((w * groups + g) * kHeads + h) * head_dim + d], shrink, sum);
      }
    }
    const std::int64_t head = head0 + h;
    if (alone) {
      a.out[(seen.row * a.heads + head) * head_dim + d] = from_float<T>(sum / whole);
    } else {
      float* to = a.parts + ((sequence * a.heads + head) * a.part_count + part) * (head_dim + 2);
      to[2 + d] = sum;
      if (d == 0) {
        to[0] = top;
        to[1] = whole;
      }
    }
  }
}

// One block: the parts of one head of one sequence.
constexpr int kMergeThreads = 128;
template <class T>
__global__ void __launch_bounds__(kMergeThreads) merge_parts(PagedAttention<T> a) {
  const int sequence = static_cast<int>(blockIdx.x / a.heads), head = static_cast<int>(blockIdx.x % a.heads);
  const int head_dim = static_cast<int>(a.head_dim);
  const DecodeSeen seen = seen_by(a, sequence);
  const int first = seen.first / kPartKeys, last = (seen.length - 1) / kPartKeys;
  if (!seen.any || first == last) return;
  const std::int64_t stride = head_dim + 2;
  const float* parts = a.parts + (sequence * a.heads + head) * a.part_count * stride;
  float highest = -kInfinity, total = 0.0f;
  for (int p = first; p <= last; ++p) highest = fmaxf(highest, parts[p * stride]);
  highest = finite_base(highest);
  for (int p = first; p <= last; ++p) total = fmaf(parts[p * stride + 1], expf(parts[p * stride] - highest), total);
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += kMergeThreads) {
    float sum = 0.0f;
    for (int p = first; p <= last; ++p) {
      sum = fmaf(parts[p * stride + 2 + d], expf(parts[p * stride] - highest), sum);
    }
    a.out[(seen.row * a.heads + head) * head_dim + d] = from_float<T>(sum / total);
  }
}

template <class T, int kHeads>
void run_decode(const PagedAttention<T>& a, void* stream) {
  const std::int64_t head_groups = (a.heads / a.kv_heads + kHeads - 1) / kHeads;
  launch<32 * kDecodeWarps<T>>(attend_part<T, kHeads>, a.sequences * a.kv_heads * head_groups, a.part_count,
                               DecodeShared<T, kHeads>::bytes(a.head_dim), stream, a, static_cast<int>(head_groups));
  if (a.part_count > 1) launch<kMergeThreads>(merge_parts<T>, a.sequences * a.heads, 1, 0, stream, a);
}

}  // namespace

template <class T>
bool decodes(const PagedAttention<T>& a) {
  return a.head_dim % kVector<T> == 0 && a.head_dim <= kMaxHeadDim;
}

template <class T>
void paged_decode(const PagedAttention<T>& a, void* stream) {
  const std::int64_t group = a.heads / a.kv_heads;
  group == 1   ? run_decode<T, 1>(a, stream)
  : group == 2 ? run_decode<T, 2>(a, stream)
  : group <= 4 ? run_decode<T, 4>(a, stream)
               : run_decode<T, 8>(a, stream);
}

#define SAO_INSTANTIATE(T)                         \
  template bool decodes(const PagedAttention<T>&); \
  template void paged_decode(const PagedAttention<T>&, void*)
SAO_INSTANTIATE(float);
SAO_INSTANTIATE(BFloat16);
#undef SAO_INSTANTIATE

}  // namespace sao::ops::cuda
