// SPDX-License-Identifier: Apache-2.0
// Causal attention over packed sequences: grouped query heads, logit soft-capping, sliding window. Memory is linear in
// the length: in float32, bfloat16 and float16 on the CPU (half precision is computed in float32) and in float32 and
// bfloat16 on CUDA. Elsewhere, as in float64, plain LibTorch holds the scores of a whole sequence.
// Throws InputError for shapes that do not fit, and for starts, lengths, blocks and slots out of range: these are
// looked at where they are on the CPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace sao::ops {

struct AttentionOptions {
  double scale = 1.0;       ///< multiplies q.k
  double softcap = 0.0;     ///< cap * tanh(score / cap), before the mask; 0 = off
  std::int64_t window = 0;  ///< a token sees itself and the window - 1 tokens before it; 0 = all before it
};

/// Each sequence attends to itself only, causally. Differentiable.
/// Shape: q [T, heads, D], k and v [T, kv_heads, D], starts [S + 1] int64 on the CPU, rising from 0 to T -> [T, heads *
/// D]. heads is a multiple of kv_heads. Follows: transformers' eager attention of Gemma2 (its default, sdpa, drops the
/// soft cap).
/// `parents` [S] int64 on the CPU, or undefined: sequence s continues the earlier sequence parents[s] and sees its
/// tokens before its own, with the same bits as if they stood in front of it (CPU, float32); -1 = it stands alone.
/// Answers share their prompt so. A parent has no parent itself.
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                            const AttentionOptions& options, const at::Tensor& parents = {});

/// Tokens a block of the paged cache holds.
inline constexpr std::int64_t kCacheBlock = 16;

/// The layout of a layer's cache: keys [blocks, kv_heads, D, kCacheBlock], values [blocks, kv_heads, kCacheBlock, D].
/// Writes k and v [T, kv_heads, D] to the slots (block * kCacheBlock + offset), [T] int64.
void append_to_cache(const at::Tensor& k, const at::Tensor& v, const at::Tensor& slots, at::Tensor& keys,
                     at::Tensor& values);

/// Both in one: rotary (pointwise.h) of q [T, heads, D] and k, then append_to_cache; -> rotated q.
at::Tensor rotary_append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions,
                         const at::Tensor& cosines, const at::Tensor& sines, const at::Tensor& slots, at::Tensor& keys,
                         at::Tensor& values);

/// New tokens attend to what the cache holds of their sequence, themselves included. Not differentiable. On the CPU in
/// float32 a token's result has the same bits however its sequence was cut into steps and batches.
/// Shape: q [T, heads, D]; starts [S + 1] and lengths [S] int64, block_tables [S, max_blocks] int32 -> [T, heads * D].
/// These three are on the CPU; for the CUDA kernel they may be on q's device, which saves copying them in every layer.
at::Tensor paged_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                           const AttentionOptions& options);

}  // namespace sao::ops
