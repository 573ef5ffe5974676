// SPDX-License-Identifier: Apache-2.0
// The row-wise parts of a decoder layer. Each is differentiable; on the CPU in float32 and on CUDA in float32 and
// bfloat16 a fused kernel with its own backward, elsewhere the plain LibTorch form of ops/reference.h, which defines
// the meaning. All throw InputError for shapes that do not fit.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>

namespace sao::ops {

struct RmsNormOptions {
  double eps = 1e-6;
  bool zero_centered = false;  ///< multiply by (1 + weight) in float32 (Gemma), else by weight (Llama)
};

/// Root mean square norm over the last dimension. Shape: x [n, H], weight [H] -> [n, H].
/// Follows: transformers Gemma2RMSNorm / LlamaRMSNorm.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options);

/// What stands between two products of a layer: sum = h + update, or h + rms_norm(update, update_weight) where that is
/// defined; and rms_norm(sum, weight), undefined where `weight` is. Shape: h and update [n, H], weights [H]. The same
/// bits as one after the other; one pass with gradients off.
std::array<at::Tensor, 2> residual_norm(const at::Tensor& h, const at::Tensor& update, const at::Tensor& update_weight,
                                        const at::Tensor& weight, const RmsNormOptions& options);

/// Rotary position embedding. Shape: x [T, heads, D], positions [T] int64, cosines and sines [P, D / 2] float32 -> [T,
/// heads, D]. The two halves of each head are rotated (a, b) -> (a cos - b sin, b cos + a sin). Throws InputError for
/// positions outside the table, which are looked at on the CPU only.
/// Follows: transformers apply_rotary_pos_emb.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines);

enum class Gate { kGeluTanh, kSilu, kGelu };

/// activation(gate) * up. Shape: gate and up [n, I] (columns contiguous) -> [n, I].
/// Follows: transformers Gemma2MLP (gelu_pytorch_tanh) / LlamaMLP (silu) / gelu with the error function, which is plain
/// LibTorch everywhere.
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Gate kind);

/// gated_activation(gate, up) times weight transposed, plus bias where it is defined. Shape: gate and up [n, I], weight
/// [m, I], bias [m] -> [n, m]. The same numbers as one after the other, forward; backward computes the activation
/// again, so that of the three matrices [n, I] two are kept; on the CPU in float32 with gradients on the third has
/// kGatedRows rows at a time, but for Gate::kGelu.
at::Tensor gated_linear(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& weight, const at::Tensor& bias,
                        Gate kind);
inline constexpr std::int64_t kGatedRows = 512;

/// cap * tanh(x / cap) in place; not differentiable.
void softcap_(at::Tensor& x, double cap);

/// sum += x, of another floating dtype and the same shape; not differentiable.
void add_widened_(at::Tensor& sum, const at::Tensor& x);

/// cap * tanh(x / cap) in float32, of float64 in float64; cap 0: the conversion alone, x itself where there is none.
/// Not differentiable.
at::Tensor softcapped(const at::Tensor& x, double cap);

}  // namespace sao::ops
