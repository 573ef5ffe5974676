// SPDX-License-Identifier: Apache-2.0
// What the kernels of packed attention share; for .cu files only.
#pragma once

#include "ops/cuda_device.h"

namespace sao::ops::cuda {

template <class T>
struct AttentionArguments : PackedAttention<T> {
  const T* out_grad;  // [tokens][heads][head_dim], as are the gradients, with heads or kv_heads
  float* delta;       // [heads][tokens]: out . out_grad
  T *q_grad, *k_grad, *v_grad;

  __device__ int first_key(int query) const {
    return this->window > 0 && query >= this->window ? query - static_cast<int>(this->window) + 1 : 0;
  }
  __device__ bool sees(int query, int key) const { return key <= query && key >= first_key(query); }
  /// One past the last query of the sequence that sees a key up to last_key.
  __device__ int end_of_queries(int last_key, int length) const {
    return this->window > 0 && this->window < length - last_key ? last_key + static_cast<int>(this->window) : length;
  }
  __device__ int kv_head_of(int head) const { return head / static_cast<int>(this->heads / this->kv_heads); }
  __device__ HeadRows<T> out_grad_rows() const { return {out_grad, this->heads * this->head_dim, this->head_dim}; }
};

template <class T>
__device__ const T* head_rows(const HeadRows<T>& rows, int begin, int head) {
  return rows.data + begin * rows.token_stride + head * rows.head_stride;
}

/// The index of a query's log_sum_exp and delta.
template <class T>
__device__ std::int64_t row_of(const AttentionArguments<T>& a, const AttentionTile& tile, int query, int head) {
  return head * a.tokens + tile.begin + query;
}

/// Part `index` of the tiles, kRows rows each; `first` may be past the end of a sequence. The parts that see the most
/// keys come first; kKeysFirst: those that the most queries see.
template <int kRows, bool kKeysFirst = false>
__device__ AttentionTile part_of_tiles(const AttentionTile* tiles, std::int64_t tile_count, std::int64_t index) {
  constexpr std::int64_t kParts = kTileRows / kRows;
  static_assert(kTileRows % kRows == 0);
  const std::int64_t at = kKeysFirst ? tile_count * kParts - 1 - index : index;
  AttentionTile tile = tiles[at / kParts];
  tile.first += static_cast<int>(kParts - 1 - at % kParts) * kRows;
  return tile;
}

/// The kernels for tensor cores, of attention_mma_cuda.cu: whether they can compute this, and the launches. `delta` has
/// been computed before the backward pass.
bool fits_tensor_cores(const AttentionArguments<BFloat16>& a);
void attend_on_tensor_cores(const AttentionArguments<BFloat16>& a, void* stream);
void attend_backward_on_tensor_cores(const AttentionArguments<BFloat16>& a, void* stream);

}  // namespace sao::ops::cuda
