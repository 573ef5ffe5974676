// SPDX-License-Identifier: Apache-2.0
#include "model/dropout.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "base/philox.h"

namespace sao::detail {

at::Tensor dropout_factors(const Dropout& dropout, const std::string& name, double rate, const at::Tensor& x) {
  const std::int64_t inputs = x.size(1);
  at::Tensor factors = at::empty({x.size(0), inputs}, at::kFloat);
  float* to = factors.mutable_data_ptr<float>();
  const auto threshold = static_cast<std::uint64_t>(std::ceil(rate * 0x1.0p32));  // a word below it is dropped
  const float kept = static_cast<float>(1.0 / (1.0 - rate));
  const std::int64_t* starts = dropout.starts.const_data_ptr<std::int64_t>();
  for (std::size_t s = 0; s < dropout.streams.size(); ++s) {
    const std::uint64_t stream = dropout.streams[s].fork(name).value;
    const PhiloxKey key = {static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
    at::parallel_for(starts[s], starts[s + 1], std::max<std::int64_t>(1, 8192 / inputs),
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t t = begin; t < end; ++t) {
                         const auto place = static_cast<std::uint32_t>(t - starts[s]);
                         float* row = to + t * inputs;
                         PhiloxCounter words = {};
                         for (std::int64_t i = 0; i < inputs; ++i) {
                           if (i % 4 == 0) words = philox4x32_10({static_cast<std::uint32_t>(i / 4), place, 0, 0}, key);
                           row[i] = words[static_cast<std::size_t>(i % 4)] < threshold ? 0.0f : kept;
                         }
                       }
                     });
  }
  return factors.to(x.options().requires_grad(false));
}

}  // namespace sao::detail
