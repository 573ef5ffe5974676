// SPDX-License-Identifier: Apache-2.0
// The ops of a decoder layer against their plain LibTorch twins, values and gradients.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "ops/reference.h"
#include "sao/base/error.h"
#include "sao/ops/attention.h"
#include "sao/ops/linear.h"
#include "sao/ops/pointwise.h"
#include "support/close.h"
#include "support/counting_allocator.h"

namespace sao::ops {
namespace {

using testing::close;

at::Tensor leaf(at::Tensor t) { return t.set_requires_grad(true); }

// Gradients of sum(out * weight) with respect to the inputs.
std::vector<at::Tensor> gradients(const at::Tensor& out, const std::vector<at::Tensor>& inputs) {
  at::manual_seed(99);
  return torch::autograd::grad({out}, inputs, {at::randn(out.sizes()).to(out.scalar_type())});
}

TEST(RmsNorm, AgreesWithItsTwin) {
  at::manual_seed(1);
  for (const bool zero_centered : {false, true}) {
    for (const std::int64_t width : {3, 40, 48, 130}) {
      const at::Tensor x = leaf(at::randn({37, width})), w = leaf(at::randn({width}));
      const RmsNormOptions options{.eps = 1e-5, .zero_centered = zero_centered};
      const at::Tensor actual = rms_norm(x, w, options), expected = reference::rms_norm(x, w, options);
      EXPECT_TRUE(close(actual, expected, 2e-6, 2e-6));
      const auto a = gradients(actual, {x, w}), e = gradients(expected, {x, w});
      EXPECT_TRUE(close(a[0], e[0], 3e-6, 1e-5));
      EXPECT_TRUE(close(a[1], e[1], 2e-5, 1e-5));
    }
  }
}

TEST(ResidualNorm, IsOneAfterTheOtherBitForBit) {
  at::manual_seed(9);
  const at::NoGradGuard no_grad;
  for (const std::int64_t width : {3, 48, 130}) {
    const at::Tensor h = at::randn({37, width}), update = at::randn({37, width}), first = at::randn({width}),
                     second = at::randn({width}), none;
    const RmsNormOptions options{.eps = 1e-5, .zero_centered = true};
    const at::Tensor sum = h + rms_norm(update, first, options), plain = h + update;
    const auto both = residual_norm(h, update, first, second, options);
    EXPECT_TRUE(testing::identical(both[0], sum));
    EXPECT_TRUE(testing::identical(both[1], rms_norm(sum, second, options)));
    const auto after = residual_norm(h, update.t().contiguous().t(), none, second, options);
    EXPECT_TRUE(testing::identical(after[0], plain));
    EXPECT_TRUE(testing::identical(after[1], rms_norm(plain, second, options)));
    const auto before = residual_norm(h, update, first, none, options);
    EXPECT_TRUE(testing::identical(before[0], sum));
    EXPECT_FALSE(before[1].defined());
  }
}

TEST(Rotary, AgreesWithItsTwinAndKeepsLengths) {
  at::manual_seed(2);
  const at::Tensor x = leaf(at::randn({11, 3, 24})), positions = at::randint(50, {11}, at::kLong);
  const at::Tensor angles = at::rand({50, 12}) * 6.0, c = at::cos(angles), s = at::sin(angles);
  const at::Tensor actual = rotary(x, positions, c, s), expected = reference::rotary(x, positions, c, s);
  EXPECT_TRUE(close(actual, expected, 1e-6));
  EXPECT_TRUE(close(gradients(actual, {x})[0], gradients(expected, {x})[0], 1e-6));
  EXPECT_TRUE(close(actual.norm(2, -1), x.norm(2, -1), 1e-5));
}

TEST(GatedActivation, AgreesWithItsTwin) {
  at::manual_seed(3);
  for (const Gate kind : {Gate::kGeluTanh, Gate::kSilu}) {
    const at::Tensor gate = leaf(at::randn({19, 45}) * 3.0), up = leaf(at::randn({19, 45}));
    const at::Tensor actual = gated_activation(gate, up, kind), expected = reference::gated_activation(gate, up, kind);
    EXPECT_TRUE(close(actual, expected, 2e-6, 2e-6));
    const auto a = gradients(actual, {gate, up}), e = gradients(expected, {gate, up});
    EXPECT_TRUE(close(a[0], e[0], 3e-6, 1e-5));
    EXPECT_TRUE(close(a[1], e[1], 3e-6, 1e-5));
  }
}

TEST(GatedLinear, AgreesWithOneAfterTheOtherAndKeepsLess) {
  at::manual_seed(11);
  const at::Tensor weight = leaf(at::randn({30, 45})), bias = leaf(at::randn({30}));
  for (const Gate kind : {Gate::kGeluTanh, Gate::kSilu, Gate::kGelu}) {
    const at::Tensor gate = leaf(at::randn({19, 45})), up = leaf(at::randn({19, 45}));
    const at::Tensor actual = gated_linear(gate, up, weight, bias, kind);
    const at::Tensor expected = at::linear(reference::gated_activation(gate, up, kind), weight, bias);
    EXPECT_TRUE(close(actual, expected, 2e-5, 2e-6));
    const auto a = gradients(actual, {gate, up, weight, bias}), e = gradients(expected, {gate, up, weight, bias});
    for (std::size_t i = 0; i < 4; ++i) EXPECT_TRUE(close(a[i], e[i], 3e-5, 1e-5)) << "input " << i;
  }
  // Frozen weights, no bias, as under an adapter; one matrix that holds gate and up.
  const at::Tensor both = leaf(at::randn({19, 90})), frozen = weight.detach();
  const auto halves = [&](const auto& function) { return function(both.narrow(1, 0, 45), both.narrow(1, 45, 45)); };
  const at::Tensor actual = halves([&](auto g, auto u) { return gated_linear(g, u, frozen, {}, Gate::kSilu); });
  const at::Tensor expected =
      halves([&](auto g, auto u) { return at::linear(reference::gated_activation(g, u, Gate::kSilu), frozen); });
  EXPECT_TRUE(close(actual, expected, 2e-5, 2e-6));
  EXPECT_TRUE(close(gradients(actual, {both})[0], gradients(expected, {both})[0], 3e-5, 1e-5));

  const at::Tensor gate = leaf(at::randn({256, 512})), up = leaf(at::randn({256, 512})), w = leaf(at::randn({8, 512}));
  const testing::CountingAllocator counting;
  const std::int64_t before = counting.now();
  const at::Tensor y = gated_linear(gate, up, w, {}, Gate::kSilu);
  EXPECT_LT(counting.now() - before, 2 * static_cast<std::int64_t>(y.nbytes())) << "more than the result is kept";

  EXPECT_THROW(gated_linear(gate, up, at::zeros({8, 511}), {}, Gate::kSilu), InputError);
  EXPECT_THROW(gated_linear(gate, up, w, at::zeros({7}), Gate::kSilu), InputError);
}

struct AttentionCase {
  std::int64_t heads, kv_heads, head_dim, window;
  double softcap;
};

class Attention : public ::testing::TestWithParam<AttentionCase> {};

TEST_P(Attention, PackedAgreesWithItsTwinAndItsGradientToo) {
  const AttentionCase& p = GetParam();
  at::manual_seed(4);
  const at::Tensor starts = at::tensor({0, 1, 6, 23, 60, 93}, at::kLong);
  const at::Tensor q = leaf(at::randn({93, p.heads, p.head_dim})), k = leaf(at::randn({93, p.kv_heads, p.head_dim}));
  const at::Tensor v = leaf(at::randn({93, p.kv_heads, p.head_dim}));
  const AttentionOptions options{.scale = 0.7, .softcap = p.softcap, .window = p.window};
  const at::Tensor actual = packed_attention(q, k, v, starts, options);
  const at::Tensor expected =
      reference::packed_attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), starts, options);
  EXPECT_TRUE(close(actual, expected, 3e-6, 1e-5));
  const auto a = gradients(actual, {q, k, v}), e = gradients(expected, {q, k, v});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(a[i], e[i], 2e-5, 2e-5)) << "input " << i;
}

TEST_P(Attention, SequencesThatShareAParentAgreeWithTheTwinAndStandAloneBitForBit) {
  const AttentionCase& p = GetParam();
  at::manual_seed(6);
  // Two prompts of 7 and 20 tokens; the first is continued twice, the second three times, one sequence stands alone.
  const at::Tensor starts = at::tensor({0, 7, 16, 17, 37, 40, 58, 60, 65}, at::kLong);
  const at::Tensor parents = at::tensor({-1, 0, 0, -1, 3, 3, -1, 3}, at::kLong);
  const at::Tensor q = leaf(at::randn({65, p.heads, p.head_dim})), k = leaf(at::randn({65, p.kv_heads, p.head_dim}));
  const at::Tensor v = leaf(at::randn({65, p.kv_heads, p.head_dim}));
  const AttentionOptions options{.scale = 0.7, .softcap = p.softcap, .window = p.window};
  const at::Tensor actual = packed_attention(q, k, v, starts, options, parents);
  const at::Tensor expected =
      reference::packed_attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble), starts, options, parents);
  EXPECT_TRUE(close(actual, expected, 3e-6, 1e-5));
  const auto a = gradients(actual, {q, k, v}), e = gradients(expected, {q, k, v});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(a[i], e[i], 2e-5, 2e-5)) << "input " << i;

  for (const auto& [parent, child] : {std::pair{0, 1}, {0, 2}, {3, 4}, {3, 5}, {3, 7}}) {
    const auto rows = [&](const at::Tensor& x, int s) {
      const std::int64_t begin = starts[s].item<std::int64_t>();
      return x.detach().narrow(0, begin, starts[s + 1].item<std::int64_t>() - begin);
    };
    const auto joined = [&](const at::Tensor& x) { return at::cat({rows(x, parent), rows(x, child)}); };
    const std::int64_t length = joined(q).size(0);
    const at::Tensor alone =
        packed_attention(joined(q), joined(k), joined(v), at::tensor({std::int64_t{0}, length}), options);
    EXPECT_TRUE(testing::identical(at::cat({rows(actual, parent), rows(actual, child)}), alone)) << child;
  }
}

TEST(Attention, RefusesParentsThatAreNone) {
  const at::Tensor x = at::randn({6, 2, 8}), starts = at::tensor({0, 2, 4, 6}, at::kLong);
  for (const std::vector<std::int64_t>& bad :
       {std::vector<std::int64_t>{0, -1, -1}, {-1, 2, -1}, {-1, 0, 1}, {-2, -1, -1}, {-1, 0}}) {
    EXPECT_THROW(packed_attention(x, x, x, starts, {}, at::tensor(bad, at::kLong)), InputError) << bad[0];
  }
  EXPECT_THROW(packed_attention(x, x, x, starts, {}, at::tensor({-1, 0, 0}, at::kInt)), InputError);
  EXPECT_NO_THROW(packed_attention(x, x, x, starts, {}, at::tensor({-1, 0, 0}, at::kLong)));
}

TEST_P(Attention, PagedEqualsPackedBitForBitHoweverTheSequenceIsCut) {
  const AttentionCase& p = GetParam();
  at::manual_seed(5);
  const std::int64_t length = 141;
  const at::Tensor q = at::randn({length, p.heads, p.head_dim}), k = at::randn({length, p.kv_heads, p.head_dim});
  const at::Tensor v = at::randn({length, p.kv_heads, p.head_dim});
  const AttentionOptions options{.scale = 0.7, .softcap = p.softcap, .window = p.window};
  const at::Tensor whole = packed_attention(q, k, v, at::tensor({std::int64_t{0}, length}), options);
  const at::Tensor table = at::tensor({4, 1, 3, 0, 9, 7, 8, 2, 6}, at::kInt).unsqueeze(0);
  for (const std::int64_t step : {1, 7, 53, 141}) {
    at::Tensor keys = at::zeros({10, p.kv_heads, p.head_dim, kCacheBlock}),
               values = at::zeros({10, p.kv_heads, kCacheBlock, p.head_dim});
    for (std::int64_t begin = 0; begin < length; begin += step) {
      const std::int64_t n = std::min(step, length - begin);
      const at::Tensor positions = at::arange(begin, begin + n);
      const at::Tensor slots =
          table[0].to(at::kLong).index_select(0, positions.div(kCacheBlock, "floor")) * kCacheBlock +
          positions.remainder(kCacheBlock);
      append_to_cache(k.narrow(0, begin, n), v.narrow(0, begin, n), slots, keys, values);
      const at::Tensor out = paged_attention(q.narrow(0, begin, n), keys, values, at::tensor({std::int64_t{0}, n}),
                                             at::tensor({begin + n}), table, options);
      EXPECT_TRUE(testing::identical(out, whole.narrow(0, begin, n))) << "step " << step << " at " << begin;
      const at::Tensor twin =
          reference::paged_attention(q.narrow(0, begin, n), keys, values, at::tensor({std::int64_t{0}, n}),
                                     at::tensor({begin + n}), table, options);
      EXPECT_TRUE(close(out, twin, 3e-6, 1e-5));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         ::testing::Values(AttentionCase{4, 2, 16, 0, 0.0}, AttentionCase{4, 2, 16, 5, 6.0},
                                           AttentionCase{3, 1, 8, 16, 50.0}, AttentionCase{2, 2, 80, 0, 6.0},
                                           AttentionCase{6, 2, 36, 1, 0.0}, AttentionCase{2, 1, 112, 0, 6.0}));

// Half precision runs through the float32 kernel: closer to the exact result than its twin, and without a matrix of
// scores.
TEST(HalfAttention, OnTheCpuIsWidened) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    at::manual_seed(8);
    const at::Tensor starts = at::tensor({0, 5, 40}, at::kLong);
    const auto random = [&](std::int64_t heads) { return leaf(at::randn({40, heads, 16}).to(dtype)); };
    const at::Tensor q = random(4), k = random(2), v = random(2);
    const AttentionOptions options{.scale = 0.3, .softcap = 20.0, .window = 9};
    const at::Tensor actual = packed_attention(q, k, v, starts, options);
    EXPECT_EQ(actual.scalar_type(), dtype);
    const auto wide = [](const at::Tensor& t) { return leaf(t.detach().to(at::kDouble)); };
    const at::Tensor qw = wide(q), kw = wide(k), vw = wide(v);
    const at::Tensor expected = reference::packed_attention(qw, kw, vw, starts, options);
    const double ulp = dtype == at::kBFloat16 ? 0x1p-8 : 0x1p-11;
    EXPECT_TRUE(close(actual, expected, 1e-5, ulp));
    const auto a = gradients(actual, {q, k, v}), e = gradients(expected, {qw, kw, vw});
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(a[i].scalar_type(), dtype);
      EXPECT_TRUE(close(a[i], e[i], 4.0 * ulp, 4.0 * ulp)) << "input " << i;
    }

    at::Tensor keys = at::zeros({6, 2, 16, kCacheBlock}, dtype), values = at::zeros({6, 2, kCacheBlock, 16}, dtype);
    const at::Tensor table = at::tensor({5, 0, 0, 4, 1, 3}, at::kInt).view({2, 3});
    const at::Tensor slots =
        at::cat({at::arange(5) + 80, at::arange(16) + 64, at::arange(16) + 16, at::arange(3) + 48});
    append_to_cache(k.detach(), v.detach(), slots, keys, values);
    // The last token of the first sequence, the last ten of the second.
    const at::Tensor last = at::cat({q.detach().narrow(0, 4, 1), q.detach().narrow(0, 30, 10)});
    const at::Tensor paged = paged_attention(last, keys, values, at::tensor({0, 1, 11}, at::kLong),
                                             at::tensor({5, 35}, at::kLong), table, options);
    const at::Tensor rows = at::cat({actual.detach().narrow(0, 4, 1), actual.detach().narrow(0, 30, 10)});
    EXPECT_TRUE(testing::identical(paged, rows));
  }
}

TEST(HalfAttention, MemoryIsLinearInTheLength) {
  const testing::CountingAllocator counting;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto peak = [&](std::int64_t length) {
      const at::Tensor x = leaf(at::randn({length, 1, 8}).to(dtype));
      return counting.peak_of([&] {
        packed_attention(x, x, x, at::tensor({std::int64_t{0}, length}), {}).sum().backward();
      });
    };
    EXPECT_LT(peak(1024), 5 * peak(256)) << dtype;
  }
}

TEST(Ops, RefuseWhatDoesNotFit) {
  const at::Tensor x = at::zeros({6, 2, 8}), odd = at::zeros({6, 2, 7}), w = at::zeros({8});
  const auto starts = [](std::vector<std::int64_t> values) { return at::tensor(values); };
  for (const std::vector<std::int64_t>& bad :
       std::vector<std::vector<std::int64_t>>{{0, 5}, {0, 7}, {1, 6}, {0, 3, 3, 6}, {0, 4, 2, 6}, {0, -1, 6}, {6}}) {
    EXPECT_THROW(packed_attention(x, x, x, starts(bad), {}), InputError) << bad.size() << " " << bad.back();
  }
  EXPECT_NO_THROW(packed_attention(x, x, x, starts({0, 6}), {}));
  EXPECT_THROW(packed_attention(x, x, x, starts({0, 6}).to(at::kInt), {}), InputError);
  EXPECT_THROW(packed_attention(x, x.narrow(1, 0, 0), x.narrow(1, 0, 0), starts({0, 6}), {}), InputError);
  EXPECT_THROW(packed_attention(x, x, x.to(at::kDouble), starts({0, 6}), {}), InputError);
  EXPECT_THROW(packed_attention(x.view({6, 16}), x, x, starts({0, 6}), {}), InputError);

  EXPECT_THROW(rms_norm(x, w, {}), InputError);
  EXPECT_THROW(rms_norm(x.view({6, 16}), w, {}), InputError);
  EXPECT_THROW(rms_norm(w, w, {}), InputError);
  EXPECT_THROW(rms_norm(x.view({12, 8}), at::zeros({1, 8}), {}), InputError);
  EXPECT_THROW(gated_activation(x.view({12, 8}), x.view({6, 16}), Gate::kSilu), InputError);

  const at::Tensor table = at::zeros({10, 4}), positions = at::arange(6);
  EXPECT_NO_THROW(rotary(x, positions, table, table));
  // Every other number of a longer tensor: their places count, not what lies between.
  const at::Tensor strided = at::stack({positions, at::full({6}, 99, at::kLong)}, 1).select(1, 0);
  EXPECT_TRUE(
      testing::identical(rotary(x + 1.0, strided, table + 0.5, table), rotary(x + 1.0, positions, table + 0.5, table)));
  EXPECT_THROW(rotary(x, positions + 5, table, table), InputError);
  EXPECT_THROW(rotary(x, positions - 1, table, table), InputError);
  EXPECT_THROW(rotary(x, positions.narrow(0, 0, 5), table, table), InputError);
  EXPECT_THROW(rotary(x, positions.to(at::kInt), table, table), InputError);
  EXPECT_THROW(rotary(odd, positions, table, table), InputError);
  EXPECT_THROW(rotary(x, positions, table.narrow(1, 0, 3), table.narrow(1, 0, 3)), InputError);

  at::Tensor keys = at::zeros({3, 2, 8, kCacheBlock}), values = at::zeros({3, 2, kCacheBlock, 8});
  const at::Tensor slots = at::arange(6);
  EXPECT_NO_THROW(append_to_cache(x, x, slots, keys, values));
  EXPECT_THROW(append_to_cache(x, x, slots + 43, keys, values), InputError);
  EXPECT_THROW(append_to_cache(x, x, slots - 1, keys, values), InputError);
  EXPECT_THROW(append_to_cache(x, x, slots.narrow(0, 0, 5), keys, values), InputError);
  EXPECT_THROW(append_to_cache(x, odd, slots, keys, values), InputError);
  EXPECT_THROW(append_to_cache(x.narrow(1, 0, 1), x.narrow(1, 0, 1), slots, keys, values), InputError);
  EXPECT_THROW(append_to_cache(x, x, slots, keys, keys), InputError);

  const at::Tensor blocks = at::tensor({0, 1}, at::kInt).view({1, 2});
  const auto paged = [&](std::vector<std::int64_t> begins, std::vector<std::int64_t> lengths,
                         const at::Tensor& tables) {
    return paged_attention(x, keys, values, starts(begins), starts(lengths), tables, {});
  };
  EXPECT_NO_THROW(paged({0, 6}, {6}, blocks));
  EXPECT_THROW(paged({0, 5}, {6}, blocks), InputError);
  EXPECT_THROW(paged({0, 6}, {5}, blocks), InputError);
  EXPECT_THROW(paged({0, 6}, {33}, blocks), InputError);
  EXPECT_THROW(paged({0, 6}, {6, 6}, blocks), InputError);
  EXPECT_THROW(paged({0, 6}, {6}, blocks + 2), InputError);
  EXPECT_THROW(paged({0, 6}, {6}, blocks - 1), InputError);

  EXPECT_THROW(ops::linear(at::zeros({3, 7}), at::zeros({5, 8})), InputError);
  EXPECT_THROW(ops::linear(at::zeros({3, 7}).requires_grad_(), at::zeros({5, 8})), InputError);
  const PackedWeight packed = PackedWeight::pack(std::vector{at::zeros({5, 8})});
  EXPECT_THROW(packed.multiply(at::zeros({3, 7})), InputError);
  EXPECT_THROW(packed.multiply(at::zeros({3, 8}, at::kDouble)), InputError);
  EXPECT_THROW(PackedWeight().multiply(at::zeros({3, 8})), InputError);
  EXPECT_THROW(PackedWeight::pack({}), InputError);
  const auto pack_with = [](const std::vector<at::Tensor>& biases) {
    return PackedWeight::pack(std::vector{at::zeros({5, 8})}, biases);
  };
  EXPECT_NO_THROW(pack_with({at::zeros({5})}));
  EXPECT_THROW(pack_with({at::zeros({4})}), InputError);
  EXPECT_THROW(pack_with({at::zeros({5}, at::kDouble)}), InputError);
  EXPECT_THROW(pack_with({at::zeros({5}), at::zeros({5})}), InputError);
}

TEST(Linear, RowsDoNotDependOnEachOther) {
  at::manual_seed(6);
  const at::Tensor x = at::randn({300, 77}), w1 = at::randn({130, 77}), w2 = at::randn({5, 77});
  const std::vector<at::Tensor> weights{w1, w2};
  const at::Tensor all = PackedWeight::pack(weights).multiply(x);
  EXPECT_TRUE(close(all, at::cat({at::linear(x, w1), at::linear(x, w2)}, 1), 1e-4));
  for (const std::int64_t rows : {1, 7, 64}) {
    EXPECT_TRUE(testing::identical(ops::linear(x.narrow(0, 11, rows), w1), all.narrow(0, 11, rows).narrow(1, 0, 130)));
  }
}

TEST(Linear, ManyRowsInManyThreadsHaveTheBitsOfFew) {
  at::manual_seed(10);
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  const at::Tensor x = at::randn({1000, 700}), w = at::randn({140, 700}), bias = at::randn({140});
  for (const WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kInt8}) {
    const PackedWeight packed = PackedWeight::pack({&w, 1}, {}, format);
    const at::Tensor all = packed.multiply(x);
    for (const std::int64_t rows : {1, 50, 383}) {
      EXPECT_TRUE(testing::identical(packed.multiply(x.narrow(0, 311, rows)), all.narrow(0, 311, rows))) << rows;
    }
    const auto gated = [](const at::Tensor& both, Gate kind) {
      return gated_activation(both.narrow(1, 0, 70), both.narrow(1, 70, 70), kind);
    };
    EXPECT_LT(PackedWeight::rows_at_once(1000), 1000);
    for (const Gate kind : {Gate::kGeluTanh, Gate::kSilu, Gate::kGelu}) {
      EXPECT_TRUE(testing::identical(packed.multiply_gated(x, kind), gated(all, kind)));
      EXPECT_TRUE(testing::identical(packed.multiply_gated(x.narrow(0, 5, 3), kind), gated(all.narrow(0, 5, 3), kind)));
    }
    const PackedWeight biased = PackedWeight::pack({&w, 1}, {&bias, 1}, format);
    EXPECT_TRUE(testing::identical(biased.multiply_gated(x, Gate::kSilu), gated(all + bias, Gate::kSilu)));
  }
  at::set_num_threads(before);
  EXPECT_THROW(PackedWeight::pack(std::vector{at::zeros({5, 8})}).multiply_gated(at::zeros({3, 8}), Gate::kSilu),
               InputError);
}

TEST(Linear, Int8WeightsAreNearAndSmall) {
  at::manual_seed(8);
  const at::Tensor x = at::randn({40, 200}), w1 = at::randn({130, 200}), w2 = at::randn({5, 200}),
                   bias = at::randn({5});
  const PackedWeight packed =
      PackedWeight::pack(std::vector{w1, w2}, std::vector{at::Tensor(), bias}, WeightFormat::kInt8);
  const at::Tensor all = packed.multiply(x), exact = at::cat({at::linear(x, w1), at::linear(x, w2, bias)}, 1);
  // Rounding of a step of up to 3.5 / 127 has a standard deviation of step / sqrt(12), over 200 products.
  const double expected = 3.0 / 127.0 / std::sqrt(12.0) * std::sqrt(200.0);
  const double found = (all - exact).square().mean().sqrt().item<double>();
  EXPECT_LT(found, expected);
  EXPECT_GT(found, 0.3 * expected) << "not computed in 8 bits?";
  for (const std::int64_t rows : {0, 1, 7, 13}) {
    EXPECT_TRUE(testing::identical(packed.multiply(x.narrow(0, 11, rows)), all.narrow(0, 11, rows)));
  }
}

TEST(Linear, RowsOfPackedWeightsComeBack) {
  const at::Tensor first = at::randn({37, 70}), second = at::randn({5, 70});
  const at::Tensor ids = at::tensor({0, 41, 3, 36, 37, 3}, at::kLong);
  const at::Tensor expected = at::cat({first, second}).index_select(0, ids);
  EXPECT_TRUE(at::equal(PackedWeight::pack(std::vector{first, second}).rows(ids), expected));
  const PackedWeight int8 = PackedWeight::pack(std::vector{first, second}, {}, WeightFormat::kInt8);
  // Half of a level, of which there are 127 to the largest of a group.
  EXPECT_LT((int8.rows(ids) - expected).abs().max().item<double>(), expected.abs().max().item<double>() / 254 + 1e-6);
  EXPECT_THROW(int8.rows(at::tensor({42}, at::kLong)), InputError);
  EXPECT_THROW(int8.rows(at::tensor({-1}, at::kLong)), InputError);
  EXPECT_THROW(int8.rows(at::tensor({1.0F})), InputError);
  EXPECT_THROW(PackedWeight().rows(ids), InputError);
}

TEST(Linear, PackedBiasesStandWhereTheirWeightsDo) {
  at::manual_seed(7);
  const at::Tensor x = at::randn({9, 20}), w1 = at::randn({30, 20}), w2 = at::randn({7, 20}), bias = at::randn({7});
  const PackedWeight packed = PackedWeight::pack(std::vector{w1, w2}, std::vector{at::Tensor(), bias});
  const at::Tensor all = packed.multiply(x);
  EXPECT_TRUE(close(all, at::cat({at::linear(x, w1), at::linear(x, w2, bias)}, 1), 1e-5));
  EXPECT_TRUE(testing::identical(packed.multiply(x.narrow(0, 4, 1)), all.narrow(0, 4, 1)));
}

TEST(Linear, IsDifferentiableAndItsProductsAreThoseOfDouble) {
  at::manual_seed(12);
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  // Few rows, where weights are packed a part at a time, and many, which are shared out.
  for (const std::int64_t rows : {1, 37, 1000}) {
    const at::Tensor x = leaf(at::randn({rows, 70})), w = leaf(at::randn({300, 70})), bias = leaf(at::randn({300}));
    const auto in_double = [](const at::Tensor& t) { return leaf(t.detach().to(at::kDouble)); };
    const std::vector<at::Tensor> exact{in_double(x), in_double(w), in_double(bias)};
    const at::Tensor actual = ops::linear(x, w, bias), expected = at::linear(exact[0], exact[1], exact[2]);
    EXPECT_TRUE(close(actual, expected, 1e-5, 1e-5)) << rows;
    const at::Tensor slopes = at::randn({rows, 300});
    // Of gradients in columns, of a matrix' part, and of all ones, which autograd does not write out.
    for (const at::Tensor& slope : {slopes.t().contiguous().t(), at::cat({slopes, slopes}, 1).narrow(1, 0, 300),
                                    at::ones({1, 1}).expand({rows, 300})}) {
      const auto a = torch::autograd::grad({actual}, {x, w, bias}, {slope}, true);
      const auto e = torch::autograd::grad({expected}, {exact[0], exact[1], exact[2]}, {slope.to(at::kDouble)}, true);
      for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(a[i], e[i], 2e-4, 1e-5)) << rows << ", input " << i;
    }
    // What a frozen input wants is not computed, and what is wanted does not change.
    const auto both = torch::autograd::grad({ops::linear(x, w)}, {x, w}, {slopes});
    EXPECT_TRUE(at::equal(torch::autograd::grad({ops::linear(x, w.detach())}, {x}, {slopes})[0], both[0]));
    EXPECT_TRUE(at::equal(torch::autograd::grad({ops::linear(x.detach(), w)}, {w}, {slopes})[0], both[1]));
  }
  at::set_num_threads(before);
}

TEST(Linear, OfNoRowsHasNoGradientAndKeepsWhatBackwardNeeds) {
  const at::Tensor none = leaf(at::zeros({0, 8})), w = leaf(at::randn({5, 8}));
  EXPECT_TRUE(at::equal(torch::autograd::grad({ops::linear(none, w).sum()}, {w})[0], at::zeros({5, 8})));
  EXPECT_THROW(ops::linear(at::zeros({3, 8}), w, at::zeros({1})), InputError);
  EXPECT_THROW(ops::linear(at::zeros({3, 8}), w, at::zeros({5}, at::kDouble)), InputError);
  // Of a frozen weight the input is not kept.
  const testing::CountingAllocator counting;
  const std::int64_t before = counting.now();
  at::Tensor y;
  {
    const at::Tensor x = leaf(at::randn({64, 512}));
    y = ops::linear(x + 1.0, at::randn({4, 512}));
  }
  EXPECT_LT(counting.now() - before, 64 * 512 * 4 + 64 * 512) << "the sum is still there";
}

TEST(Linear, GradientsOfManyRowsDoNotDependOnTheThreads) {
  at::manual_seed(13);
  const int before = at::get_num_threads();
  const at::Tensor gate = leaf(at::randn({1100, 90})), up = leaf(at::randn({1100, 90})), w = leaf(at::randn({40, 90}));
  const auto of_threads = [&](int threads) {
    at::set_num_threads(threads);
    const at::Tensor y = gated_linear(gate, up, w, {}, Gate::kGeluTanh);
    return torch::autograd::grad({y, ops::linear(up, w)}, {gate, up, w}, {at::ones_like(y), at::ones_like(y)});
  };
  const auto one = of_threads(1), three = of_threads(3);
  at::set_num_threads(before);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(testing::identical(one[i], three[i])) << "input " << i;
  // More rows than exist at one time, beside the twin in double.
  const std::vector<at::Tensor> exact{leaf(gate.detach().to(at::kDouble)), leaf(up.detach().to(at::kDouble)),
                                      leaf(w.detach().to(at::kDouble))};
  const at::Tensor y = at::linear(reference::gated_activation(exact[0], exact[1], Gate::kGeluTanh), exact[2]),
                   z = at::linear(exact[1], exact[2]);
  const auto expected = torch::autograd::grad({y, z}, exact, {at::ones_like(y), at::ones_like(z)});
  for (std::size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(one[i], expected[i], 5e-4, 1e-5)) << "input " << i;
}

TEST(Linear, APartOfPackedWeightsAndAProductAddedToAnother) {
  at::manual_seed(14);
  const at::Tensor x = at::randn({9, 20}), w = at::randn({100, 20}), bias = at::randn({100});
  for (const WeightFormat format : {WeightFormat::kFloat32, WeightFormat::kInt8}) {
    const PackedWeight packed = PackedWeight::pack({&w, 1}, {&bias, 1}, format);
    const at::Tensor all = packed.multiply(x);
    EXPECT_TRUE(testing::identical(packed.narrow(64, 30).multiply(x), all.narrow(1, 64, 30)));
    EXPECT_THROW(packed.narrow(33, 30), InputError);
    EXPECT_THROW(packed.narrow(64, 37), InputError);
    EXPECT_THROW(packed.multiply_into(at::zeros({9, 100}), x, true), InputError) << "added to, with biases";
  }
  const PackedWeight packed = PackedWeight::pack({&w, 1});
  at::Tensor sum = at::ones({9, 130});
  packed.multiply_into(sum.narrow(1, 30, 100), x, true);
  EXPECT_TRUE(close(sum.narrow(1, 30, 100), at::linear(x, w) + 1.0, 1e-5));
  EXPECT_TRUE(testing::identical(sum.narrow(1, 0, 30), at::ones({9, 30}))) << "beside it nothing is written";
  EXPECT_TRUE(close(product(x.t(), x), at::mm(x.t(), x), 1e-5));
  EXPECT_TRUE(
      at::equal(product(x.to(at::kDouble), w.t().to(at::kDouble)), at::mm(x.to(at::kDouble), w.t().to(at::kDouble))));
  EXPECT_THROW(packed.multiply_into(at::zeros({9, 99}), x), InputError);
  EXPECT_THROW(packed.multiply_into(at::zeros({100, 9}).t(), x), InputError);
  EXPECT_THROW(PackedWeight().narrow(0, 0), InputError);
}

}  // namespace
}  // namespace sao::ops
