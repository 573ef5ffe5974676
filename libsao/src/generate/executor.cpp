// SPDX-License-Identifier: Apache-2.0
#include "generate/executor.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "sao/ops/cuda_graph.h"

namespace sao::detail {
namespace {

// On a GPU by way of pinned memory, so that the copy does not wait for what runs there.
at::Tensor to_tensor(const std::vector<std::int64_t>& values, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).pinned_memory(!device.is_cpu());
  at::Tensor tensor = at::empty({static_cast<std::int64_t>(values.size())}, options);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<std::int64_t>());
  return tensor.to(device, /*non_blocking=*/true);
}

// A plan's ids, on the device: those that it draws are not known to the host yet.
at::Tensor ids_of(const Plan& plan, const at::Tensor& drawn, at::Device device) {
  const at::Tensor ids = to_tensor(plan.ids, device);
  if (std::all_of(plan.drawn.begin(), plan.drawn.end(), [](std::int64_t draw) { return draw < 0; })) return ids;
  const at::Tensor draws = to_tensor(plan.drawn, device);
  return at::where(draws < 0, ids, drawn.index_select(0, draws.clamp_min(0)));
}

}  // namespace

at::Tensor ModelExecutor::run(const Plan& plan, KvCache& cache, const at::Tensor& drawn) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = ids_of(plan, drawn, model_.device());
  const bool decodes = plan.ids.size() == plan.sequences.size() && plan.rows.size() == plan.ids.size();
  if (decodes && beside_host()) {
    return graphs_.run(model_, plan, ids, cache);
  }
  const KvStep step = cache.plan(plan.sequences, plan.counts);
  const at::Tensor hidden = model_.hidden(ids, cache, step);  // [T, hidden_size]
  if (plan.rows.size() == plan.ids.size()) return hidden;
  return hidden.index_select(0, to_tensor(plan.rows, hidden.device()));
}

bool ModelExecutor::beside_host() const {
  return !model_.device().is_cpu() && ops::CudaGraph::serves(model_.output_weight(), model_.config().head_dim);
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
