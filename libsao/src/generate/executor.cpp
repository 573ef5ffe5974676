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

// A plan's ids, on the device. On a GPU nothing is waited for: what it draws is not known to the host yet.
at::Tensor ids_of(const Plan& plan, const at::Tensor& drawn, at::Device device) {
  const std::int64_t count = static_cast<std::int64_t>(plan.ids.size());
  const bool known = std::all_of(plan.drawn.begin(), plan.drawn.end(), [](std::int64_t draw) { return draw < 0; });
  if (device.is_cpu() && known) return to_tensor(plan.ids);
  // Pinned, so that copying does not wait.
  at::Tensor host = at::empty({known ? 1 : 2, count}, at::TensorOptions(at::kLong).pinned_memory(!device.is_cpu()));
  std::copy(plan.ids.begin(), plan.ids.end(), host.mutable_data_ptr<std::int64_t>());
  if (!known) std::copy(plan.drawn.begin(), plan.drawn.end(), host.mutable_data_ptr<std::int64_t>() + count);
  const at::Tensor there = host.to(device, /*non_blocking=*/true);
  if (known) return there[0];
  return at::where(there[1] < 0, there[0], drawn.index_select(0, there[1].clamp_min(0)));
}

}  // namespace

at::Tensor ModelExecutor::run(const Plan& plan, KvCache& cache, const at::Tensor& drawn) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = ids_of(plan, drawn, model_.device());
  const bool decodes = plan.ids.size() == plan.sequences.size() && plan.rows.size() == plan.ids.size();
  if (decodes && !model_.device().is_cpu() &&
      ops::CudaGraph::serves(model_.output_weight(), model_.config().head_dim)) {
    return graphs_.run(model_, plan, ids, cache);
  }
  const KvStep step = cache.plan(plan.sequences, plan.counts);
  const at::Tensor hidden = model_.hidden(ids, cache, step);  // [T, hidden_size]
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
