// SPDX-License-Identifier: Apache-2.0
// What the kernels of packed attention share; for .cu files only.
#pragma once

#include "ops/cuda_device.h"

namespace sao::ops::cuda {

/// Positions first .. end - 1 of a sequence; `begin` is the row where its position 0 would be.
struct QueryRange {
  int begin, first, end;
};

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
  /// Those that see the tile's first `keys` keys, of one of the sequences that do: 0 is the tile's own, then come its
  /// children, of which there may be none.
  __device__ QueryRange queries_that_see(const AttentionTile& tile, int keys, int number) const {
    const int last_key = min(tile.first + keys, tile.length) - 1;
    if (number == 0) return {tile.query_begin, tile.first, end_of_queries(last_key, tile.length)};
    const AttentionChild child = this->children[tile.first_child + number - 1];
    return {child.begin, tile.length, end_of_queries(last_key, child.length)};
  }
  __device__ int kv_head_of(int head) const { return head / static_cast<int>(this->heads / this->kv_heads); }
  __device__ HeadRows<T> out_grad_rows() const { return {out_grad, this->heads * this->head_dim, this->head_dim}; }
};

/// Rows of one head by their position in a sequence, whose first ones may be its parent's.
template <class T>
struct Positions {
  const T* own;  // where position 0 would be, were its own rows all there is
  std::int64_t stride;
  int parent_length, jump;  // how many rows further the parent's are than that

  __device__ const T* operator[](int position) const {
    return own + (position + (position < parent_length ? jump : 0)) * stride;
  }
};

template <class T>
__device__ const T* head_rows(const HeadRows<T>& rows, int begin, int head) {
  return rows.data + begin * rows.token_stride + head * rows.head_stride;
}
template <class T>
__device__ Positions<T> own_positions(const HeadRows<T>& rows, int begin, int head) {
  return {head_rows(rows, begin, head), rows.token_stride, 0, 0};
}
template <class T>
__device__ Positions<T> positions_seen(const HeadRows<T>& rows, const AttentionTile& tile, int head) {
  return {head_rows(rows, tile.begin, head), rows.token_stride, tile.parent_length, tile.parent_begin - tile.begin};
}

/// The index of the log_sum_exp and delta of a query of the sequence whose position 0 would be row `begin`.
template <class T>
__device__ std::int64_t row_of(const AttentionArguments<T>& a, int begin, int query, int head) {
  return head * a.tokens + begin + query;
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
