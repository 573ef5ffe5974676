// SPDX-License-Identifier: Apache-2.0
// The twins: each op written plainly in LibTorch, for any device and dtype, differentiable. They define what the
// kernels compute; the tests compare against them.
#pragma once

#include "sao/ops/attention.h"
#include "sao/ops/pointwise.h"

namespace sao::ops::reference {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options);
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines);
at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Gate kind);
at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                            const AttentionOptions& options, const at::Tensor& parents = {});
at::Tensor paged_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                           const AttentionOptions& options);

}  // namespace sao::ops::reference
