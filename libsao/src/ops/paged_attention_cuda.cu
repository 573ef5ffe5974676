// SPDX-License-Identifier: Apache-2.0
// New tokens against the paged cache, and the writes to it. One block takes one head of up to kRows tokens; its warps
// share out the blocks of keys (warp w those whose number is w modulo the number of warps, so a row's result does not
// depend on its neighbours) and merge what they found at the end.
#include "ops/cuda_device.h"

namespace sao::ops::cuda {
namespace {

constexpr int kBlockWarps = kThreads / 32;
constexpr int kPageKeys = static_cast<int>(kAttentionBlock);
static_assert(kPageKeys == 16, "half a warp reads one number of each key of a block");

template <class T>
__global__ void __launch_bounds__(kThreads) append_tokens(int kv_heads, int head_dim, HeadRows<T> k, HeadRows<T> v,
                                                          const std::int64_t* slots, T* keys, T* values) {
  const std::int64_t token = blockIdx.x, slot = slots[token];
  const std::int64_t block = slot / kPageKeys, offset = slot % kPageKeys;
  for (int i = static_cast<int>(threadIdx.x); i < kv_heads * head_dim; i += kThreads) {
    const int head = i / head_dim, d = i % head_dim;
    const std::int64_t base = (block * kv_heads + head) * head_dim * kPageKeys;
    keys[base + d * kPageKeys + offset] = k.data[token * k.token_stride + head * k.head_stride + d];
    values[base + offset * head_dim + d] = v.data[token * v.token_stride + head * v.head_stride + d];
  }
}

// One block a token. Queries and values are written in packs; of keys, whose columns lie apart in the cache,
// neighbouring threads write neighbouring columns.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) rotate_and_append(RotaryAppend<T> a) {
  const std::int64_t token = blockIdx.x, slot = a.slots[token], block = slot / kPageKeys, offset = slot % kPageKeys;
  const int heads = static_cast<int>(a.heads), kv_heads = static_cast<int>(a.kv_heads);
  const int head_dim = static_cast<int>(a.head_dim), half = head_dim / 2, packs = half / kPack;
  const std::int64_t angles = a.positions[token] * half;
  const int of_keys = kv_heads * half, of_queries = heads * packs, of_values = kv_heads * 2 * packs;
  for (int i = static_cast<int>(threadIdx.x); i < of_keys + of_queries + of_values; i += kThreads) {
    if (i < of_keys) {
      const int head = i / half, d = i % half;
      const T* from = a.k.data + token * a.k.token_stride + head * a.k.head_stride + d;
      const Halves<T, 1> out = turned<1>(from, half, a.cosines + angles + d, a.sines + angles + d, 1.0f);
      T* to = a.keys + ((block * kv_heads + head) * head_dim + d) * kPageKeys + offset;
      store<1>(to, out.low);
      store<1>(to + half * kPageKeys, out.high);
    } else if (const int q = i - of_keys; q < of_queries) {
      const int head = q / packs, d = q % packs * kPack;
      const T* from = a.q.data + token * a.q.token_stride + head * a.q.head_stride + d;
      const Halves<T, kPack> out = turned<kPack>(from, half, a.cosines + angles + d, a.sines + angles + d, 1.0f);
      T* to = a.q_out + (token * heads + head) * head_dim + d;
      store<kPack>(to, out.low);
      store<kPack>(to + half, out.high);
    } else {
      const int v = q - of_queries, head = v / (2 * packs), d = v % (2 * packs) * kPack;
      store<kPack>(a.values + ((block * kv_heads + head) * kPageKeys + offset) * head_dim + d,
                   load<kPack>(a.v.data + token * a.v.token_stride + head * a.v.head_stride + d));
    }
  }
}

// The sequence that holds `row`: the last that starts at or before it.
__device__ int sequence_of(const std::int64_t* starts, int sequences, std::int64_t row) {
  int low = 0, high = sequences;  // starts[low] <= row < starts[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (starts[middle] <= row) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// head_dim <= 32 kColumns: lane l holds the columns l, l + 32, ...
template <class T, int kColumns, int kRows>
__global__ void __launch_bounds__(kThreads) attend_pages(PagedAttention<T> a) {
  constexpr int kWidth = 32 * kColumns, kPart = kWidth + 2;
  float* queries = reinterpret_cast<float*>(dynamic_shared);  // [kRows][kWidth]
  float* parts = queries + kRows * kWidth;  // [kBlockWarps][kRows]: sum of weights, maximum, weighted values
  const int heads = static_cast<int>(a.heads), head = static_cast<int>(blockIdx.x % a.heads);
  const int kv_head = head / static_cast<int>(a.heads / a.kv_heads), head_dim = static_cast<int>(a.head_dim);
  const int half = lane() / kPageKeys, key_of_lane = lane() % kPageKeys;
  std::int64_t row = blockIdx.x / a.heads * kRows;
  const std::int64_t rows_end = row + kRows < a.tokens ? row + kRows : a.tokens;

  while (row < rows_end) {  // the rows of one sequence at a time
    const int sequence = sequence_of(a.starts, static_cast<int>(a.sequences), row);
    const std::int64_t end = a.starts[sequence + 1];
    const int rows = static_cast<int>((end < rows_end ? end : rows_end) - row);
    const std::int64_t position = a.lengths[sequence] - (end - row);  // of the first row; the others follow
    const std::int64_t last = position + rows - 1;
    const std::int64_t first = a.window > 0 && position >= a.window ? position - a.window + 1 : 0;

    for (int i = static_cast<int>(threadIdx.x); i < rows * head_dim; i += kThreads) {
      const int r = i / head_dim, d = i % head_dim;
      queries[r * kWidth + d] = to_float(a.q.data[(row + r) * a.q.token_stride + head * a.q.head_stride + d]);
    }
    __syncthreads();  // also: the parts of the rows before have been merged

    float top[kRows], total[kRows], sums[kRows][kColumns];
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      top[r] = -kInfinity;
      total[r] = 0.0f;
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) sums[r][c] = 0.0f;
    }
    const std::int64_t first_block = first / kPageKeys;
    std::int64_t block = first_block + (warp() - first_block % kBlockWarps + kBlockWarps) % kBlockWarps;
    for (; block <= last / kPageKeys; block += kBlockWarps) {
      const std::int64_t base =
          (a.tables[sequence * a.table_stride + block] * a.kv_heads + kv_head) * head_dim * kPageKeys;
      const T* keys = a.keys + base;
      const T* values = a.values + base;
      // Half a warp takes the even columns, the other the odd ones: 32 neighbouring numbers a step.
      float weight[kRows];
      SAO_UNROLL
      for (int r = 0; r < kRows; ++r) weight[r] = 0.0f;
      SAO_UNROLL_BY(8)
      for (int d = half; d < head_dim; d += 2) {
        const float key = to_float(keys[d * kPageKeys + key_of_lane]);
        SAO_UNROLL
        for (int r = 0; r < kRows; ++r) weight[r] = fmaf(queries[r * kWidth + d], key, weight[r]);
      }
      const std::int64_t key_position = block * kPageKeys + key_of_lane;
      SAO_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const float product = weight[r] + __shfl_xor_sync(kAllLanes, weight[r], kPageKeys);
        const bool visible =
            r < rows && key_position <= position + r && (a.window == 0 || key_position > position + r - a.window);
        const float score = visible ? soft_capped(product * a.scale, a.softcap) : -kInfinity;
        const float highest = fmaxf(top[r], maximum_over<kPageKeys>(score));
        const float base_score = finite_base(highest);
        const float shrink = expf(top[r] - base_score);
        weight[r] = expf(score - base_score);
        total[r] = total[r] * shrink + sum_over<kPageKeys>(weight[r]);
        top[r] = highest;
        SAO_UNROLL
        for (int c = 0; c < kColumns; ++c) sums[r][c] *= shrink;
      }
      const int from = first > block * kPageKeys ? static_cast<int>(first - block * kPageKeys) : 0;
      const int to = last < (block + 1) * kPageKeys ? static_cast<int>(last - block * kPageKeys) : kPageKeys - 1;
      for (int j = from; j <= to; ++j) {
        float w[kRows];
        SAO_UNROLL
        for (int r = 0; r < kRows; ++r) w[r] = __shfl_sync(kAllLanes, weight[r], j);
        SAO_UNROLL
        for (int c = 0; c < kColumns; ++c) {
          const int d = lane() + 32 * c;
          if (d < head_dim) {
            const float value = to_float(values[j * head_dim + d]);
            SAO_UNROLL
            for (int r = 0; r < kRows; ++r) sums[r][c] = fmaf(w[r], value, sums[r][c]);
          }
        }
      }
    }

    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      float* part = parts + (warp() * kRows + r) * kPart;
      if (lane() == 0) {
        part[0] = total[r];
        part[1] = top[r];
      }
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) part[2 + lane() + 32 * c] = sums[r][c];
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < rows * head_dim; i += kThreads) {
      const int r = i / head_dim, d = i % head_dim;
      float highest = -kInfinity;
      for (int w = 0; w < kBlockWarps; ++w) highest = fmaxf(highest, parts[(w * kRows + r) * kPart + 1]);
      float sum = 0.0f, value = 0.0f;
      for (int w = 0; w < kBlockWarps; ++w) {
        const float* part = parts + (w * kRows + r) * kPart;
        const float share = expf(part[1] - highest);
        sum = fmaf(part[0], share, sum);
        value = fmaf(part[2 + d], share, value);
      }
      a.out[((row + r) * heads + head) * head_dim + d] = from_float<T>(value / sum);
    }
    row += rows;
  }
}

template <class T, int kColumns, int kRows>
void run_pages(const PagedAttention<T>& a, void* stream) {
  constexpr std::size_t floats = kRows * 32 * kColumns + kBlockWarps * kRows * (32 * kColumns + 2);
  launch(attend_pages<T, kColumns, kRows>, (a.tokens + kRows - 1) / kRows * a.heads, 1, sizeof(float) * floats, stream,
         a);
}

// One block: one page of one head. Keys [D][16] turn to rows through shared memory.
template <class T>
__global__ void __launch_bounds__(kThreads) gather(int kv_heads, int head_dim, const GatheredPage* pages, const T* keys,
                                                   const T* values, T* key_rows, T* value_rows) {
  T* turned = reinterpret_cast<T*>(dynamic_shared);  // [16][D + 2]
  const GatheredPage page = pages[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y), stride = head_dim + 2;
  const std::int64_t from = (static_cast<std::int64_t>(page.block) * kv_heads + head) * head_dim * kPageKeys;
  for (int i = static_cast<int>(threadIdx.x); i < head_dim * kPageKeys; i += kThreads) {
    turned[i % kPageKeys * stride + i / kPageKeys] = keys[from + i];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < head_dim * page.count; i += kThreads) {
    const int key = i / head_dim, d = i % head_dim;
    const std::int64_t to = (static_cast<std::int64_t>(page.row + key) * kv_heads + head) * head_dim + d;
    key_rows[to] = turned[key * stride + d];
    value_rows[to] = values[from + i];
  }
}

}  // namespace

template <class T>
void gather_pages(std::int64_t pages, std::int64_t kv_heads, std::int64_t head_dim, const GatheredPage* page,
                  const T* keys, const T* values, T* key_rows, T* value_rows, void* stream) {
  launch(gather<T>, pages, kv_heads, sizeof(T) * static_cast<std::size_t>(kPageKeys * (head_dim + 2)), stream,
         static_cast<int>(kv_heads), static_cast<int>(head_dim), page, keys, values, key_rows, value_rows);
}

template <class T>
void rotary_append(const RotaryAppend<T>& a, void* stream) {
  constexpr int kPack = kVector<T>;
  const auto rows_in_packs = [](const HeadRows<T>& rows) {
    return in_packs<kPack>(rows.data, rows.token_stride) && rows.head_stride % kPack == 0;
  };
  const bool packs = a.head_dim % (2 * kPack) == 0 && rows_in_packs(a.q) && rows_in_packs(a.v) &&
                     in_packs<kPack>(a.cosines, 0) && in_packs<kPack>(a.sines, 0) && in_packs<kPack>(a.q_out, 0) &&
                     in_packs<kPack>(a.values, 0);
  launch(packs ? rotate_and_append<T, kPack> : rotate_and_append<T, 1>, a.tokens, 1, 0, stream, a);
}

template <class T>
void append_to_cache(std::int64_t tokens, std::int64_t kv_heads, std::int64_t head_dim, const HeadRows<T>& k,
                     const HeadRows<T>& v, const std::int64_t* slots, T* keys, T* values, void* stream) {
  launch(append_tokens<T>, tokens, 1, 0, stream, static_cast<int>(kv_heads), static_cast<int>(head_dim), k, v, slots,
         keys, values);
}

template <class T>
void paged_attention(const PagedAttention<T>& a, void* stream) {
  // Several tokens of a sequence share what is read of its cache; tokens of different sequences would only wait for
  // each other.
  const bool several = a.tokens >= 8 * a.sequences;
  if (a.head_dim <= 128) {
    several ? run_pages<T, 4, 4>(a, stream) : run_pages<T, 4, 1>(a, stream);
  } else {
    several ? run_pages<T, 8, 4>(a, stream) : run_pages<T, 8, 1>(a, stream);
  }
}

#define SAO_INSTANTIATE(T)                                                                                          \
  template void append_to_cache(std::int64_t, std::int64_t, std::int64_t, const HeadRows<T>&, const HeadRows<T>&,   \
                                const std::int64_t*, T*, T*, void*);                                                \
  template void gather_pages(std::int64_t, std::int64_t, std::int64_t, const GatheredPage*, const T*, const T*, T*, \
                             T*, void*);                                                                            \
  template void rotary_append(const RotaryAppend<T>&, void*);                                                       \
  template void paged_attention(const PagedAttention<T>&, void*)
SAO_INSTANTIATE(float);
SAO_INSTANTIATE(BFloat16);
#undef SAO_INSTANTIATE

}  // namespace sao::ops::cuda
