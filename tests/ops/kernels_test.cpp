// SPDX-License-Identifier: Apache-2.0
// Every kernel set that this machine can run, against plain loops in double.
#include "ops/kernels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "support/close.h"

namespace sao::ops {
namespace {

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> sets{&kKernels_baseline};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&kKernels_avx2);
  if (&kernels() == &kKernels_avx512) sets.push_back(&kKernels_avx512);
#endif
  return sets;
}

TEST(Kernels, GemmAgreesWithDoubleAndDoesNotDependOnTheSplit) {
  at::manual_seed(1);
  for (const Kernels* kernel : runnable()) {
    for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
             {1, 1, 1}, {5, 33, 7}, {13, 64, 128}, {29, 100, 1100}, {500, 70, 300}}) {
      const at::Tensor x = at::randn({m, k}), w = at::randn({n, k});
      const std::int64_t panels = (n + kernel->panel - 1) / kernel->panel;
      at::Tensor packed = at::empty({panels * k * kernel->panel});
      kernel->pack(n, k, w.const_data_ptr<float>(), k, 1, packed.mutable_data_ptr<float>());
      at::Tensor y = at::full({m, n}, 7.0f);
      std::vector<float> scratch(static_cast<std::size_t>(kernel->gemm_scratch(m)));
      kernel->gemm(m, n, k, x.const_data_ptr<float>(), k, 1, packed.const_data_ptr<float>(), 0, panels, false,
                   y.mutable_data_ptr<float>(), n, scratch.data());
      EXPECT_TRUE(testing::close(y, at::linear(x.to(at::kDouble), w.to(at::kDouble)), 2e-6 * std::sqrt(k) + 1e-6, 1e-5))
          << kernel->name;
      at::Tensor alone = at::empty({m, n});
      for (std::int64_t row = 0; row < m; ++row) {
        for (std::int64_t p = 0; p < panels; ++p) {
          kernel->gemm(1, n, k, x[row].const_data_ptr<float>(), k, 1, packed.const_data_ptr<float>(), p, p + 1, false,
                       alone[row].mutable_data_ptr<float>(), n, scratch.data());
        }
      }
      EXPECT_TRUE(testing::identical(alone, y)) << kernel->name << ": a row's bits depend on the other rows";

      // Both operands by columns, added to what is there.
      const at::Tensor x_turned = x.t().contiguous(), w_turned = w.t().contiguous();
      at::Tensor packed_turned = at::empty_like(packed), sum = at::ones({m, n});
      kernel->pack(n, k, w_turned.const_data_ptr<float>(), 1, n, packed_turned.mutable_data_ptr<float>());
      EXPECT_TRUE(testing::identical(packed_turned, packed)) << kernel->name;
      kernel->gemm(m, n, k, x_turned.const_data_ptr<float>(), 1, m, packed.const_data_ptr<float>(), 0, panels, true,
                   sum.mutable_data_ptr<float>(), n, scratch.data());
      EXPECT_TRUE(testing::close(sum, y.to(at::kDouble) + 1.0, 2e-6 * std::sqrt(k) + 1e-6, 1e-5)) << kernel->name;
    }
  }
}

// The weights that 8 bits and a scale for 64 inputs stand for, in float64.
at::Tensor through_int8(const at::Tensor& w) {
  std::vector<at::Tensor> groups;
  for (const at::Tensor& group : w.split(kInt8Group, 1)) {
    const at::Tensor given = group.abs().amax(1, true), largest = given.masked_fill(given < 1e-30, 0.0);
    const at::Tensor scale = (largest / 127.0f).to(at::kDouble);
    groups.push_back(at::round(group * (127.0f / largest)).nan_to_num(0.0, 0.0, 0.0).to(at::kDouble) * scale);
  }
  return at::cat(groups, 1);
}

TEST(Kernels, Int8GemmAgreesWithDoubleAndDoesNotDependOnTheSplit) {
  at::manual_seed(3);
  for (const Kernels* kernel : runnable()) {
    for (const auto& [m, n, k] : std::vector<std::array<std::int64_t, 3>>{
             {1, 1, 1}, {5, 33, 7}, {13, 64, 128}, {29, 100, 1100}, {500, 70, 300}}) {
      const at::Tensor x = at::randn({m, k});
      at::Tensor w = at::randn({n, k});
      w[0].zero_();                  // a group without a largest
      if (n > 1) w[1].fill_(1e-38);  // one whose inverse overflows
      const std::int64_t panels = (n + kernel->panel - 1) / kernel->panel, groups = (k + kInt8Group - 1) / kInt8Group;
      at::Tensor packed = at::empty({panels * k * kernel->panel}, at::kChar),
                 scales = at::empty({panels * groups * kernel->panel});
      kernel->pack_int8(n, k, w.const_data_ptr<float>(), packed.mutable_data_ptr<std::int8_t>(),
                        scales.mutable_data_ptr<float>());
      std::vector<float> scratch(static_cast<std::size_t>(kernel->gemm_scratch(m)));
      const auto multiply = [&](const at::Tensor& rows, std::int64_t first, std::int64_t last, at::Tensor& y) {
        kernel->gemm_int8(rows.size(0), n, k, rows.const_data_ptr<float>(), k, packed.const_data_ptr<std::int8_t>(),
                          scales.const_data_ptr<float>(), first, last, y.mutable_data_ptr<float>(), n, scratch.data());
      };
      at::Tensor y = at::full({m, n}, 7.0f);
      multiply(x, 0, panels, y);
      const at::Tensor held = through_int8(w);
      EXPECT_LE((held - w).abs().max().item<double>(), w.abs().max().item<double>() / 127.0 / 2.0 + 1e-6);
      EXPECT_TRUE(testing::close(y, at::linear(x.to(at::kDouble), held), 2e-6 * std::sqrt(k) + 1e-6, 1e-5))
          << kernel->name << " " << m << " " << n << " " << k;
      at::Tensor alone = at::empty({m, n});
      for (std::int64_t row = 0; row < m; ++row) {
        at::Tensor to = alone.narrow(0, row, 1);
        for (std::int64_t p = 0; p < panels; ++p) multiply(x.narrow(0, row, 1), p, p + 1, to);
      }
      EXPECT_TRUE(testing::identical(alone, y)) << kernel->name << ": a row's bits depend on the other rows";
    }
  }
}

TEST(Kernels, LogProbsAndTheirGradientAgreeWithDouble) {
  at::manual_seed(2);
  for (const Kernels* kernel : runnable()) {
    for (const double cap : {0.0, 12.0}) {
      for (const std::int64_t width : {1, 5, 16, 47, 1000}) {
        const at::Tensor z = at::randn({6, width}) * 8.0, targets = at::randint(width, {6}, at::kLong),
                         grad = at::randn({6});
        at::Tensor logp = at::empty({6}), lse = at::empty({6}), dz = z.clone();
        kernel->log_probs(6, width, z.const_data_ptr<float>(), static_cast<float>(cap),
                          targets.const_data_ptr<std::int64_t>(), logp.mutable_data_ptr<float>(),
                          lse.mutable_data_ptr<float>());
        const std::int64_t first = width / 3;  // columns in two parts
        for (const auto& [begin, count] : {std::array{std::int64_t{0}, first}, std::array{first, width - first}}) {
          kernel->log_probs_backward(6, count, begin, dz.mutable_data_ptr<float>() + begin, width,
                                     static_cast<float>(cap), targets.const_data_ptr<std::int64_t>(),
                                     lse.const_data_ptr<float>(), grad.const_data_ptr<float>());
        }
        const at::Tensor zd = z.to(at::kDouble);
        const at::Tensor t = cap > 0 ? at::tanh(zd / cap) : zd;
        const at::Tensor capped = cap > 0 ? t * cap : zd;
        const at::Tensor all = at::log_softmax(capped, -1);
        EXPECT_TRUE(testing::close(logp, all.gather(1, targets.unsqueeze(1)).squeeze(1), 3e-6, 1e-6)) << kernel->name;
        const at::Tensor onehot = at::zeros_like(all).scatter_(1, targets.unsqueeze(1), 1.0);
        const at::Tensor slope = cap > 0 ? 1.0 - t * t : at::ones_like(t);
        EXPECT_TRUE(testing::close(dz, grad.to(at::kDouble).unsqueeze(1) * (onehot - all.exp()) * slope, 2e-6, 1e-5))
            << kernel->name;
      }
    }
  }
}

TEST(Kernels, LogitSumsAgreeWithDouble) {
  at::manual_seed(4);
  for (const Kernels* kernel : runnable()) {
    for (const double cap : {0.0, 12.0}) {
      for (const std::int64_t width : {1, 5, 16, 47, 1000}) {
        const at::Tensor whole = at::randn({6, width + 3}) * 8.0, z = whole.narrow(1, 0, width);
        std::vector<LogitSums> sums(12);
        kernel->logit_sums(6, width, z.const_data_ptr<float>(), width + 3, static_cast<float>(cap), sums.data(), 2);
        at::Tensor capped = z.to(at::kDouble);
        if (cap > 0) capped = at::tanh(capped / cap) * cap;
        for (std::int64_t row = 0; row < 6; ++row) {
          const LogitSums& found = sums[static_cast<std::size_t>(2 * row)];
          const at::Tensor above = capped[row] - capped[row].max(), e = above.exp();
          EXPECT_NEAR(found.peak, capped[row].max().item<double>(), 1e-5) << kernel->name;
          const auto near = [&](float value, const at::Tensor& terms) {
            return std::abs(value - terms.sum().item<double>()) <= 4e-6 * terms.abs().sum().item<double>();
          };
          EXPECT_TRUE(near(found.sum, e)) << kernel->name;
          EXPECT_TRUE(near(found.weighted, above * e)) << kernel->name;
          EXPECT_TRUE(near(found.squares, e.square())) << kernel->name;
          EXPECT_TRUE(near(found.total, capped[row])) << kernel->name;
        }
      }
    }
  }
}

TEST(Kernels, SoftcapKeepsSmallValues) {
  for (const Kernels* kernel : runnable()) {
    at::Tensor z = at::cat({at::linspace(-200, 200, 999), at::tensor({1e-6, -1e-6, 0.0}, at::kFloat)});
    const at::Tensor expected = at::tanh(z.to(at::kDouble) / 30.0) * 30.0;
    kernel->softcap(z.numel(), z.mutable_data_ptr<float>(), 30.0f);
    EXPECT_TRUE(testing::close(z, expected, 0.0, 4e-7)) << kernel->name;
    EXPECT_LE(z.abs().max().item<double>(), 30.0) << kernel->name;
  }
}

TEST(Kernels, NanIsNotSwallowed) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* kernel : runnable()) {
    at::Tensor z = at::full({3}, nan), z_row = at::tensor({1.0f, nan, 2.0f}), y = at::zeros({3});
    kernel->softcap(3, z.mutable_data_ptr<float>(), 30.0f);
    EXPECT_TRUE(at::isnan(z).all().item<bool>()) << kernel->name;
    const std::int64_t target = 0;
    float log_prob = 0.0f, log_sum_exp = 0.0f;
    kernel->log_probs(1, 3, z_row.const_data_ptr<float>(), 0.0f, &target, &log_prob, &log_sum_exp);
    EXPECT_TRUE(std::isnan(log_prob)) << kernel->name;
    LogitSums sums{};
    kernel->logit_sums(1, 3, z_row.const_data_ptr<float>(), 3, 0.0f, &sums, 1);
    EXPECT_TRUE(std::isnan(sums.sum)) << kernel->name;
    for (const GateKind kind : {GateKind::kGeluTanh, GateKind::kSilu}) {
      const at::Tensor gate = at::full({3}, nan), up = at::ones({3});
      kernel->gate(kind, 1, 3, gate.const_data_ptr<float>(), up.const_data_ptr<float>(), 3,
                   y.mutable_data_ptr<float>());
      EXPECT_TRUE(at::isnan(y).all().item<bool>()) << kernel->name;
    }
  }
}

}  // namespace
}  // namespace sao::ops
