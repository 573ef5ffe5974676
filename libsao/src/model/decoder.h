// SPDX-License-Identifier: Apache-2.0
// One decoder layer, the same for training, scoring and generation.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "model/rope.h"
#include "model/weights.h"
#include "sao/model/config.h"

namespace sao::detail {

/// q [T, heads, D], k and v [T, kv_heads, D], before the rotary embedding -> [T, heads * D].
using Attend = std::function<at::Tensor(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v)>;

/// What a layer gets and gives: h [T, H], and what the next norm makes of it, undefined where that is not computed yet.
struct Residual {
  at::Tensor h;
  at::Tensor normed = {};
};

/// `packed`: the layer's matrices packed; null where gradients are wanted or the kernel does not apply. `dropout`: of
/// the adapters' inputs; null where nothing is dropped. `next_norm`: the weight of the norm that follows the layer, the
/// next layer's or the model's; undefined: the result has h alone.
Residual decoder_layer(const ModelConfig& config, const LayerWeights& weights, const PackedLayer* packed,
                       const Residual& in, const Attend& attend, const Dropout* dropout,
                       const at::Tensor& next_norm = {});

/// The rotary embedding of queries or keys x [T, heads, D]; of a part of each head where the config says so.
at::Tensor rotated(const ModelConfig& config, const at::Tensor& x, const at::Tensor& positions,
                   const RotaryTable& rope);

using LayerFunction = std::function<at::Tensor(const at::Tensor& h)>;

/// layer(h), of which backward keeps h only and computes the rest again. `tensors` are those that the layer reads: they
/// get their gradients even when h needs none.
at::Tensor recomputed(LayerFunction layer, const at::Tensor& h, const std::vector<at::Tensor>& tensors);

}  // namespace sao::detail
