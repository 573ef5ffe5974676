// SPDX-License-Identifier: Apache-2.0
// The parameters of a decoder: where each is kept, its name in a checkpoint, its shape.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "model/linear.h"
#include "sao/model/config.h"

namespace sao::detail {

/// H hidden_size, I intermediate_size, D head_dim.
struct LayerWeights {
  at::Tensor input_norm;      ///< [H]
  Projection qkv;             ///< [heads * D, H], [kv_heads * D, H] twice; or fused
  at::Tensor q_norm, k_norm;  ///< [D]; with query_key_norm only
  Projection o;               ///< [H, heads * D]
  at::Tensor
      post_attention_norm;   ///< [H]; of what attention gives where the config has post_norms, else before the MLP
  at::Tensor pre_mlp_norm;   ///< [H]; with post_norms only
  at::Tensor post_mlp_norm;  ///< [H]; with post_norms only
  Projection gate_up;        ///< [I, H] twice; or fused
  Projection down;           ///< [H, I]

  /// Every tensor, for autograd.
  std::vector<at::Tensor> all() const;
};

struct Weights {
  at::Tensor embedding;  ///< [V, H]
  std::vector<LayerWeights> layers;
  at::Tensor final_norm;  ///< [H]
  at::Tensor output;      ///< [V, H]; the embedding when tied
};

/// What a parameter is in a new model.
enum class Initial { kNormal, kIdentity, kZero };

/// One parameter of a Weights.
struct Slot {
  std::string name;
  std::vector<std::int64_t> shape;
  at::Tensor* tensor;
  Initial initial;
};

/// All parameters in the order in which they are saved; a tied output matrix is not among them. Shapes `weights` for
/// the config first; tensors that are there stay.
std::vector<Slot> slots(const ModelConfig& config, Weights& weights);

/// The matrices packed for the CPU's inference kernel.
struct PackedLayer {
  ops::PackedWeight qkv, o, gate_up, down;
};
struct PackedModel {
  std::vector<PackedLayer> layers;
  ops::PackedWeight output;
  ops::PackedWeight embedding;  ///< in float32, of a model that holds it packed only; else undefined
};
PackedLayer pack(const LayerWeights& weights, ops::WeightFormat format);
PackedModel pack(const Weights& weights, ops::WeightFormat format);

/// Lets go of the matrices and biases; norms stay.
void drop_matrices(LayerWeights& weights);

}  // namespace sao::detail
