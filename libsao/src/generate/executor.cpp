// SPDX-License-Identifier: Apache-2.0
#include "generate/executor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "sao/ops/cuda_graph.h"

namespace sao::detail {
namespace {

at::Tensor to_tensor(const std::vector<std::int64_t>& values) {
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor;
}

}  // namespace

at::Tensor ModelExecutor::run(const Plan& plan, KvCache& cache) {
  const at::NoGradGuard no_grad;
  const bool decodes = plan.ids.size() == plan.sequences.size() && plan.rows.size() == plan.ids.size();
  if (decodes && !model_.device().is_cpu() &&
      ops::CudaGraph::serves(model_.output_weight(), model_.config().head_dim)) {
    return graphs_.run(model_, plan, cache);
  }
  const KvStep step = cache.plan(plan.sequences, plan.counts);
  const at::Tensor hidden = model_.hidden(to_tensor(plan.ids), cache, step);  // [T, hidden_size]
  if (plan.rows.size() == plan.ids.size()) return hidden;
  return hidden.index_select(0, to_tensor(plan.rows).to(hidden.device()));
}

Logits ModelExecutor::logits(const at::Tensor& hidden) {
  const at::NoGradGuard no_grad;
  // A GPU's kernel caps them as it reads them: no float32 copy of the whole is written and read.
  if (!hidden.device().is_cpu()) {
    return {.values = at::linear(hidden, model_.output_weight()), .softcap = model_.config().final_logit_softcapping};
  }
  return {.values = model_.logits(hidden)};
}

}  // namespace sao::detail
