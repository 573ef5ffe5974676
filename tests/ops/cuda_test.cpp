// SPDX-License-Identifier: Apache-2.0
// The ops on a GPU against their twins on the CPU in float64: values and gradients, through autograd. Skipped where
// there is no GPU; cuda_emulated_test.cpp runs the kernels' sources there.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <string>

#include "ops/cuda_dispatch.h"
#include "ops/reference.h"
#include "sao/base/error.h"
#include "sao/ops/attention.h"
#include "sao/ops/cuda.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/pointwise.h"
#include "sao/ops/sample.h"
#include "support/close.h"
#include "support/enable_cuda.h"

namespace sao::ops {
namespace {

using testing::close;
using testing::EnableCuda;

TEST(EnableCuda, SaysWhatIsMissing) {
  try {
    enable_cuda(100);
    FAIL() << "a hundred and one GPUs";
  } catch (const ResourceError& e) {
    const std::string text = e.what();
    EXPECT_EQ(text.rfind("device cuda:100: ", 0), 0u) << text;
    EXPECT_NE(text.find("use the device cpu"), std::string::npos) << text;
  }
}

class Cuda : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (!EnableCuda::available) GTEST_SKIP() << EnableCuda::reason;
    at::manual_seed(11);
  }
  at::Device device() const { return at::Device(at::kCUDA, 0); }
  double tolerance() const { return GetParam() == at::kFloat ? 4e-6 : 8e-3; }

  // On the CPU in float64, but numbers that this dtype holds.
  at::Tensor random(at::IntArrayRef sizes, double scale = 1.0) const {
    return (at::randn(sizes) * scale).to(GetParam()).to(at::kDouble).requires_grad_(true);
  }
  at::Tensor on_gpu(const at::Tensor& x) const { return x.detach().to(device(), GetParam()).requires_grad_(true); }

  // f on the GPU against g on the CPU: the result, and the gradients of a random weighted sum of it.
  template <class F, class G>
  void compare(const std::vector<at::Tensor>& inputs, double absolute, F&& f, G&& g) const {
    std::vector<at::Tensor> there;
    for (const at::Tensor& input : inputs) there.push_back(on_gpu(input));
    ASSERT_NE(cuda::kernels_for(there[0]), nullptr) << "the twin would be compared with itself";
    const at::Tensor actual = f(there), expected = g(inputs);
    EXPECT_EQ(actual.scalar_type(), GetParam());
    EXPECT_TRUE(close(actual, expected, absolute, 2.0 * tolerance()));
    const at::Tensor weight = at::randn(expected.sizes()).to(GetParam());
    const auto a = torch::autograd::grad({actual}, there, {weight.to(device())});
    const auto e = torch::autograd::grad({expected}, inputs, {weight.to(at::kDouble)});
    for (std::size_t i = 0; i < inputs.size(); ++i)
      EXPECT_TRUE(close(a[i], e[i], 4.0 * absolute, 2.0 * tolerance())) << "input " << i;
    const c10::NoGradGuard no_grad;
    EXPECT_TRUE(testing::identical(f(there), actual)) << "other bits without gradients";
  }
};

TEST_P(Cuda, RmsNorm) {
  for (const bool zero_centered : {false, true}) {
    for (const std::int64_t width : {3, 300, 2304, 13000}) {
      const RmsNormOptions options{.eps = 1e-5, .zero_centered = zero_centered};
      const std::int64_t rows = width > 4096 ? 5 : 301;
      compare(
          {random({rows, width}), random({width})}, 5.0 * tolerance(),
          [&](const auto& x) { return rms_norm(x[0], x[1], options); },
          [&](const auto& x) { return reference::rms_norm(x[0], x[1], options); });
    }
  }
}

TEST_P(Cuda, Rotary) {
  const at::Tensor positions = at::randint(5000, {67}, at::kLong);
  const at::Tensor angles = at::rand({5000, 128}) * 6.0;
  // Exact in bfloat16, so that the twin's rounding of them is none.
  const at::Tensor c = at::cos(angles).to(at::kBFloat16).to(at::kFloat),
                   s = at::sin(angles).to(at::kBFloat16).to(at::kFloat);
  const at::Tensor cg = c.to(device()), sg = s.to(device()), pg = positions.to(device());
  compare(
      {random({67, 3, 256})}, tolerance(), [&](const auto& x) { return rotary(x[0], pg, cg, sg); },
      [&](const auto& x) { return reference::rotary(x[0], positions, c, s); });
}

TEST_P(Cuda, GatedActivation) {
  for (const Gate kind : {Gate::kGeluTanh, Gate::kSilu}) {
    for (const std::int64_t width : {45, 9216}) {
      compare(
          {random({33, width}, 3.0), random({33, width})}, tolerance(),
          [&](const auto& x) { return gated_activation(x[0], x[1], kind); },
          [&](const auto& x) { return reference::gated_activation(x[0], x[1], kind); });
    }
  }
}

struct Shape {
  std::int64_t heads, kv_heads, head_dim, window;
  double softcap;
};
const std::vector<Shape> kShapes = {{4, 2, 16, 0, 0.0},    {2, 1, 80, 2, 6.0},    {3, 1, 10, 16, 50.0},
                                    {8, 2, 128, 100, 0.0}, {8, 4, 256, 34, 50.0}, {2, 1, 132, 0, 6.0}};

TEST_P(Cuda, PackedAttention) {
  const at::Tensor starts = at::tensor({0, 1, 6, 39, 71, 320, 701}, at::kLong);
  std::vector<Shape> shapes = kShapes;
  shapes.insert(shapes.end(), {{8, 2, 64, 0, 0.0}, {3, 1, 96, 129, 2.0}, {4, 4, 128, 0, 30.0}, {8, 4, 256, 0, 50.0}});
  for (const Shape& p : shapes) {
    SCOPED_TRACE(p.head_dim);
    const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
    const auto run = [&](const auto& x) { return packed_attention(x[0], x[1], x[2], starts, options); };
    const auto twin = [&](const auto& x) { return reference::packed_attention(x[0], x[1], x[2], starts, options); };
    compare({random({701, p.heads, p.head_dim}), random({701, p.kv_heads, p.head_dim}),
             random({701, p.kv_heads, p.head_dim})},
            2.0 * tolerance(), run, twin);
  }
}

// Prompts of 130, 300, 31 and 1 tokens with their answers, which do not follow them at once, among sequences that stand
// alone.
TEST_P(Cuda, PackedAttentionOfSequencesThatContinueOthers) {
  const std::vector<std::int64_t> lengths{130, 33, 40, 300, 100, 1, 31, 257, 60, 1, 100, 1, 40, 1};
  const at::Tensor parents = at::tensor({-1, -1, 0, -1, 0, 3, -1, 3, -1, -1, 6, 9, 9, 6}, at::kLong);
  const at::Tensor starts = at::cat({at::zeros({1}, at::kLong), at::tensor(lengths).cumsum(0)});
  const std::int64_t tokens = starts[-1].item<std::int64_t>();
  std::vector<Shape> shapes = kShapes;
  shapes.insert(shapes.end(), {{8, 2, 64, 0, 0.0}, {2, 1, 80, 50, 6.0}, {4, 2, 128, 0, 30.0}, {8, 4, 256, 0, 50.0}});
  for (const Shape& p : shapes) {
    SCOPED_TRACE(p.head_dim);
    const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
    const auto run = [&](const auto& x) { return packed_attention(x[0], x[1], x[2], starts, options, parents); };
    const auto twin = [&](const auto& x) {
      return reference::packed_attention(x[0], x[1], x[2], starts, options, parents);
    };
    const std::vector<at::Tensor> inputs{random({tokens, p.heads, p.head_dim}),
                                         random({tokens, p.kv_heads, p.head_dim}),
                                         random({tokens, p.kv_heads, p.head_dim})};
    compare(inputs, 2.0 * tolerance(), run, twin);

    const std::vector<at::Tensor> there{on_gpu(inputs[0]), on_gpu(inputs[1]), on_gpu(inputs[2])};
    const at::Tensor out = run(there), grad = at::randn({tokens, p.heads * p.head_dim}).to(device(), GetParam());
    const auto first = torch::autograd::grad({out}, there, {grad});
    for (int i = 0; i < 3; ++i) {
      const at::Tensor again = run(there);
      EXPECT_TRUE(testing::identical(again, out));
      const auto grads = torch::autograd::grad({again}, there, {grad});
      for (std::size_t n = 0; n < 3; ++n) EXPECT_TRUE(testing::identical(grads[n], first[n])) << "input " << n;
    }
  }
}

// Sequences of exactly one tile and of one row more, and one of many tiles; rows of a joint projection.
TEST_P(Cuda, PackedAttentionGivesTheSameBitsAgain) {
  const at::Tensor starts = at::tensor({0, 64, 129, 257, 386, 1886}, at::kLong);
  for (const Shape& p : kShapes) {
    SCOPED_TRACE(p.head_dim);
    const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
    const at::Tensor leaf = on_gpu(at::randn({1886, p.heads + 2 * p.kv_heads, p.head_dim}));
    const at::Tensor grad = at::randn({1886, p.heads * p.head_dim}).to(device(), GetParam());
    const auto run = [&] {
      const at::Tensor out = packed_attention(leaf.narrow(1, 0, p.heads), leaf.narrow(1, p.heads, p.kv_heads),
                                              leaf.narrow(1, p.heads + p.kv_heads, p.kv_heads), starts, options);
      return std::vector<at::Tensor>{out, torch::autograd::grad({out}, {leaf}, {grad})[0]};
    };
    const std::vector<at::Tensor> first = run();
    EXPECT_TRUE(at::isfinite(first[1]).all().item<bool>());
    for (int i = 0; i < 3; ++i) {
      const std::vector<at::Tensor> again = run();
      EXPECT_TRUE(testing::identical(again[0], first[0]));
      EXPECT_TRUE(testing::identical(again[1], first[1]));
    }
    // A sequence has the same results whatever it is packed with.
    const at::Tensor alone = leaf.detach().narrow(0, 257, 129);
    const at::Tensor out =
        packed_attention(alone.narrow(1, 0, p.heads), alone.narrow(1, p.heads, p.kv_heads),
                         alone.narrow(1, p.heads + p.kv_heads, p.kv_heads), at::tensor({0, 129}, at::kLong), options);
    EXPECT_TRUE(testing::identical(out, first[0].narrow(0, 257, 129)));
  }
}

TEST_P(Cuda, PagedAttentionInSteps) {
  const c10::NoGradGuard no_grad;
  constexpr std::int64_t kLength = 600, kOther = 20;
  for (const Shape& p : kShapes) {
    SCOPED_TRACE(p.head_dim);
    const at::Tensor q = random({kLength, p.heads, p.head_dim}), k = random({kLength, p.kv_heads, p.head_dim});
    const at::Tensor v = random({kLength, p.kv_heads, p.head_dim});
    const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
    const at::Tensor whole = reference::packed_attention(q, k, v, at::tensor({std::int64_t{0}, kLength}), options);
    const at::Tensor tables = at::randperm(80, at::kLong).slice(0, 0, 76).view({2, 38}).to(at::kInt);
    const auto slots_of = [&](std::int64_t sequence, const at::Tensor& positions) {
      return tables[sequence].to(at::kLong).index_select(0, positions.div(kCacheBlock, "floor")) * kCacheBlock +
             positions.remainder(kCacheBlock);
    };
    const at::Tensor qg = on_gpu(q), kg = on_gpu(k), vg = on_gpu(v);
    at::Tensor keys = at::zeros({80, p.kv_heads, p.head_dim, kCacheBlock}, qg.options());
    at::Tensor values = at::zeros({80, p.kv_heads, kCacheBlock, p.head_dim}, qg.options());
    append_to_cache(kg.narrow(0, 0, kOther), vg.narrow(0, 0, kOther), slots_of(1, at::arange(kOther)), keys, values);
    std::int64_t begin = 0;
    for (const std::int64_t n : {1, 7, 292, 1, 1, 50, 248}) {
      append_to_cache(kg.narrow(0, begin, n), vg.narrow(0, begin, n), slots_of(0, at::arange(begin, begin + n)), keys,
                      values);
      const at::Tensor queries = at::cat({qg.narrow(0, begin, n), qg.narrow(0, kOther - 1, 1)});
      const at::Tensor starts = at::tensor({std::int64_t{0}, n, n + 1}), lengths = at::tensor({begin + n, kOther});
      const at::Tensor out = paged_attention(queries, keys, values, starts, lengths, tables, options);
      const at::Tensor expected = at::cat({whole.narrow(0, begin, n), whole.narrow(0, kOther - 1, 1)});
      EXPECT_TRUE(close(out, expected, 2.0 * tolerance(), tolerance())) << n << " at " << begin;
      // Indices that are on the device already: without tensor cores, which are planned on the host.
      const at::Tensor again = paged_attention(queries, keys, values, starts.to(device()), lengths.to(device()),
                                               tables.to(device()), options);
      EXPECT_TRUE(close(again, expected, 2.0 * tolerance(), tolerance())) << n << " at " << begin;
      begin += n;
    }
    EXPECT_EQ(begin, kLength);
  }
}

// One new token a sequence, over several parts of keys, alone and among others.
TEST_P(Cuda, PagedDecode) {
  const std::vector<std::int64_t> lengths{1, 17, 512, 513, 1000, 2500};
  const auto count = static_cast<std::int64_t>(lengths.size());
  const AttentionOptions options{.scale = 0.06, .softcap = 50.0, .window = 2000};
  at::Tensor tables = at::zeros({count, 157}, at::kInt);
  std::int64_t blocks = 0;
  for (std::int64_t s = 0; s < count; ++s) {
    for (std::int64_t b = 0; b * kCacheBlock < lengths[static_cast<std::size_t>(s)]; ++b) {
      tables[s][b] = static_cast<int>(blocks++);
    }
  }
  const at::Tensor q = random({count, 8, 256}), ends = at::tensor(lengths), starts = at::arange(count + 1);
  const at::Tensor keys = random({blocks, 4, 256, kCacheBlock}), values = random({blocks, 4, kCacheBlock, 256});
  const c10::NoGradGuard no_grad;
  const at::Tensor expected = reference::paged_attention(q, keys, values, starts, ends, tables, options);
  const at::Tensor qg = on_gpu(q), kg = on_gpu(keys), vg = on_gpu(values);
  const at::Tensor found = paged_attention(qg, kg, vg, starts, ends, tables, options);
  EXPECT_TRUE(close(found, expected, 2.0 * tolerance(), tolerance()));
  for (std::int64_t s = 0; s < count; ++s) {
    const at::Tensor alone = paged_attention(qg.narrow(0, s, 1), kg, vg, at::arange(2), ends.narrow(0, s, 1),
                                             tables.narrow(0, s, 1).contiguous(), options);
    EXPECT_TRUE(testing::identical(alone, found.narrow(0, s, 1))) << s;
  }
}

TEST_P(Cuda, DrawsAreThoseOfTheCpu) {
  const c10::NoGradGuard no_grad;
  const double softcap = 20.0;
  const at::Tensor logits = random({64, 30000}, 6.0), there = on_gpu(logits).detach();
  const at::Tensor here = softcapped(logits.to(at::kFloat), softcap);
  for (const SampleOptions& options : {SampleOptions{}, SampleOptions{.temperature = 0.0}, SampleOptions{.top_k = 40},
                                       SampleOptions{.temperature = 0.7, .top_p = 0.9, .min_p = 1e-3}}) {
    std::vector<Draw> draws;
    for (std::int64_t i = 0; i < 256; ++i)
      draws.push_back({.row = i % 64, .uniform = (0.37 + 0.61 * i) - std::floor(0.37 + 0.61 * i)});
    std::vector<Drawn> found(draws.size()), expected(draws.size());
    sample(there, draws, options, found, softcap);
    sample(here, draws, options, expected);
    int equal = 0;
    for (std::size_t i = 0; i < draws.size(); ++i) {
      equal += found[i].id == expected[i].id;
      if (found[i].id == expected[i].id) {
        EXPECT_NEAR(found[i].log_prob, expected[i].log_prob, 1e-4);
      }
    }
    EXPECT_GE(equal, 254) << "numbers on a boundary may fall on either side";
  }
}

TEST_P(Cuda, LogProbRows) {
  for (const double softcap : {0.0, 30.0}) {
    for (const std::int64_t width : {1, 47, 2300, 256000}) {
      const at::Tensor logits = random({4, width}, 8.0), targets = at::randint(width, {4}, at::kLong),
                       grad = at::randn({4});
      const at::Tensor there = on_gpu(logits).detach(), ids = targets.to(device());
      at::Tensor log_prob = at::empty({4}, there.options().dtype(at::kFloat)), log_sum_exp = at::empty_like(log_prob);
      const cuda::Table* gpu = cuda::kernels_for(there);
      ASSERT_NE(gpu, nullptr);
      gpu->log_probs(there, ids, softcap, log_prob, log_sum_exp);
      gpu->log_probs_backward(there, ids, softcap, log_sum_exp, grad.to(device()));
      const at::Tensor capped = softcap > 0 ? at::tanh(logits / softcap) * softcap : logits;
      const at::Tensor expected = at::log_softmax(capped, -1).gather(1, targets.unsqueeze(1)).squeeze(1);
      EXPECT_TRUE(close(log_prob, expected, 8e-6, 1e-6)) << width;
      EXPECT_TRUE(close(log_sum_exp, at::logsumexp(capped, 1), 4e-6, 1e-6)) << width;
      const auto e = torch::autograd::grad({expected}, {logits}, {grad.to(at::kDouble)});
      EXPECT_TRUE(close(there, e[0], 2e-6, tolerance())) << width;
    }
  }
}

// float32 only: in bfloat16 the logits themselves are rounded.
TEST_P(Cuda, LogProbsOfHiddenStates) {
  if (GetParam() != at::kFloat) return;
  const at::Tensor targets = at::randint(1003, {70}, at::kLong);
  const at::Tensor hidden = random({70, 24}), weight = random({1003, 24});
  const at::Tensor hg = on_gpu(hidden), wg = on_gpu(weight);
  for (const double softcap : {0.0, 5.0}) {
    const at::Tensor actual = log_probs(hg, wg, targets.to(device()), {.logit_softcap = softcap, .chunk_tokens = 32});
    const at::Tensor expected = log_probs(hidden, weight, targets, {.logit_softcap = softcap, .chunk_tokens = 32});
    EXPECT_TRUE(close(actual, expected, 3e-5));
    const auto a = torch::autograd::grad({actual.sum()}, {hg, wg}),
               e = torch::autograd::grad({expected.sum()}, {hidden, weight});
    EXPECT_TRUE(close(a[0], e[0], 1e-4, 1e-5));
    EXPECT_TRUE(close(a[1], e[1], 1e-4, 1e-5));
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Cuda, ::testing::Values(at::kFloat, at::kBFloat16), [](const auto& test) {
  return std::string(test.param == at::kFloat ? "Float32" : "BFloat16");
});

}  // namespace
}  // namespace sao::ops
