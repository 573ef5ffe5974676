// SPDX-License-Identifier: Apache-2.0
// The matrices of a decoder layer. What changes how a matrix acts (a bias, a low-rank adapter) is a member of Linear,
// known to these functions and, where gate, up and down are one product, to decoder_layer.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "model/dropout.h"
#include "sao/ops/linear.h"

namespace sao::detail {

/// What LoRA adds to a linear: scaling * B (A x), in the dtype of A and B.
struct Adapter {
  at::Tensor a;  ///< [r, in]
  at::Tensor b;  ///< [out, r]
  double scaling = 0.0;
  double dropout = 0.0;  ///< of x
};

/// y = x W^T + b, and what an adapter adds.
struct Linear {
  std::string name = {};   ///< of the checkpoint, without ".weight": "model.layers.0.self_attn.q_proj"
  at::Tensor weight = {};  ///< [out, in]
  at::Tensor bias = {};    ///< [out]; undefined where there is none
  std::optional<Adapter> adapter = {};
};

/// Linear maps of one input whose outputs lie side by side: q, k and v; gate and up; or a single one. A checkpoint
/// holds them apart or as one matrix; what uses the outputs need not know.
using Projection = std::vector<Linear>;

/// x [T, in] -> [T, out]. Differentiable in x and in the map's tensors. `dropout`: null where nothing is dropped.
at::Tensor apply(const Linear& linear, const at::Tensor& x, const Dropout* dropout);

/// The weight with the adapter added, if there is one: computed in the wider of float32 and the weight's dtype, then
/// rounded to that dtype. Not differentiable.
at::Tensor merged_weight(const Linear& linear);

/// What apply() computes, as one packed matrix for the CPU's inference kernel; adapters are merged.
ops::PackedWeight pack(const Projection& projection, ops::WeightFormat format);

/// The outputs of all maps, cut into pieces of `widths` columns: [T, width] each. `packed` is pack(projection), null
/// where gradients or dropout are wanted or the kernel does not apply.
std::vector<at::Tensor> project(const Projection& projection, const ops::PackedWeight* packed, const at::Tensor& x,
                                at::IntArrayRef widths, const Dropout* dropout);

/// Moves the weights (and biases) of the maps into one tensor each, whose parts they then are, so that project()
/// without gradients needs one product. Nothing changes where there is one map, or biases for some only.
void join(Projection& projection);

/// Adds every tensor that apply() reads to `list`.
void append_tensors(const Projection& projection, std::vector<at::Tensor>& list);

}  // namespace sao::detail
