// SPDX-License-Identifier: Apache-2.0
// AdamW with float32 state, over all parameters in one call.
//   sao::AdamW optimizer(model.parameters(), {.learning_rate = 1e-6});
//   loss.backward();
//   optimizer.accumulate();
//   optimizer.update(optimizer.gradient_norm(), 1e-6);
//   model.weights_changed();
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "sao/base/options.h"
#include "sao/io/safetensors.h"

namespace sao {

struct AdamWOptions {
  double learning_rate = 1e-6;  ///< peak; the paper's. Trap: 1e-5 wrecks models of billions of parameters
  double beta1 = 0.9;           ///< transformers' default, as the next three
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.0;   ///< decoupled; of matrices only, never of norms
  double max_grad_norm = 1.0;  ///< the gradients' global norm is scaled down to this; 0 = no clipping
};

template <class Visitor, OptionsOf<AdamWOptions> Options>
void visit_fields(Visitor&& visit, Options& options) {
  visit("learning_rate", options.learning_rate, "peak learning rate");
  visit("beta1", options.beta1, "decay of the gradients' running mean");
  visit("beta2", options.beta2, "decay of the squared gradients' running mean");
  visit("eps", options.eps, "added to the root of the squared gradients' mean");
  visit("weight_decay", options.weight_decay, "decoupled decay of matrices");
  visit("max_grad_norm", options.max_grad_norm, "clips the global gradient norm; 0 = off");
}

/// Throws InputError naming every field that is out of range.
void validate(const AdamWOptions& options);

/// The optimizer as published (Loshchilov and Hutter 2019, algorithm 2; torch.optim.AdamW). Parameters in float32 or
/// float64 are updated themselves; of bfloat16 parameters it keeps float32 masters, sums their gradients in float32 and
/// rounds the masters into them, so that updates below bfloat16's resolution add up. float16 is refused: InputError.
class AdamW {
 public:
  /// `parameters` must be leaves; their storage is written to by update().
  AdamW(const NamedTensors& parameters, const AdamWOptions& options);

  /// Takes in what backward left in the parameters' gradients. Call it after every backward.
  void accumulate();

  /// Global L2 norm of the accumulated gradients; NaN or infinite when one of them is.
  double gradient_norm() const;
  /// The same of each parameter, in their order.
  std::vector<double> gradient_norms() const;

  /// Clips by `gradient_norm`, updates every parameter at `learning_rate` and clears the gradients.
  void update(double gradient_norm, double learning_rate);

  /// Drops the accumulated gradients.
  void zero_grad();

  /// Updates done.
  std::int64_t steps() const { return steps_done_; }

  /// "parameter.<name>" (masters where there are any), "exp_avg.<name>", "exp_avg_sq.<name>": everything but steps().
  NamedTensors state() const;
  /// Copies a saved state in, masters into the parameters too. Throws InputError naming what is missing or misshapen.
  void load(const SafetensorsFile& file, std::int64_t steps);

 private:
  void ensure_gradients();

  AdamWOptions options_;
  std::int64_t steps_done_ = 0;
  std::vector<std::string> names_;
  std::vector<at::Tensor> parameters_, masters_, gradients_, exp_avg_, exp_avg_sq_;
  bool has_masters_ = false;
};

}  // namespace sao
