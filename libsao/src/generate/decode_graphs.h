// SPDX-License-Identifier: Apache-2.0
// Decode steps on a GPU as recorded graphs: one for each padded shape that came up more than once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "generate/plan.h"
#include "sao/model/causal_lm.h"
#include "sao/model/kv_cache.h"
#include "sao/ops/cuda_graph.h"

namespace sao::detail {

class DecodeGraphs {
 public:
  /// Hidden states [S, hidden_size] of a plan of one token a sequence, all of whose rows are wanted, with its ids [S]
  /// int64 on the device. They are written over by the next call.
  at::Tensor run(const CausalLM& model, const Plan& plan, const at::Tensor& ids, KvCache& cache);

 private:
  struct Recorded {
    KvStep step;     // the inputs, on the device
    at::Tensor ids;  // [S] int64
    at::Tensor hidden;
    ops::CudaGraph graph;
  };
  using Shape = std::pair<std::int64_t, std::int64_t>;  // sequences, blocks

  std::vector<const void*> addresses_;  // of the cache that the graphs are for
  std::map<Shape, std::int64_t> seen_;
  std::map<Shape, Recorded> recorded_;
};

/// At least n; few values, at most half as much again.
std::int64_t padded_count(std::int64_t n);

}  // namespace sao::detail
