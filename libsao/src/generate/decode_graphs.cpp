// SPDX-License-Identifier: Apache-2.0
#include "generate/decode_graphs.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <bit>

namespace sao::detail {
namespace {

std::vector<const void*> addresses_of(KvCache& cache, std::int64_t layers) {
  std::vector<const void*> addresses;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    addresses.push_back(cache.keys(layer).const_data_ptr());
    addresses.push_back(cache.values(layer).const_data_ptr());
  }
  return addresses;
}

}  // namespace

std::int64_t padded_count(std::int64_t n) {
  const std::int64_t power =
      static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(1, n))));
  return n <= power / 4 * 3 ? power / 4 * 3 : power;
}

at::Tensor DecodeGraphs::run(const CausalLM& model, const Plan& plan, const at::Tensor& ids, KvCache& cache) {
  const at::NoGradGuard no_grad;
  const std::int64_t count = static_cast<std::int64_t>(plan.sequences.size());
  if (std::vector<const void*> now = addresses_of(cache, model.config().num_hidden_layers); now != addresses_) {
    recorded_.clear();
    seen_.clear();
    addresses_ = std::move(now);
  }
  std::int64_t longest = 1;
  for (const KvCache::SequenceId sequence : plan.sequences) longest = std::max(longest, cache.length(sequence) + 1);
  // Attention's blocks beyond a sequence's end cost little: widths are powers of two, from 64 tokens on.
  const std::int64_t blocks = static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::max<std::int64_t>(4, KvCache::blocks_for(longest)))));
  const Shape shape{padded_count(count), blocks};
  const KvStep step = cache.plan(plan.sequences, plan.counts, {.sequences = shape.first, .blocks = shape.second});

  const auto found = recorded_.find(shape);
  if (found != recorded_.end()) {
    found->second.step.storage.copy_(step.storage, /*non_blocking=*/true);
    found->second.ids.narrow(0, 0, count).copy_(ids);  // missing sequences keep some other's
    found->second.graph.replay();
    return found->second.hidden.narrow(0, 0, count);
  }
  const at::Device device = model.device();
  KvStep there = step.on(device);
  const at::Tensor ids_there = at::zeros({shape.first}, ids.options());
  ids_there.narrow(0, 0, count).copy_(ids);
  const at::Tensor hidden = model.hidden(ids_there, cache, there);
  // The second time around: the shape is likely to stay for long, and all that is made on first use is made.
  if (++seen_[shape] == 2) {
    at::Tensor out;
    ops::CudaGraph graph = ops::CudaGraph::record(
        device, [&] { out = model.hidden(ids_there, cache, there); },
        recorded_.empty() ? nullptr : &recorded_.begin()->second.graph);
    recorded_.emplace(shape, Recorded{there, ids_there, out, std::move(graph)});
  }
  return hidden.narrow(0, 0, count);
}

}  // namespace sao::detail
