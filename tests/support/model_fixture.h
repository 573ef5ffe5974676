// SPDX-License-Identifier: Apache-2.0
// Checkpoints with what transformers computes from them, for tests of the model and of generation.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <initializer_list>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "sao/base/tokens.h"
#include "support/close.h"
#include "support/parity_report.h"
#include "support/paths.h"

namespace sao::testing {

/// A folder with a checkpoint and expected.safetensors.
struct ModelFixture {
  std::string name;
  std::filesystem::path folder;
  bool may_be_absent = false;

  friend std::ostream& operator<<(std::ostream& out, const ModelFixture& fixture) { return out << fixture.name; }
};

/// tests/golden/model: always there.
inline std::vector<ModelFixture> golden_models() {
  std::vector<ModelFixture> models;
  for (const char* name : {"gemma2", "llama3", "llama-sharded", "gemma", "gemma3", "llama-bias", "mistral", "qwen2",
                           "qwen3", "phi3", "phi3-longrope"}) {
    models.push_back({name, golden("model") / name});
  }
  return models;
}

/// Larger ones, kept beside the checkout.
inline std::vector<ModelFixture> shared_models() {
  std::vector<ModelFixture> models;
  for (const char* name : {"gemma2-tiny", "sharded-gemma2", "llama3-tiny", "llama-tied"}) {
    models.push_back({name, parity(name), /*may_be_absent=*/true});
  }
  return models;
}

/// A test that runs on every fixture: SAO_INSTANTIATE_MODEL_FIXTURES(Suite). A missing golden fails it, a missing
/// shared one skips it.
class ModelFixtureTest : public ::testing::TestWithParam<ModelFixture> {
 protected:
  void SetUp() override {
    if (std::filesystem::exists(folder())) return;
    if (GetParam().may_be_absent) GTEST_SKIP() << "no reference fixtures at " << folder().string();
    FAIL() << "missing from the repository: " << folder().string();
  }
  const std::filesystem::path& folder() const { return GetParam().folder; }
};

inline std::string fixture_name(const ::testing::TestParamInfo<ModelFixture>& info) {
  std::string name = info.param.name;
  std::ranges::replace(name, '-', '_');
  return name;
}

/// Gathers what comparisons with a reference find, for one line of the report.
class Comparison {
 public:
  Comparison(const ModelFixture& fixture, std::string what, double tolerance)
      : result_{.area = "model", .subject = fixture.name, .what = std::move(what), .tolerance = tolerance} {}
  ~Comparison() { report_parity(result_); }
  Comparison(const Comparison&) = delete;
  Comparison& operator=(const Comparison&) = delete;

  /// |actual - expected| <= tolerance everywhere.
  ::testing::AssertionResult close(const at::Tensor& actual, const at::Tensor& expected, const std::string& where) {
    const ::testing::AssertionResult good = testing::close(actual, expected, result_.tolerance);
    if (!actual.sizes().equals(expected.sizes()) || actual.numel() == 0) return good;
    const at::Tensor difference = (actual.detach().to(at::kDouble) - expected.to(at::kDouble)).abs().max();
    add(difference.item<double>(), actual.numel(), where);
    return good;
  }
  void add(double difference, std::int64_t compared, const std::string& where) {
    result_.compared += compared;
    if (difference <= result_.worst) return;
    result_.worst = difference;
    result_.worst_case = where;
  }

 private:
  ParityResult result_;
};

struct UnpaddedRows {
  std::vector<TokenIds> rows;
  std::vector<std::int64_t> offsets;  ///< first real token of each row
};

/// The rows of `ids` [B, L] where `mask` is not 0.
inline UnpaddedRows unpad(const at::Tensor& ids, const at::Tensor& mask) {
  UnpaddedRows batch;
  for (std::int64_t r = 0; r < ids.size(0); ++r) {
    TokenIds row;
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (mask[r][t].item<std::int64_t>() == 0) continue;
      if (row.empty()) batch.offsets.push_back(t);
      row.push_back(static_cast<TokenId>(ids[r][t].item<std::int64_t>()));
    }
    batch.rows.push_back(row);
  }
  return batch;
}

}  // namespace sao::testing

#define SAO_INSTANTIATE_MODEL_FIXTURES(suite)                                                   \
  INSTANTIATE_TEST_SUITE_P(Golden, suite, ::testing::ValuesIn(::sao::testing::golden_models()), \
                           ::sao::testing::fixture_name);                                       \
  INSTANTIATE_TEST_SUITE_P(Shared, suite, ::testing::ValuesIn(::sao::testing::shared_models()), \
                           ::sao::testing::fixture_name)
