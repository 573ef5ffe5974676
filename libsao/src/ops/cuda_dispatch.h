// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels as functions on tensors. They live in libsao_cuda.so, which links to LibTorch's CUDA half; this
// table is all that the CPU half of libsao knows of it. load_cuda.cpp finds it, no_cuda.cpp stands in where it was not
// built.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/FunctionRef.h>

#include <array>
#include <cstddef>

#include "sao/ops/attention.h"
#include "sao/ops/pointwise.h"
#include "sao/ops/sample.h"

namespace sao::ops::cuda {

/// All tensors on one CUDA device and of one dtype, float32 or bfloat16, unless said otherwise. Nothing differentiable.
struct Table {
  std::size_t size;     ///< sizeof(Table): a library of another build is refused
  const char* version;  ///< of libsao

  int (*device_count)();

  /// inverse_rms: null, or set to [n] float32 for rms_norm_backward.
  at::Tensor (*rms_norm)(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options,
                         at::Tensor* inverse_rms);
  /// ops::residual_norm.
  std::array<at::Tensor, 2> (*residual_norm)(const at::Tensor& h, const at::Tensor& update,
                                             const at::Tensor& update_weight, const at::Tensor& weight,
                                             const RmsNormOptions& options);
  /// -> x's and weight's gradient.
  std::array<at::Tensor, 2> (*rms_norm_backward)(const at::Tensor& x, const at::Tensor& weight,
                                                 const at::Tensor& inverse_rms, const at::Tensor& y_grad,
                                                 bool zero_centered);
  /// sign 1 rotates, -1 rotates back.
  at::Tensor (*rotary)(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines,
                       const at::Tensor& sines, float sign);
  at::Tensor (*gated_activation)(const at::Tensor& gate, const at::Tensor& up, Gate kind);
  /// `consumes`: y_grad is no longer needed and becomes the first gradient.
  std::array<at::Tensor, 2> (*gated_activation_backward)(const at::Tensor& gate, const at::Tensor& up,
                                                         const at::Tensor& y_grad, Gate kind, bool consumes);

  /// sum += x, of one shape; sum dense float32.
  void (*add_widened)(at::Tensor& sum, const at::Tensor& x);
  /// -> float32. cap 0: the conversion alone.
  at::Tensor (*softcapped)(const at::Tensor& x, double cap);

  /// slots on the CPU or on the device.
  void (*append_to_cache)(const at::Tensor& k, const at::Tensor& v, const at::Tensor& slots, at::Tensor& keys,
                          at::Tensor& values);
  /// ops::rotary_append; indices as above.
  at::Tensor (*rotary_append)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                              const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines,
                              const at::Tensor& slots, at::Tensor& keys, at::Tensor& values);
  /// starts, lengths and block_tables on the CPU or on the device.
  at::Tensor (*paged_attention)(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                                const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                                const AttentionOptions& options);
  /// starts and parents on the CPU; parents may be undefined. log_sum_exp: null, or set to [heads, T] float32 for
  /// packed_attention_backward.
  at::Tensor (*packed_attention)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& starts, const at::Tensor& parents, const AttentionOptions& options,
                                 at::Tensor* log_sum_exp);
  /// -> q's, k's and v's gradient.
  std::array<at::Tensor, 3> (*packed_attention_backward)(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                                         const at::Tensor& starts, const at::Tensor& parents,
                                                         const at::Tensor& out, const at::Tensor& log_sum_exp,
                                                         const at::Tensor& out_grad, const AttentionOptions& options);

  /// A token a draw; draws [n, 2] float64 on the CPU: row of dense logits, which are soft-capped first, and a number in
  /// [0, 1), or with `given` a token id. -> [n, 2] float64 on the device: the id, and its log-prob at temperature 1;
  /// NaN for a row with a NaN, +inf or nothing finite.
  at::Tensor (*draw)(const at::Tensor& logits, double softcap, const at::Tensor& draws, bool given,
                     const SampleOptions& options);

  /// Rows of dense logits [n, V], targets [n] int64; writes log_prob and log_sum_exp [n] float32.
  void (*log_probs)(const at::Tensor& logits, const at::Tensor& targets, double softcap, const at::Tensor& log_prob,
                    const at::Tensor& log_sum_exp);
  /// logits become d(sum grad * log_prob) / d logits, in their own dtype; grad [n] float32.
  void (*log_probs_backward)(const at::Tensor& logits, const at::Tensor& targets, double softcap,
                             const at::Tensor& log_sum_exp, const at::Tensor& grad);

  /// What `work` launches on a device, recorded; it must not wait for the device nor copy from memory that is not
  /// pinned. Its tensors keep their addresses as long as the recording lives. `sharing`: null, or a recording whose
  /// memory for what `work` has freed by its end may be used too; the two are then never replayed at one time.
  void* (*record)(at::Device device, c10::function_ref<void()> work, void* sharing);
  /// On the device's current stream.
  void (*replay)(void* recording);
  void (*forget)(void* recording);
};

/// The kernels, whatever the device; null where there are none.
const Table* table();

/// The kernels for tensors like x; null where there are none (another device or dtype, not built, not loadable).
const Table* kernels_for(const at::Tensor& x);

/// The widest head that the attention kernels take.
inline constexpr std::int64_t kWidestHead = 256;

/// The one symbol of libsao_cuda.so.
using TableFunction = const Table*();
inline constexpr const char* kTableFunction = "sao_cuda_kernels";

}  // namespace sao::ops::cuda
