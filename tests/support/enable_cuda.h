// SPDX-License-Identifier: Apache-2.0
// For tests on a GPU: made usable before the first test of the program, since LibTorch must not be asked about CUDA, as
// at::manual_seed does, before its CUDA half is loaded.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "sao/base/error.h"
#include "sao/ops/cuda.h"

namespace sao::testing {

struct EnableCuda : ::testing::Environment {
  void SetUp() override {
    try {
      ops::enable_cuda(0);
      available = true;
    } catch (const ResourceError& e) {
      reason = e.what();
    }
  }
  static inline bool available = false;
  static inline std::string reason;
};
inline const ::testing::Environment* const kEnableCuda = ::testing::AddGlobalTestEnvironment(new EnableCuda);

}  // namespace sao::testing
