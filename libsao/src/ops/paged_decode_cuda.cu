// SPDX-License-Identifier: Apache-2.0
// One new token a sequence against the paged cache, at the memory's speed. A block takes the query heads of one
// key/value head, so that the cache is read once for all of them, and kPartKeys of a sequence's keys; what several
// blocks found of a sequence is merged after (FlashDecoding: Dao et al. 2023). Parts begin at multiples of kPartKeys:
// a row's result depends on its own sequence only.
#include "ops/cuda_device.h"

namespace sao::ops::cuda {
namespace {

constexpr int kDecodeThreads = 128, kDecodeWarps = kDecodeThreads / 32;
constexpr int kDecodePage = static_cast<int>(kAttentionBlock);
constexpr int kPartKeys = static_cast<int>(kDecodePart);
static_assert(kPartKeys % kDecodePage == 0);

// Numbers that a lane reads at one time.
template <class T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

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

template <class T, int kHeads>
struct DecodeShared {
  // queries [kHeads][D], weights [kHeads][kPartKeys], totals [kHeads][2], sums [kDecodeWarps][groups of
  // lanes][kHeads][D]
  float *queries, *weights, *totals, *sums;
  __device__ explicit DecodeShared(int head_dim) {
    queries = reinterpret_cast<float*>(dynamic_shared);
    weights = queries + kHeads * head_dim;
    totals = weights + kHeads * kPartKeys;
    sums = totals + kHeads * 2;
  }
  static std::size_t bytes(std::int64_t head_dim) {
    const std::int64_t groups = lane_groups(static_cast<int>(head_dim));
    return sizeof(float) *
           static_cast<std::size_t>(kHeads * (head_dim + kPartKeys + 2 + kDecodeWarps * groups * head_dim));
  }
  // Lanes side by side hold the columns of one key's values; as many groups of them as fit take one key each.
  __device__ __host__ static int lane_groups(int head_dim) {
    const int lanes = head_dim / kVector<T>;
    return lanes >= 32 ? 1 : 32 / lanes;
  }
};

// Block (x, y): query heads kHeads * (x % head groups) .. of key/value head .. of sequence .., keys of part y.
template <class T, int kHeads>
__global__ void __launch_bounds__(kDecodeThreads) attend_part(PagedAttention<T> a, int head_groups) {
  constexpr int kNumbers = kVector<T>, kChunks = kDecodePage / kNumbers, kColumnChunks = sizeof(T) == 2 ? 1 : 2;
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
  const std::int32_t* table = a.tables + sequence * a.table_stride + begin / kDecodePage;
  const auto page_of = [&](const T* cache, int page) {
    return cache + (static_cast<std::int64_t>(table[page]) * kv_heads + kv_head) * head_dim * kDecodePage;
  };

  for (int i = static_cast<int>(threadIdx.x); i < kHeads * head_dim; i += kDecodeThreads) {
    const int head = i / head_dim, d = i % head_dim;
    const T* q = a.q.data + seen.row * a.q.token_stride + (head0 + head) * a.q.head_stride;
    shared.queries[i] = head < heads ? to_float(q[d]) * a.scale : 0.0f;
  }
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * kPartKeys; i += kDecodeThreads) {
    shared.weights[i] = -kInfinity;
  }
  __syncthreads();

  // Scores. A page of keys is [D][16]: lane l reads keys kNumbers * (l % kChunks) .. of column l / kChunks, and so on.
  for (int page = first_page + warp(); page < pages; page += kDecodeWarps) {
    const T* keys = page_of(a.keys, page) + lane() % kChunks * kNumbers;
    float products[kHeads][kNumbers];
    SAO_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      SAO_UNROLL
      for (int i = 0; i < kNumbers; ++i) products[h][i] = 0.0f;
    }
    SAO_UNROLL_BY(8)
    for (int d = lane() / kChunks; d < head_dim; d += 32 / kChunks) {
      const Pack<T, kNumbers> key = load<kNumbers>(keys + d * kDecodePage);
      SAO_UNROLL
      for (int h = 0; h < kHeads; ++h) {
        const float q = shared.queries[h * head_dim + d];
        SAO_UNROLL
        for (int i = 0; i < kNumbers; ++i) products[h][i] = fmaf(q, to_float(key.value[i]), products[h][i]);
      }
    }
    SAO_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      int key = page * kDecodePage + lane() % kChunks * kNumbers;
      sum_and_scatter<kNumbers, kChunks>(products[h], &key);
      const bool visible = begin + key >= seen.first && begin + key < end;
      // Lanes that hold the same number write the same.
      shared.weights[h * kPartKeys + key] = visible ? soft_capped(products[h][0], a.softcap) : -kInfinity;
    }
  }
  __syncthreads();

  // Weights: warp w takes the heads w, w + kDecodeWarps, ..
  for (int h = warp(); h < heads; h += kDecodeWarps) {
    float* weights = shared.weights + h * kPartKeys;
    float highest = -kInfinity;
    for (int i = lane(); i < kPartKeys; i += 32) highest = fmaxf(highest, weights[i]);
    highest = maximum_over<32>(highest);
    float sum = 0.0f;
    for (int i = lane(); i < kPartKeys; i += 32) {
      const float weight = expf(weights[i] - highest);
      weights[i] = weight;
      sum += weight;
    }
    sum = sum_over<32>(sum);
    if (lane() == 0) {
      shared.totals[2 * h] = highest;
      shared.totals[2 * h + 1] = sum;
    }
  }
  __syncthreads();

  // Values [16][D]. A group of lanes takes a key, a lane kNumbers columns of it.
  const int lanes = min(32, head_dim / kNumbers), groups = DecodeShared<T, kHeads>::lane_groups(head_dim);
  const int lane_group = lane() / lanes, column = lane() % lanes * kNumbers;
  float sums[kHeads][kColumnChunks][kNumbers];
  SAO_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    SAO_UNROLL
    for (int c = 0; c < kColumnChunks; ++c) {
      SAO_UNROLL
      for (int i = 0; i < kNumbers; ++i) sums[h][c][i] = 0.0f;
    }
  }
  if (lane_group < groups) {
    for (int page = first_page + warp(); page < pages; page += kDecodeWarps) {
      const T* values = page_of(a.values, page);
      const int page_begin = begin + page * kDecodePage, last = end - page_begin;
      SAO_UNROLL_BY(8)
      for (int key = lane_group; key < kDecodePage; key += groups) {
        if (key >= last || page_begin + key < seen.first) continue;  // what is there may be anything
        SAO_UNROLL
        for (int c = 0; c < kColumnChunks; ++c) {
          const int d = column + c * 32 * kNumbers;
          if (c > 0 && d >= head_dim) break;
          const Pack<T, kNumbers> value = load<kNumbers>(values + key * head_dim + d);
          SAO_UNROLL
          for (int h = 0; h < kHeads; ++h) {
            const float weight = shared.weights[h * kPartKeys + page * kDecodePage + key];
            SAO_UNROLL
            for (int i = 0; i < kNumbers; ++i) {
              sums[h][c][i] = fmaf(weight, to_float(value.value[i]), sums[h][c][i]);
            }
          }
        }
      }
    }
    SAO_UNROLL
    for (int h = 0; h < kHeads; ++h) {
      float* to = shared.sums + ((warp() * groups + lane_group) * kHeads + h) * head_dim;
      SAO_UNROLL
      for (int c = 0; c < kColumnChunks; ++c) {
        const int d = column + c * 32 * kNumbers;
        if (c > 0 && d >= head_dim) break;
        SAO_UNROLL
        for (int i = 0; i < kNumbers; ++i) to[d + i] = sums[h][c][i];
      }
    }
  }
  __syncthreads();

  const bool alone = seen.first / kPartKeys == (seen.length - 1) / kPartKeys;
  for (int i = static_cast<int>(threadIdx.x); i < heads * head_dim; i += kDecodeThreads) {
    const int h = i / head_dim, d = i % head_dim;
    float sum = 0.0f;
    for (int from = 0; from < kDecodeWarps * groups; ++from) sum += shared.sums[(from * kHeads + h) * head_dim + d];
    const std::int64_t head = head0 + h;
    if (alone) {
      a.out[(seen.row * a.heads + head) * head_dim + d] = from_float<T>(sum / shared.totals[2 * h + 1]);
    } else {
      float* to = a.parts + ((sequence * a.heads + head) * a.part_count + part) * (head_dim + 2);
      to[2 + d] = sum;
      if (d < 2) to[d] = shared.totals[2 * h + d];
    }
  }
}

// One block: the parts of one head of one sequence.
template <class T>
__global__ void __launch_bounds__(kDecodeThreads) merge_parts(PagedAttention<T> a) {
  const int sequence = static_cast<int>(blockIdx.x / a.heads), head = static_cast<int>(blockIdx.x % a.heads);
  const int head_dim = static_cast<int>(a.head_dim);
  const DecodeSeen seen = seen_by(a, sequence);
  const int first = seen.first / kPartKeys, last = (seen.length - 1) / kPartKeys;
  if (!seen.any || first == last) return;
  const std::int64_t stride = head_dim + 2;
  const float* parts = a.parts + (sequence * a.heads + head) * a.part_count * stride;
  float highest = -kInfinity, total = 0.0f;
  for (int p = first; p <= last; ++p) highest = fmaxf(highest, parts[p * stride]);
  for (int p = first; p <= last; ++p) total = fmaf(parts[p * stride + 1], expf(parts[p * stride] - highest), total);
  for (int d = static_cast<int>(threadIdx.x); d < head_dim; d += kDecodeThreads) {
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
  launch<kDecodeThreads>(attend_part<T, kHeads>, a.sequences * a.kv_heads * head_groups, a.part_count,
                         DecodeShared<T, kHeads>::bytes(a.head_dim), stream, a, static_cast<int>(head_groups));
  if (a.part_count > 1) launch<kDecodeThreads>(merge_parts<T>, a.sequences * a.heads, 1, 0, stream, a);
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
