// SPDX-License-Identifier: Apache-2.0
#include "sao/generate/generator.h"

#include <utility>

#include "sao/base/error.h"

namespace sao {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
  }
  throw InternalError("to_string: unknown finish reason");
}

std::vector<std::vector<Completion>> Generator::generate_all(std::span<const GenerationRequest> requests,
                                                             const SamplingOptions& sampling) {
  std::vector<std::vector<Completion>> all(requests.size());
  for (std::size_t r = 0; r < requests.size(); ++r) {
    all[r].resize(requests[r].samples > 0 ? static_cast<std::size_t>(requests[r].samples) : 0);
  }
  generate(requests, sampling, [&](std::size_t request, std::int64_t sample, Completion completion) {
    all[request][static_cast<std::size_t>(sample)] = std::move(completion);
  });
  return all;
}

}  // namespace sao
