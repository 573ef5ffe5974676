// SPDX-License-Identifier: Apache-2.0
// The engine on a GPU, whose steps start before the tokens of the step before are known, beside the CPU's. Skipped
// where there is no GPU.
#include <gtest/gtest.h>

#include <map>

#include "sao/generate/engine.h"
#include "support/enable_cuda.h"
#include "support/tiny_model.h"

namespace sao {
namespace {

using testing::EnableCuda;

class CudaEngine : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EnableCuda::available) GTEST_SKIP() << EnableCuda::reason;
    testing::write_tiny_model(folder_.path());
  }
  Engine load(const std::string& device, std::int64_t max_batch, DType dtype = DType::kFloat32) const {
    return Engine(CausalLM::load(folder_.path(), {.device = device, .dtype = dtype}),
                  ChatTokenizer::load(folder_.path()), {.max_batch = max_batch, .prefill_tokens = 64});
  }
  testing::TemporaryFolder folder_;
};

// More requests than slots, and ends that nobody knows ahead: about every tenth token stops a sample.
TEST_F(CudaEngine, SamplesAreThoseOfTheCpu) {
  std::vector<GenerationRequest> requests;
  for (std::uint64_t r = 0; r < 40; ++r) {
    const Seed seed = Seed{3}.fork(r);
    TokenIds prompt;
    for (std::uint64_t i = 0; i < 1 + r; ++i) prompt.push_back(static_cast<TokenId>(300 + uniform_below(seed, i, 50)));
    requests.push_back({.prompt_ids = prompt, .seed = seed.fork("answer"), .samples = 1 + static_cast<int>(r % 3)});
  }
  const SamplingOptions sampling{.temperature = 0.9, .top_p = 0.95, .max_new_tokens = 40};
  const auto expected = load("cpu", 16).generate_all(requests, sampling);
  for (const std::int64_t max_batch : {1, 5, 16, 64}) {
    Engine engine = load("cuda:0", max_batch);
    std::map<std::pair<std::size_t, std::int64_t>, TokenIds> told;
    engine.set_on_token([&](std::size_t r, std::int64_t k, TokenId id) { told[{r, k}].push_back(id); });
    const auto found = engine.generate_all(requests, sampling);
    std::int64_t tokens = 0, stops = 0;
    for (std::size_t r = 0; r < requests.size(); ++r) {
      ASSERT_EQ(found[r].size(), expected[r].size());
      for (std::size_t k = 0; k < found[r].size(); ++k) {
        EXPECT_EQ(found[r][k].ids, expected[r][k].ids) << "request " << r << " sample " << k;
        EXPECT_EQ(found[r][k].finish_reason, expected[r][k].finish_reason);
        EXPECT_NEAR(found[r][k].log_prob, expected[r][k].log_prob, 1e-3);
        EXPECT_EQ((told[{r, static_cast<std::int64_t>(k)}]), found[r][k].ids);
        tokens += static_cast<std::int64_t>(found[r][k].ids.size());
        stops += found[r][k].finish_reason == FinishReason::kStop ? 1 : 0;
      }
    }
    EXPECT_GT(stops, 20);
    EXPECT_EQ(engine.stats().generated_tokens, tokens) << "what was drawn in vain does not count";
  }
}

// With our kernels and, in float16, without: other numbers than the CPU's, the same bookkeeping.
TEST_F(CudaEngine, HalfPrecision) {
  std::vector<GenerationRequest> requests;
  for (std::uint64_t r = 0; r < 12; ++r)
    requests.push_back({.prompt_ids = TokenIds(1 + 3 * r, 301), .seed = Seed{4}.fork(r), .samples = 2});
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    Engine engine = load("cuda:0", 5, dtype);
    std::map<std::pair<std::size_t, std::int64_t>, TokenIds> told;
    engine.set_on_token([&](std::size_t r, std::int64_t k, TokenId id) { told[{r, k}].push_back(id); });
    const auto found = engine.generate_all(requests, {.max_new_tokens = 20});
    for (std::size_t r = 0; r < requests.size(); ++r) {
      for (std::size_t k = 0; k < found[r].size(); ++k) {
        EXPECT_FALSE(found[r][k].ids.empty());
        EXPECT_EQ((told[{r, static_cast<std::int64_t>(k)}]), found[r][k].ids);
      }
    }
  }
}

}  // namespace
}  // namespace sao
