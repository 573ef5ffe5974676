// SPDX-License-Identifier: Apache-2.0
// Runs a plan's tokens. Tests put a fake in its place.
#pragma once

#include <ATen/core/Tensor.h>

#include "generate/decode_graphs.h"
#include "generate/plan.h"
#include "sao/model/causal_lm.h"
#include "sao/model/kv_cache.h"

namespace sao::detail {

/// [n, vocab_size], and the soft cap that they have yet to go through; 0 = none.
struct Logits {
  at::Tensor values;
  double softcap = 0.0;
};

class Executor {
 public:
  virtual ~Executor() = default;
  /// Adds the plan's tokens to their sequences and returns the final hidden states of its rows, [rows, hidden_size].
  /// `drawn`: the ids of the draws that the plan names, [draws] int64; needed where it names some.
  virtual at::Tensor run(const Plan& plan, KvCache& cache, const at::Tensor& drawn = {}) = 0;
  /// Of hidden states [n, hidden_size].
  virtual Logits logits(const at::Tensor& hidden) = 0;
};

class ModelExecutor final : public Executor {
 public:
  explicit ModelExecutor(CausalLM model) : model_(std::move(model)) {}
  at::Tensor run(const Plan& plan, KvCache& cache, const at::Tensor& drawn = {}) override;
  Logits logits(const at::Tensor& hidden) override;
  /// Whether a GPU's kernels compute on when a call returns.
  bool beside_host() const;

 private:
  CausalLM model_;
  DecodeGraphs graphs_;
};

}  // namespace sao::detail
