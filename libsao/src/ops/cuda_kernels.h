// SPDX-License-Identifier: Apache-2.0
// Launchers of the CUDA kernels. No LibTorch and no CUDA header here: the .cu files compile in seconds without the one,
// the callers without the other. All pointers are device pointers, `stream` is a cudaStream_t; T is float or BFloat16,
// sums are float. A launch that fails is found by the caller through cudaGetLastError.
#pragma once

#include <cstdint>

#include "ops/kernels.h"

namespace sao::ops::cuda {

struct BFloat16 {
  std::uint16_t bits;
};

/// y = x * rsqrt(mean(x^2) + eps) * (weight, or 1 + weight when zero_centered), row by row; inverse_rms[rows] may be
/// null.
template <class T>
void rms_norm(std::int64_t rows, std::int64_t width, const T* x, const T* weight, bool zero_centered, float eps, T* y,
              float* inverse_rms, void* stream);

/// sum = h + update, or h + norm(update) where update_weight is not null; y = norm(sum) where weight is not null: what
/// rms_norm and the sums of T would give one after the other.
template <class T>
void residual_norm(std::int64_t rows, std::int64_t width, const T* h, const T* update, const T* update_weight,
                   const T* weight, bool zero_centered, float eps, T* sum, T* y, void* stream);

/// Writes x_grad, and to weight_grads [parts][width] sums over the rows part, part + parts, ...: the weight's gradient
/// is their sum, the same bits every time.
template <class T>
void rms_norm_backward(std::int64_t rows, std::int64_t width, std::int64_t parts, const T* x, const T* weight,
                       bool zero_centered, const float* inverse_rms, const T* y_grad, T* x_grad, float* weight_grads,
                       void* stream);

/// Rotates the halves of each head: (a, b) -> (a cos - b sin, b cos + a sin); sign -1 rotates back. x rows lie x_stride
/// apart and are dense in themselves; cosines and sines [positions][head_dim / 2] are rounded to T first, as the twin
/// does.
template <class T>
void rotary(std::int64_t tokens, std::int64_t heads, std::int64_t head_dim, const T* x, std::int64_t x_stride,
            const std::int64_t* positions, const float* cosines, const float* sines, float sign, T* y, void* stream);

/// y = activation(gate) * up; rows of gate and up lie gate_stride and up_stride apart.
template <class T>
void gated_activation(GateKind kind, std::int64_t rows, std::int64_t width, const T* gate, std::int64_t gate_stride,
                      const T* up, std::int64_t up_stride, T* y, void* stream);

/// All dense, `count` numbers each. gate_grad may be y_grad.
template <class T>
void gated_activation_backward(GateKind kind, std::int64_t count, const T* gate, const T* up, const T* y_grad,
                               T* gate_grad, T* up_grad, void* stream);

/// sum += x; all dense, `count` numbers.
template <class T>
void add_widened(std::int64_t count, const T* x, float* sum, void* stream);

/// y = cap * tanh(x / cap), or x where cap is 0; all dense, `count` numbers.
template <class T>
void softcapped(std::int64_t count, const T* x, float cap, float* y, void* stream);

/// Rows of [tokens][heads][head_dim] whose heads are dense.
template <class T>
struct HeadRows {
  const T* data;
  std::int64_t token_stride;
  std::int64_t head_stride;
};

/// keys [blocks][kv_heads][head_dim][kAttentionBlock], values [blocks][kv_heads][kAttentionBlock][head_dim].
template <class T>
void append_to_cache(std::int64_t tokens, std::int64_t kv_heads, std::int64_t head_dim, const HeadRows<T>& k,
                     const HeadRows<T>& v, const std::int64_t* slots, T* keys, T* values, void* stream);

/// rotary of q and k and append_to_cache in one: rotated q goes to q_out [tokens][heads][head_dim].
template <class T>
struct RotaryAppend {
  std::int64_t tokens, heads, kv_heads, head_dim;
  HeadRows<T> q, k, v;
  const std::int64_t* positions;
  const float* cosines;  ///< [positions][head_dim / 2], as sines
  const float* sines;
  const std::int64_t* slots;
  T *q_out, *keys, *values;
};
template <class T>
void rotary_append(const RotaryAppend<T>& arguments, void* stream);

inline constexpr std::int64_t kMaxHeadDim = 256;

template <class T>
struct PagedAttention {
  std::int64_t tokens, sequences, heads, kv_heads, head_dim;
  HeadRows<T> q;
  const T* keys;  ///< as in append_to_cache
  const T* values;
  const std::int64_t* starts;   ///< [sequences + 1]: rows of q of each sequence
  const std::int64_t* lengths;  ///< [sequences]: keys of each sequence, those of its rows of q last
  const std::int32_t* tables;   ///< [sequences], table_stride apart: block of each kAttentionBlock keys
  std::int64_t table_stride;
  float scale, softcap;  ///< softcap 0: none
  std::int64_t window;   ///< 0: none
  T* out;                ///< [tokens][heads][head_dim]
  // Of paged_decode alone:
  float* parts;             ///< scratch [sequences][heads][part_count][head_dim + 2]; null where part_count is 1
  std::int64_t part_count;  ///< parts of kDecodePart keys that the widest table has room for
};

template <class T>
void paged_attention(const PagedAttention<T>& arguments, void* stream);

inline constexpr std::int64_t kDecodePart = 512;

/// The rows of sequences that have one new token; the others' are left as they are. Where decodes() allows it: keys and
/// values are read 16 bytes at a time.
template <class T>
void paged_decode(const PagedAttention<T>& arguments, void* stream);
template <class T>
bool decodes(const PagedAttention<T>& arguments);

/// kTileRows consecutive tokens of a sequence, fewer at its end; a block of a kernel may take a part of them. A
/// sequence that continues a parent has the parent's tokens at its first positions, and no tile of its own there.
struct AttentionTile {
  std::int32_t begin;          ///< the row where position 0 of the sequence would be, were its own tokens all there is
  std::int32_t length;         ///< the sequence's positions, the parent's included
  std::int32_t first;          ///< the tile's first position
  std::int32_t query_begin;    ///< as begin, among the queries: the same, but of prefill tiles
  std::int32_t parent_begin;   ///< the parent's first row
  std::int32_t parent_length;  ///< the parent's rows; 0: none
  std::int32_t first_child;    ///< among the children
  std::int32_t child_count;    ///< sequences that continue this one
};
inline constexpr std::int64_t kTileRows = 128;

/// A sequence that continues another one: as its tiles say.
struct AttentionChild {
  std::int32_t begin;
  std::int32_t length;
};

template <class T>
struct PackedAttention {
  std::int64_t tokens, heads, kv_heads, head_dim;
  HeadRows<T> q, k, v;
  const AttentionTile* tiles;  ///< tiles of all sequences
  std::int64_t tile_count;
  const AttentionChild* children;  ///< of all tiles; for the backward pass alone
  float scale, softcap;
  std::int64_t window;
  T* out;              ///< [tokens][heads][head_dim]
  float* log_sum_exp;  ///< [heads][tokens]; may be null in the forward pass
};

template <class T>
void packed_attention(const PackedAttention<T>& arguments, void* stream);

/// New tokens of sequences whose keys and values have been gathered: k and v are [keys][kv_heads][head_dim] of all
/// sequences one after the other, tile.length is what a sequence has of them, its new tokens at the end. False where
/// the tensor cores do not take the shape: nothing is launched then.
bool prefill_attention(const PackedAttention<BFloat16>& arguments, void* stream);

/// A block of the cache, and the rows that its first `count` keys go to.
struct GatheredPage {
  std::int32_t block;
  std::int32_t row;
  std::int32_t count;
};

/// Keys and values of blocks of the cache as rows [row][kv_heads][head_dim].
template <class T>
void gather_pages(std::int64_t pages, std::int64_t kv_heads, std::int64_t head_dim, const GatheredPage* page,
                  const T* keys, const T* values, T* key_rows, T* value_rows, void* stream);

/// out and log_sum_exp as the forward pass gave them; everything dense. delta [heads][tokens] is scratch.
template <class T>
void packed_attention_backward(const PackedAttention<T>& arguments, const T* out_grad, float* delta, T* q_grad,
                               T* k_grad, T* v_grad, void* stream);

template <class T>
struct DrawArguments {
  std::int64_t width;
  const T* logits;      ///< [n][width], before the soft cap
  float softcap;        ///< 0: none
  const double* draws;  ///< [draws][2]: row, and a number in [0, 1), or the id where it is given
  bool given, greedy;
  float inverse_temperature;
  std::int64_t top_k;  ///< 0: all
  float top_p, min_p;
  double* out;  ///< [draws][2]: id, and its log-prob at temperature 1; NaN for a row with NaN, +inf or nothing finite
  int ids_per_lane;  ///< this and in_packs are set by draw_tokens
  bool in_packs;
};

/// What SampleOptions says.
template <class T>
void draw_tokens(const DrawArguments<T>& arguments, std::int64_t draws, void* stream);

/// log softmax(softcap(z))[target] and log-sum-exp of each row of logits [rows][width].
template <class T>
void log_probs(std::int64_t rows, std::int64_t width, const T* logits, float softcap, const std::int64_t* targets,
               float* log_prob, float* log_sum_exp, void* stream);

/// logits <- d(sum_i grad[i] * log_prob[i]) / d logits, in place.
template <class T>
void log_probs_backward(std::int64_t rows, std::int64_t width, T* logits, float softcap, const std::int64_t* targets,
                        const float* log_sum_exp, const float* grad, void* stream);

}  // namespace sao::ops::cuda
