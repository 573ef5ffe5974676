// SPDX-License-Identifier: Apache-2.0
#include "model/dropout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "base/philox.h"

namespace sao::detail {

Dropout dropout_streams(const PackedTokens& tokens) {
  const at::Tensor ids = tokens.ids.to(at::kCPU).contiguous();
  const std::int64_t* id = ids.const_data_ptr<std::int64_t>();
  const std::int64_t* starts = tokens.starts.const_data_ptr<std::int64_t>();
  const std::int64_t* parents = tokens.parents.defined() ? tokens.parents.const_data_ptr<std::int64_t>() : nullptr;
  Dropout streams(static_cast<std::size_t>(ids.size(0)));
  for (std::int64_t s = 0; s < tokens.sequences(); ++s) {
    Seed stream = *tokens.dropout;
    if (parents != nullptr && parents[s] >= 0) stream = streams[static_cast<std::size_t>(starts[parents[s] + 1] - 1)];
    for (std::int64_t t = starts[s]; t < starts[s + 1]; ++t) {
      stream = stream.fork(static_cast<std::uint64_t>(id[t]));
      streams[static_cast<std::size_t>(t)] = stream;
    }
  }
  return streams;
}

at::Tensor dropout_factors(const Dropout& streams, const std::string& name, double rate, const at::Tensor& x) {
  const std::int64_t inputs = x.size(1);
  at::Tensor factors = at::empty({x.size(0), inputs}, at::kFloat);
  float* to = factors.mutable_data_ptr<float>();
  const auto threshold = static_cast<std::uint64_t>(std::ceil(rate * 0x1.0p32));  // a word below it is dropped
  const float kept = static_cast<float>(1.0 / (1.0 - rate));
  const std::uint64_t matrix = Seed{0}.fork(name).value;
  at::parallel_for(0, x.size(0), std::max<std::int64_t>(1, 8192 / inputs), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::uint64_t stream = streams[static_cast<std::size_t>(t)].fork(matrix).value;
      const PhiloxKey key = {static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
      float* row = to + t * inputs;
      PhiloxCounter words = {};
      for (std::int64_t i = 0; i < inputs; ++i) {
        if (i % 4 == 0) words = philox4x32_10({static_cast<std::uint32_t>(i / 4), 0, 0, 0}, key);
        row[i] = words[static_cast<std::size_t>(i % 4)] < threshold ? 0.0f : kept;
      }
    }
  });
  return factors.to(x.options().requires_grad(false));
}

}  // namespace sao::detail
