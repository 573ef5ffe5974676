// SPDX-License-Identifier: Apache-2.0
#include "sao/train/optimizer.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "sao/base/error.h"
#include "support/paths.h"

namespace sao {
namespace {

NamedTensors leaves(at::ScalarType dtype) {
  at::manual_seed(3);
  NamedTensors tensors{{"matrix", at::randn({5, 7}, at::kDouble).to(dtype)},
                       {"norm", at::randn({7}, at::kDouble).to(dtype)},
                       {"other", at::randn({33, 3}, at::kDouble).to(dtype)}};
  for (auto& [name, tensor] : tensors) tensor.requires_grad_();
  return tensors;
}

// A gradient of its own for every parameter and step.
void backward(const NamedTensors& parameters, std::int64_t step, double scale = 1.0) {
  at::manual_seed(100 + static_cast<std::uint64_t>(step));
  at::Tensor total = at::zeros({}, parameters[0].second.options().requires_grad(false));
  for (const auto& [name, tensor] : parameters) {
    total = total + (tensor * at::randn(tensor.sizes(), at::kDouble).to(tensor.scalar_type()) * scale).sum();
  }
  total.backward();
}

TEST(AdamW, IsThePublishedUpdateWithDecayOfMatricesOnly) {
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1, .max_grad_norm = 0.0};
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
    const NamedTensors parameters = leaves(dtype);
    AdamW optimizer(parameters, options);
    std::vector<at::Tensor> expected, m, v;
    for (const auto& [name, tensor] : parameters) {
      expected.push_back(tensor.detach().to(at::kDouble));
      m.push_back(at::zeros_like(expected.back()));
      v.push_back(at::zeros_like(expected.back()));
    }
    for (std::int64_t t = 1; t <= 5; ++t) {
      const double lr = 0.01 * static_cast<double>(t);
      backward(parameters, t);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const at::Tensor g = parameters[i].second.grad().to(at::kDouble);
        if (g.dim() >= 2) expected[i].mul_(1.0 - lr * options.weight_decay);
        m[i] = options.beta1 * m[i] + (1 - options.beta1) * g;
        v[i] = options.beta2 * v[i] + (1 - options.beta2) * g * g;
        const at::Tensor mean = m[i] / (1 - std::pow(options.beta1, t)),
                         square = v[i] / (1 - std::pow(options.beta2, t));
        expected[i] -= lr * mean / (square.sqrt() + options.eps);
      }
      optimizer.accumulate();
      optimizer.update(optimizer.gradient_norm(), lr);
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double worst = (parameters[i].second.detach() - expected[i]).abs().max().item<double>();
      EXPECT_LT(worst, dtype == at::kDouble ? 1e-14 : 2e-6);
    }
    EXPECT_EQ(optimizer.steps(), 5);
  }
}

TEST(AdamW, NormIsGlobalAndClippingScalesAllGradients) {
  const NamedTensors clipped = leaves(at::kDouble), scaled = leaves(at::kDouble);
  AdamW with(clipped, {.eps = 1.0, .max_grad_norm = 0.5}), without(scaled, {.eps = 1.0, .max_grad_norm = 0.0});
  backward(clipped, 1, 3.0);
  double squares = 0.0;
  for (const auto& [name, tensor] : clipped) squares += tensor.grad().square().sum().item<double>();
  const double norm = with.gradient_norm();
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-12);
  ASSERT_GT(norm, 1.0);
  backward(scaled, 1, 3.0);
  for (const auto& [name, tensor] : scaled) tensor.mutable_grad().mul_(0.5 / (norm + 1e-6));
  with.update(norm, 0.1);
  without.update(without.gradient_norm(), 0.1);
  for (std::size_t i = 0; i < clipped.size(); ++i) {
    EXPECT_TRUE(at::allclose(clipped[i].second, scaled[i].second, 1e-13, 1e-15));
  }
}

TEST(AdamW, GradientsBelowTheLimitAreNotTouched) {
  const NamedTensors a = leaves(at::kFloat), b = leaves(at::kFloat);
  AdamW with(a, {.max_grad_norm = 1e6}), without(b, {.max_grad_norm = 0.0});
  backward(a, 1);
  backward(b, 1);
  with.update(with.gradient_norm(), 0.1);
  without.update(without.gradient_norm(), 0.1);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i].second, b[i].second));
}

TEST(AdamW, MastersKeepUpdatesThatBfloat16WouldLose) {
  // 1 + 1e-6 is 1 in bfloat16, whose next number is 1 + 2^-7: one such update vanishes, 10,000 are 0.01.
  const NamedTensors parameters{{"w", at::ones({4}, at::kBFloat16).requires_grad_()}};
  AdamW optimizer(parameters, {.eps = 1e-12, .max_grad_norm = 0.0});
  for (int step = 0; step < 10000; ++step) {
    parameters[0].second.mutable_grad() = at::full({4}, -1.0, at::kBFloat16);
    optimizer.accumulate();
    optimizer.update(1.0, 1e-6);
    if (step == 0) {
      EXPECT_TRUE(at::equal(parameters[0].second.detach(), at::ones({4}, at::kBFloat16)));
      EXPECT_NEAR(optimizer.state()[0].second[0].item<double>(), 1.0 + 1e-6, 1e-7);
    }
  }
  EXPECT_EQ(optimizer.state()[0].first, "parameter.w");
  EXPECT_EQ(optimizer.state()[0].second.scalar_type(), at::kFloat);
  // float32's spacing at 1 rounds each 1e-6 to 8 * 2^-23.
  EXPECT_EQ(optimizer.state()[0].second[0].item<double>(), 1.0 + 10000 * 8 * std::exp2(-23));
  EXPECT_EQ(parameters[0].second.detach()[0].item<float>(), 1.0078125f);
}

TEST(AdamW, Bfloat16GradientsAddUpInFloat32) {
  const NamedTensors parameters{{"w", at::zeros({1}, at::kBFloat16).requires_grad_()}};
  AdamW optimizer(parameters, {});
  for (int i = 0; i < 1000; ++i) {  // in bfloat16 the sum of 1 + 999 * 2^-9 would stay 1
    parameters[0].second.mutable_grad() = at::full({1}, i == 0 ? 1.0 : 0.001953125, at::kBFloat16);
    optimizer.accumulate();
  }
  EXPECT_NEAR(optimizer.gradient_norm(), 1.0 + 999 * 0.001953125, 1e-5);
}

TEST(AdamW, ParametersWithoutGradientStay) {
  const NamedTensors parameters = leaves(at::kFloat);
  const at::Tensor before = parameters[1].second.detach().clone();
  AdamW optimizer(parameters, {});
  (parameters[0].second.sum()).backward();
  optimizer.update(optimizer.gradient_norm(), 0.1);
  EXPECT_TRUE(at::equal(parameters[1].second.detach(), before));
  EXPECT_FALSE(parameters[0].second.grad().defined());
}

TEST(AdamW, NonFiniteGradientsShowInTheNorm) {
  const NamedTensors parameters = leaves(at::kFloat);
  AdamW optimizer(parameters, {});
  backward(parameters, 1);
  parameters[1].second.mutable_grad()[2] = std::nan("");
  EXPECT_TRUE(std::isnan(optimizer.gradient_norm()));
  EXPECT_TRUE(std::isnan(optimizer.gradient_norms()[1]));
  EXPECT_TRUE(std::isfinite(optimizer.gradient_norms()[0]));
}

TEST(AdamW, StateRoundTripsAndForeignStateIsRefused) {
  const testing::TemporaryFolder folder;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const NamedTensors a = leaves(dtype), b = leaves(dtype);
    AdamW first(a, {.learning_rate = 0.1}), second(b, {.learning_rate = 0.1});
    for (int step = 1; step <= 3; ++step) {
      backward(a, step);
      first.accumulate();
      first.update(first.gradient_norm(), 0.1);
    }
    write_safetensors(folder / "state", first.state());
    second.load(SafetensorsFile::open(folder / "state"), first.steps());
    for (const NamedTensors* parameters : {&a, &b}) backward(*parameters, 4);
    first.accumulate();
    second.accumulate();
    first.update(first.gradient_norm(), 0.1);
    second.update(second.gradient_norm(), 0.1);
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i].second, b[i].second));
  }
  NamedTensors renamed = leaves(at::kBFloat16);
  renamed[0].first = "renamed";
  AdamW other(renamed, {});
  EXPECT_THROW(other.load(SafetensorsFile::open(folder / "state"), 1), InputError);
  AdamW full(leaves(at::kDouble), {});
  EXPECT_THROW(full.load(SafetensorsFile::open(folder / "state"), 1), InputError);
}

TEST(AdamW, RefusesBadOptionsAndFloat16) {
  try {
    validate(AdamWOptions{.learning_rate = -1.0,
                          .beta1 = 1.0,
                          .beta2 = -0.1,
                          .eps = 0.0,
                          .weight_decay = -1.0,
                          .max_grad_norm = std::nan("")});
    FAIL();
  } catch (const InputError& e) {
    for (const char* field : {"learning_rate", "beta1", "beta2", "eps", "weight_decay", "max_grad_norm"}) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr(field));
    }
  }
  EXPECT_THROW(AdamW({{"w", at::zeros({2}, at::kHalf)}}, {}), InputError);
  EXPECT_THROW(AdamW({}, {}), InputError);
}

}  // namespace
}  // namespace sao
