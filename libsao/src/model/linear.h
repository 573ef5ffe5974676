// SPDX-License-Identifier: Apache-2.0
// The matrices of a decoder layer. All products of a layer go through project() below, so what changes how a matrix
// acts (a bias, a low-rank adapter) is a member of Linear and known to these functions alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "sao/ops/linear.h"

namespace sao::detail {

/// y = x W^T + b.
struct Linear {
  std::string name = {};   ///< of the checkpoint, without ".weight": "model.layers.0.self_attn.q_proj"
  at::Tensor weight = {};  ///< [out, in]
  at::Tensor bias = {};    ///< [out]; undefined where there is none
};

/// Linear maps of one input whose outputs lie side by side: q, k and v; gate and up; or a single one. A checkpoint
/// holds them apart or as one matrix; what uses the outputs need not know.
using Projection = std::vector<Linear>;

/// x [T, in] -> [T, out]. Differentiable in x and in the map's tensors.
at::Tensor apply(const Linear& linear, const at::Tensor& x);

/// What apply() computes, as one packed matrix for the CPU's inference kernel.
ops::PackedWeight pack(const Projection& projection);

/// The outputs of all maps, cut into pieces of `widths` columns: [T, width] each. `packed` is pack(projection), null
/// where gradients are wanted or the kernel does not apply.
std::vector<at::Tensor> project(const Projection& projection, const ops::PackedWeight* packed, const at::Tensor& x,
                                at::IntArrayRef widths);

/// Adds every tensor that apply() reads to `list`.
void append_tensors(const Projection& projection, std::vector<at::Tensor>& list);

}  // namespace sao::detail
