// SPDX-License-Identifier: Apache-2.0
// Packed attention in tiles, forward and backward, in float32 arithmetic; memory linear in the number of tokens.
// A block has 16 x 16 threads. Of a tile of scores [A][B] the thread (ty, tx) holds rows ty, ty + 16, .. and columns
// tx, tx + 16, ..; of a tile of results [A][D] rows ty, ty + 16, .. and columns 64 c + 4 tx .. + 3. The 16 threads of a
// row are neighbours in one half of a warp. Backward has one kernel for the queries' gradient and one for the keys' and
// values', each computing the scores again: no atomic additions, so the same bits every time.
#include <type_traits>

#include "ops/attention_device.h"

namespace sao::ops::cuda {
namespace {

constexpr int kSide = 16;       // threads a side of the block
constexpr int kQueryRows = 32;  // of queries, in a block
static_assert(kThreads == kSide * kSide);

// Rows are four numbers apart more than they need: 16 neighbouring rows are then read without bank conflicts.
template <int kDim>
constexpr int kStride = kDim + 4;

__device__ int row_of_thread() { return static_cast<int>(threadIdx.x) / kSide; }
__device__ int column_of_thread() { return static_cast<int>(threadIdx.x) % kSide; }
__device__ int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Positions first .. first + kRows - 1, of which those from `end` on are zero; columns from head_dim on, up to a
// multiple of 64, are zero too.
template <int kRows, int kDim, class T>
__device__ void load_tile(float* tile, const Positions<T>& rows, int first, int end, int head_dim, bool four) {
  if (four) {
    const int packs = round_up(head_dim, 64) / 4;
    for (int at = static_cast<int>(threadIdx.x); at < kRows * packs; at += kThreads) {
      const int row = at / packs, d = at % packs * 4;
      float4 out = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (first + row < end && d < head_dim) {
        const Pack<T, 4> in = load<4>(rows[first + row] + d);
        out = make_float4(to_float(in.value[0]), to_float(in.value[1]), to_float(in.value[2]), to_float(in.value[3]));
      }
      *reinterpret_cast<float4*>(tile + row * kStride<kDim> + d) = out;
    }
    return;
  }
  const int width = round_up(head_dim, 64);
  for (int at = static_cast<int>(threadIdx.x); at < kRows * width; at += kThreads) {
    const int row = at / width, d = at % width;
    const bool inside = first + row < end && d < head_dim;
    tile[row * kStride<kDim> + d] = inside ? to_float(rows[first + row][d]) : 0.0f;
  }
}

// products[r][c] = row ty + 16 r of a . row tx + 16 c of b.
template <int kRows, int kColumns, int kDim>
__device__ void multiply_tiles(const float* a, const float* b, int head_dim, float (&products)[kRows][kColumns]) {
  const float* a_row = a + row_of_thread() * kStride<kDim>;
  const float* b_row = b + column_of_thread() * kStride<kDim>;
  SAO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    SAO_UNROLL
    for (int c = 0; c < kColumns; ++c) products[r][c] = 0.0f;
  }
  SAO_UNROLL_BY(4)
  for (int d = 0; d < head_dim; d += 4) {
    float4 left[kRows], right[kColumns];
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) left[r] = *reinterpret_cast<const float4*>(a_row + r * kSide * kStride<kDim> + d);
    SAO_UNROLL
    for (int c = 0; c < kColumns; ++c)
      right[c] = *reinterpret_cast<const float4*>(b_row + c * kSide * kStride<kDim> + d);
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        float sum = products[r][c];
        sum = fmaf(left[r].x, right[c].x, sum);
        sum = fmaf(left[r].y, right[c].y, sum);
        sum = fmaf(left[r].z, right[c].z, sum);
        products[r][c] = fmaf(left[r].w, right[c].w, sum);
      }
    }
  }
}

// A thread's share of a result [16 kRows][D].
template <int kRows, int kDim>
struct Sums {
  float value[kRows][kDim / 64][4];

  __device__ void clear() {
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) scale_row<true>(r, 0.0f);
  }

  template <bool kSet = false>
  __device__ void scale_row(int r, float factor) {
    SAO_UNROLL
    for (int c = 0; c < kDim / 64; ++c) {
      SAO_UNROLL
      for (int e = 0; e < 4; ++e) value[r][c][e] = kSet ? factor : value[r][c][e] * factor;
    }
  }

  // Adds weights . tile: row i of the result is sum_j weights[i * row_stride + j * inner_stride] * tile[j].
  template <int kInner>
  __device__ void add(const float* weights, int row_stride, int inner_stride, const float* tile, int head_dim) {
    const float* weight = weights + row_of_thread() * row_stride;
    const float* columns = tile + 4 * column_of_thread();
    SAO_UNROLL_BY(4)
    for (int j = 0; j < kInner; ++j) {
      float w[kRows];
      SAO_UNROLL
      for (int r = 0; r < kRows; ++r) w[r] = weight[r * kSide * row_stride + j * inner_stride];
      SAO_UNROLL
      for (int c = 0; c < kDim / 64; ++c) {
        if (c * 64 < head_dim) {
          const float4 v = *reinterpret_cast<const float4*>(columns + j * kStride<kDim> + c * 64);
          SAO_UNROLL
          for (int r = 0; r < kRows; ++r) {
            value[r][c][0] = fmaf(w[r], v.x, value[r][c][0]);
            value[r][c][1] = fmaf(w[r], v.y, value[r][c][1]);
            value[r][c][2] = fmaf(w[r], v.z, value[r][c][2]);
            value[r][c][3] = fmaf(w[r], v.w, value[r][c][3]);
          }
        }
      }
    }
  }

  // Writes row r of this thread, times factor, to the dense row `to`.
  template <class T>
  __device__ void write_row(int r, float factor, T* to, int head_dim) const {
    SAO_UNROLL
    for (int c = 0; c < kDim / 64; ++c) {
      SAO_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int d = c * 64 + 4 * column_of_thread() + e;
        if (d < head_dim) to[d] = from_float<T>(value[r][c][e] * factor);
      }
    }
  }
};

template <class T>
struct Arguments : AttentionArguments<T> {
  bool four;  // q, k, v (and out_grad) can be read in packs of four
};

// One block: one tile of queries of one head.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) attend_tiles(Arguments<T> a) {
  constexpr int kRows = kQueryRows / kSide, kKeys = kQueryRows, kColumns = kKeys / kSide;
  float* queries = reinterpret_cast<float*>(dynamic_shared);  // [32][D]
  float* others = queries + kQueryRows * kStride<kDim>;       // [32][D]: keys, then values
  float* weights = others + kKeys * kStride<kDim>;  // [32][33]; a row is written and read by the same half warp
  const AttentionTile tile = part_of_tiles<kQueryRows>(a.tiles, a.tile_count, blockIdx.x);
  if (tile.first >= tile.length) return;
  const int head = static_cast<int>(blockIdx.y), kv_head = a.kv_head_of(head);
  const int head_dim = static_cast<int>(a.head_dim), ty = row_of_thread(), tx = column_of_thread();
  const Positions<T> keys = positions_seen(a.k, tile, kv_head), values = positions_seen(a.v, tile, kv_head);

  load_tile<kQueryRows, kDim>(queries, own_positions(a.q, tile.query_begin, head), tile.first, tile.length, head_dim,
                              a.four);
  Sums<kRows, kDim> out;
  out.clear();
  float top[kRows], total[kRows];
  for (int r = 0; r < kRows; ++r) {
    top[r] = -kInfinity;
    total[r] = 0.0f;
  }
  const int end = min(tile.first + kQueryRows, tile.length);
  for (int first = a.first_key(tile.first) / kKeys * kKeys; first < end; first += kKeys) {
    __syncthreads();  // the last tile's values have been read
    load_tile<kKeys, kDim>(others, keys, first, end, head_dim, a.four);
    __syncthreads();
    float score[kRows][kColumns];
    multiply_tiles<kRows, kColumns, kDim>(queries, others, head_dim, score);
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const int query = tile.first + ty + r * kSide;
      float highest = top[r];
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int key = first + tx + c * kSide;
        const bool visible = query < tile.length && a.sees(query, key);
        score[r][c] = visible ? soft_capped(score[r][c] * a.scale, a.softcap) : -kInfinity;
        highest = fmaxf(highest, score[r][c]);
      }
      highest = maximum_over<kSide>(highest);
      // A row that has seen no key yet keeps its -infinity; its weights are all zero.
      const float base = highest == -kInfinity ? 0.0f : highest;
      const float shrink = expf(top[r] - base);
      float sum = 0.0f;
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const float weight = expf(score[r][c] - base);
        weights[(ty + r * kSide) * (kKeys + 1) + tx + c * kSide] = weight;
        sum += weight;
      }
      top[r] = highest;
      total[r] = total[r] * shrink + sum_over<kSide>(sum);
      out.scale_row(r, shrink);
    }
    __syncthreads();  // the keys have been read
    load_tile<kKeys, kDim>(others, values, first, end, head_dim, a.four);
    __syncthreads();
    out.template add<kKeys>(weights, kKeys + 1, 1, others, head_dim);
  }
  SAO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int query = tile.first + ty + r * kSide;
    if (query < tile.length) {
      const std::int64_t token = tile.query_begin + query;
      out.write_row(r, 1.0f / total[r], a.out + (token * a.heads + head) * head_dim, head_dim);
      if (a.log_sum_exp != nullptr && tx == 0) a.log_sum_exp[head * a.tokens + token] = top[r] + logf(total[r]);
    }
  }
}

// delta[head][token] = out . out_grad; one warp each.
template <class T>
__global__ void __launch_bounds__(kThreads) output_products(AttentionArguments<T> a) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * (kThreads / 32) + warp();
  if (at >= a.tokens * a.heads) return;
  const T* out = a.out + at * a.head_dim;
  const T* grad = a.out_grad + at * a.head_dim;
  float sum = 0.0f;
  for (int d = lane(); d < a.head_dim; d += 32) sum = fmaf(to_float(out[d]), to_float(grad[d]), sum);
  sum = sum_over<32>(sum);
  if (lane() == 0) a.delta[at % a.heads * a.tokens + at / a.heads] = sum;
}

struct Slopes {
  float weight;      // the softmax's weight of the key
  float score_grad;  // with respect to q . k
};

template <class T>
__device__ Slopes slopes(const Arguments<T>& a, bool visible, float product, float log_sum_exp, float weight_grad,
                         float delta) {
  if (!visible) return {0.0f, 0.0f};
  const float score = soft_capped(product * a.scale, a.softcap);
  const float weight = expf(score - log_sum_exp);
  float grad = weight * (weight_grad - delta) * a.scale;
  if (a.softcap > 0.0f) grad *= 1.0f - (score / a.softcap) * (score / a.softcap);
  return {weight, grad};
}

// The streamed tiles are smaller for wide heads: 99 KB of shared memory must do on every architecture.
template <int kDim>
constexpr int kStreamedRows = kDim <= 128 ? 32 : 16;

// One block: one tile of queries of one head.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) backward_queries(Arguments<T> a) {
  constexpr int kRows = kQueryRows / kSide, kKeys = kStreamedRows<kDim>, kColumns = kKeys / kSide;
  float* queries = reinterpret_cast<float*>(dynamic_shared);  // [32][D]
  float* grads = queries + kQueryRows * kStride<kDim>;        // [32][D]: the output's gradient
  float* others = grads + kQueryRows * kStride<kDim>;         // [keys][D]: values, then keys
  float* score_grads = others + kKeys * kStride<kDim>;        // [32][keys + 1]; written and read by the same half warp
  const AttentionTile tile = part_of_tiles<kQueryRows>(a.tiles, a.tile_count, blockIdx.x);
  if (tile.first >= tile.length) return;
  const int head = static_cast<int>(blockIdx.y), kv_head = a.kv_head_of(head);
  const int head_dim = static_cast<int>(a.head_dim), ty = row_of_thread(), tx = column_of_thread();
  const Positions<T> keys = positions_seen(a.k, tile, kv_head), values = positions_seen(a.v, tile, kv_head);
  const HeadRows<T> dense = a.out_grad_rows();

  load_tile<kQueryRows, kDim>(queries, own_positions(a.q, tile.query_begin, head), tile.first, tile.length, head_dim,
                              a.four);
  load_tile<kQueryRows, kDim>(grads, own_positions(dense, tile.query_begin, head), tile.first, tile.length, head_dim,
                              a.four);
  Sums<kRows, kDim> q_grad;
  q_grad.clear();
  float log_sum_exp[kRows], delta[kRows];
  for (int r = 0; r < kRows; ++r) {
    const int query = tile.first + ty + r * kSide;
    const std::int64_t at = row_of(a, tile.query_begin, query, head);
    log_sum_exp[r] = query < tile.length ? a.log_sum_exp[at] : 0.0f;
    delta[r] = query < tile.length ? a.delta[at] : 0.0f;
  }
  const int end = min(tile.first + kQueryRows, tile.length);
  for (int first = a.first_key(tile.first) / kKeys * kKeys; first < end; first += kKeys) {
    __syncthreads();  // the last tile's keys have been read
    load_tile<kKeys, kDim>(others, values, first, end, head_dim, a.four);
    __syncthreads();
    float weight_grad[kRows][kColumns], product[kRows][kColumns];
    multiply_tiles<kRows, kColumns, kDim>(grads, others, head_dim, weight_grad);
    __syncthreads();  // the values have been read
    load_tile<kKeys, kDim>(others, keys, first, end, head_dim, a.four);
    __syncthreads();
    multiply_tiles<kRows, kColumns, kDim>(queries, others, head_dim, product);
    SAO_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SAO_UNROLL
      for (int c = 0; c < kColumns; ++c) {
        const int query = tile.first + ty + r * kSide, key = first + tx + c * kSide;
        const bool visible = query < tile.length && a.sees(query, key);
        score_grads[(ty + r * kSide) * (kKeys + 1) + tx + c * kSide] =
            slopes(a, visible, product[r][c], log_sum_exp[r], weight_grad[r][c], delta[r]).score_grad;
      }
    }
    __syncwarp();
    q_grad.template add<kKeys>(score_grads, kKeys + 1, 1, others, head_dim);
  }
  SAO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int query = tile.first + ty + r * kSide;
    if (query < tile.length) {
      q_grad.write_row(r, 1.0f, a.q_grad + ((tile.query_begin + query) * a.heads + head) * head_dim, head_dim);
    }
  }
}

// One block: kStreamedRows keys and values of one key/value head, against all queries of its group that see them: those
// of their sequence, then those of each that continues it.
template <class T, int kDim>
__global__ void __launch_bounds__(kThreads) backward_keys(Arguments<T> a) {
  constexpr int kTile = kStreamedRows<kDim>, kRows = kTile / kSide;
  float* keys = reinterpret_cast<float*>(dynamic_shared);  // [tile][D]
  float* values = keys + kTile * kStride<kDim>;            // [tile][D]
  float* queries = values + kTile * kStride<kDim>;         // [tile][D]
  float* grads = queries + kTile * kStride<kDim>;          // [tile][D]: the output's gradient
  float* weights = grads + kTile * kStride<kDim>;          // [tile of queries][tile of keys + 1]
  float* score_grads = weights + kTile * (kTile + 1);      // the same
  const AttentionTile tile = part_of_tiles<kTile, true>(a.tiles, a.tile_count, blockIdx.x);
  if (tile.first >= tile.length) return;
  const int first = tile.first;
  const int kv_head = static_cast<int>(blockIdx.y), group = static_cast<int>(a.heads / a.kv_heads);
  const int head_dim = static_cast<int>(a.head_dim), ty = row_of_thread(), tx = column_of_thread();
  const HeadRows<T> dense = a.out_grad_rows();

  load_tile<kTile, kDim>(keys, own_positions(a.k, tile.begin, kv_head), first, tile.length, head_dim, a.four);
  load_tile<kTile, kDim>(values, own_positions(a.v, tile.begin, kv_head), first, tile.length, head_dim, a.four);
  Sums<kRows, kDim> k_grad, v_grad;
  k_grad.clear();
  v_grad.clear();
  for (int number = 0; number <= tile.child_count; ++number) {
    const QueryRange seeing = a.queries_that_see(tile, kTile, number);
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      for (int query0 = seeing.first; query0 < seeing.end; query0 += kTile) {
        __syncthreads();  // the last tiles have been read
        load_tile<kTile, kDim>(queries, own_positions(a.q, seeing.begin, head), query0, seeing.end, head_dim, a.four);
        load_tile<kTile, kDim>(grads, own_positions(dense, seeing.begin, head), query0, seeing.end, head_dim, a.four);
        __syncthreads();
        float product[kRows][kRows], weight_grad[kRows][kRows];
        multiply_tiles<kRows, kRows, kDim>(queries, keys, head_dim, product);
        multiply_tiles<kRows, kRows, kDim>(grads, values, head_dim, weight_grad);
        SAO_UNROLL
        for (int r = 0; r < kRows; ++r) {
          const int query = query0 + ty + r * kSide;
          const std::int64_t at = row_of(a, seeing.begin, query, head);
          const bool inside = query < seeing.end;
          const float log_sum_exp = inside ? a.log_sum_exp[at] : 0.0f, delta = inside ? a.delta[at] : 0.0f;
          SAO_UNROLL
          for (int c = 0; c < kRows; ++c) {
            const bool visible = inside && a.sees(query, first + tx + c * kSide);
            const Slopes s = slopes(a, visible, product[r][c], log_sum_exp, weight_grad[r][c], delta);
            const int where = (ty + r * kSide) * (kTile + 1) + tx + c * kSide;
            weights[where] = s.weight;
            score_grads[where] = s.score_grad;
          }
        }
        __syncthreads();
        v_grad.template add<kTile>(weights, 1, kTile + 1, grads, head_dim);
        k_grad.template add<kTile>(score_grads, 1, kTile + 1, queries, head_dim);
      }
    }
  }
  SAO_UNROLL
  for (int r = 0; r < kRows; ++r) {
    const int key = first + ty + r * kSide;
    if (key < tile.length) {
      const std::int64_t at = ((tile.begin + key) * a.kv_heads + kv_head) * head_dim;
      k_grad.write_row(r, 1.0f, a.k_grad + at, head_dim);
      v_grad.write_row(r, 1.0f, a.v_grad + at, head_dim);
    }
  }
}

template <class T>
bool four(const HeadRows<T>& rows) {
  return in_packs<4>(rows.data, rows.token_stride) && rows.head_stride % 4 == 0;
}

template <class T, int kDim>
void run_forward(const Arguments<T>& a, void* stream) {
  constexpr std::size_t floats = 2 * kQueryRows * kStride<kDim> + kQueryRows * (kQueryRows + 1);
  launch(attend_tiles<T, kDim>, a.tile_count * (kTileRows / kQueryRows), a.heads, sizeof(float) * floats, stream, a);
}

template <class T, int kDim>
void run_backward(const Arguments<T>& a, void* stream) {
  constexpr int kTile = kStreamedRows<kDim>;
  constexpr std::size_t query_floats = (2 * kQueryRows + kTile) * kStride<kDim> + kQueryRows * (kTile + 1);
  constexpr std::size_t key_floats = 4 * kTile * kStride<kDim> + 2 * kTile * (kTile + 1);
  constexpr std::size_t kEverywhere = 99 << 10;
  static_assert(sizeof(float) * query_floats <= kEverywhere && sizeof(float) * key_floats <= kEverywhere);
  launch(backward_queries<T, kDim>, a.tile_count * (kTileRows / kQueryRows), a.heads, sizeof(float) * query_floats,
         stream, a);
  launch(backward_keys<T, kDim>, a.tile_count * (kTileRows / kTile), a.kv_heads, sizeof(float) * key_floats, stream, a);
}

template <class T>
Arguments<T> with_packs(const AttentionArguments<T>& arguments) {
  Arguments<T> a{};
  static_cast<AttentionArguments<T>&>(a) = arguments;
  a.four = a.head_dim % 4 == 0 && four(a.q) && four(a.k) && four(a.v) &&
           (a.out_grad == nullptr || in_packs<4>(a.out_grad, a.head_dim));
  return a;
}

// In float32 arithmetic.
template <class T>
void attend(const Arguments<T>& a, void* stream) {
  if (a.head_dim <= 128) {
    run_forward<T, 128>(a, stream);
  } else {
    run_forward<T, 256>(a, stream);
  }
}

template <class T>
void attend_backward(const Arguments<T>& a, void* stream) {
  if (a.head_dim <= 128) {
    run_backward<T, 128>(a, stream);
  } else {
    run_backward<T, 256>(a, stream);
  }
}

}  // namespace

template <class T>
void packed_attention(const PackedAttention<T>& packed, void* stream) {
  AttentionArguments<T> a{};
  static_cast<PackedAttention<T>&>(a) = packed;
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (fits_tensor_cores(a)) return attend_on_tensor_cores(a, stream);
  }
  attend(with_packs(a), stream);
}

bool prefill_attention(const PackedAttention<BFloat16>& packed, void* stream) {
  AttentionArguments<BFloat16> a{};
  static_cast<PackedAttention<BFloat16>&>(a) = packed;
  if (!fits_tensor_cores(a)) return false;
  attend_on_tensor_cores(a, stream);
  return true;
}

template <class T>
void packed_attention_backward(const PackedAttention<T>& packed, const T* out_grad, float* delta, T* q_grad, T* k_grad,
                               T* v_grad, void* stream) {
  AttentionArguments<T> a{};
  static_cast<PackedAttention<T>&>(a) = packed;
  a.out_grad = out_grad;
  a.delta = delta;
  a.q_grad = q_grad;
  a.k_grad = k_grad;
  a.v_grad = v_grad;
  constexpr std::int64_t kWarps = kThreads / 32;
  launch(output_products<T>, (a.tokens * a.heads + kWarps - 1) / kWarps, 1, 0, stream, a);
  if constexpr (std::is_same_v<T, BFloat16>) {
    if (fits_tensor_cores(a)) return attend_backward_on_tensor_cores(a, stream);
  }
  attend_backward(with_packs(a), stream);
}

#define SAO_INSTANTIATE(T)                                          \
  template void packed_attention(const PackedAttention<T>&, void*); \
  template void packed_attention_backward(const PackedAttention<T>&, const T*, float*, T*, T*, T*, void*)
SAO_INSTANTIATE(float);
SAO_INSTANTIATE(BFloat16);
#undef SAO_INSTANTIATE

}  // namespace sao::ops::cuda
