// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels and their dispatch against the twins, on the CPU: the sources that nvcc compiles, under an emulation
// of what they use of CUDA. cuda_test.cpp does the same on a GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "ops/cuda_dispatch.h"
#include "ops/cuda_stream.h"
#include "ops/reference.h"
#include "support/close.h"
#include "support/cuda_emulation.h"
// The emulation comes first.
#include "ops/attention_cuda.cu"
#include "ops/attention_mma_cuda.cu"
#include "ops/dispatch_cuda.cpp"
#include "ops/log_probs_cuda.cu"
#include "ops/paged_attention_cuda.cu"
#include "ops/paged_decode_cuda.cu"
#include "ops/pointwise_cuda.cu"
#include "ops/sample_cuda.cu"

namespace sao::ops {

void cuda::on_stream(const at::Tensor&, c10::function_ref<void(void* stream)> launch) { launch(nullptr); }
int cuda::device_count() { return 1; }
void* cuda::record(at::Device, c10::function_ref<void()>, void*) { return nullptr; }
void cuda::replay(void*) {}
void cuda::forget(void*) {}

namespace {

using testing::close;

const cuda::Table& table() { return *sao_cuda_kernels(); }

struct Case {
  at::ScalarType dtype;
  bool descending;  // the order in which the threads of a block run
};

class Emulation : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
#ifdef __SANITIZE_THREAD__
    GTEST_SKIP() << "the thread sanitizer does not follow fibers";
#endif
    cuda::emulation::descending = GetParam().descending;
    at::manual_seed(7);
    // Results that are not written are NaNs.
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  }
  void TearDown() override {
    cuda::emulation::descending = false;
    at::globalContext().setDeterministicAlgorithms(false, false);
  }

  at::ScalarType dtype() const { return GetParam().dtype; }
  // The relative error of a result in this dtype, of a sum whose parts are of the size of one.
  double tolerance() const { return dtype() == at::kFloat ? 4e-6 : 8e-3; }
  at::Tensor random(at::IntArrayRef sizes, double scale = 1.0) const { return (at::randn(sizes) * scale).to(dtype()); }
};

class Emulated : public Emulation {};
class EmulatedTensorCores : public Emulation {};

at::Tensor wide_leaf(const at::Tensor& x) { return x.detach().to(at::kDouble).requires_grad_(true); }

std::vector<at::Tensor> gradients(const at::Tensor& result, const std::vector<at::Tensor>& inputs,
                                  const at::Tensor& grad) {
  return torch::autograd::grad({result}, inputs, {grad.to(result.scalar_type())});
}

TEST_P(Emulated, RmsNorm) {
  for (const bool zero_centered : {false, true}) {
    for (const std::int64_t width : {3, 48, 300, 1500}) {
      const at::Tensor x = random({5, width}), w = random({width}), grad = random({5, width});
      const RmsNormOptions options{.eps = 1e-5, .zero_centered = zero_centered};
      at::Tensor inverse;
      const at::Tensor y = table().rms_norm(x, w, options, &inverse);
      const at::Tensor xw = wide_leaf(x), ww = wide_leaf(w), expected = reference::rms_norm(xw, ww, options);
      EXPECT_TRUE(close(y, expected, 0.1 * tolerance(), tolerance())) << width;
      EXPECT_TRUE(testing::identical(table().rms_norm(x, w, options, nullptr), y));
      // In bfloat16 the twin rounds at the same places: within one unit in the last place.
      EXPECT_TRUE(close(y, reference::rms_norm(x, w, options), 0.1 * tolerance(), tolerance()));
      const auto [x_grad, w_grad] = table().rms_norm_backward(x, w, inverse, grad, zero_centered);
      const auto e = gradients(expected, {xw, ww}, grad);
      EXPECT_TRUE(close(x_grad, e[0], 2.0 * tolerance(), tolerance())) << width;
      EXPECT_TRUE(close(w_grad, e[1], 2.0 * tolerance(), tolerance())) << width;
    }
  }
}

TEST_P(Emulated, RmsNormOfManyRowsAndOfRowsWiderThanSharedMemory) {
  for (const auto& [rows, width] : std::vector<std::pair<std::int64_t, std::int64_t>>{{260, 1030}, {2, 13000}}) {
    const at::Tensor x = random({rows, width}), w = random({width}), grad = random({rows, width});
    at::Tensor inverse;
    table().rms_norm(x, w, {.zero_centered = true}, &inverse);
    const auto [x_grad, w_grad] = table().rms_norm_backward(x, w, inverse, grad, true);
    const at::Tensor xw = wide_leaf(x), ww = wide_leaf(w);
    const auto e = gradients(reference::rms_norm(xw, ww, {.zero_centered = true}), {xw, ww}, grad);
    EXPECT_TRUE(close(x_grad, e[0], 2.0 * tolerance(), tolerance()));
    EXPECT_TRUE(close(w_grad, e[1], 20.0 * tolerance(), tolerance()));
  }
}

TEST_P(Emulated, Rotary) {
  for (const std::int64_t head_dim : {24, 80}) {
    const at::Tensor joined = random({6, 5 * head_dim}), positions = at::randint(50, {6}, at::kLong);
    // Rows apart, as after a joint projection.
    const at::Tensor x = joined.narrow(1, head_dim, 3 * head_dim).view({6, 3, head_dim});
    const at::Tensor angles = at::rand({50, head_dim / 2}) * 6.0, c = at::cos(angles), s = at::sin(angles);
    const at::Tensor y = table().rotary(x, positions, c, s, 1.0f);
    const at::Tensor expected = reference::rotary(x, positions, c, s);
    if (dtype() == at::kBFloat16) {
      EXPECT_TRUE(testing::identical(y, expected));
    } else {
      EXPECT_TRUE(close(y, expected, 1e-6));
    }
    const at::Tensor leaf = x.detach().clone().requires_grad_(true), grad = random({6, 3, head_dim});
    const at::Tensor e = gradients(reference::rotary(leaf, positions, c, s), {leaf}, grad)[0];
    EXPECT_TRUE(close(table().rotary(grad, positions, c, s, -1.0f), e, dtype() == at::kFloat ? 1e-6 : 0.0));
  }
}

TEST_P(Emulated, GatedActivation) {
  for (const Gate kind : {Gate::kGeluTanh, Gate::kSilu}) {
    for (const std::int64_t width : {45, 1100, 2056}) {
      const at::Tensor joined = random({3, 2 * width + (width == 45 ? 1 : 0)}, 3.0);
      const at::Tensor gate = joined.narrow(1, 0, width), up = joined.narrow(1, width, width),
                       grad = random({3, width});
      const at::Tensor gw = wide_leaf(gate), uw = wide_leaf(up), expected = reference::gated_activation(gw, uw, kind);
      EXPECT_TRUE(close(table().gated_activation(gate, up, kind), expected, 0.2 * tolerance(), 2.0 * tolerance()));
      const auto [gate_grad, up_grad] = table().gated_activation_backward(gate, up, grad, kind, false);
      const auto e = gradients(expected, {gw, uw}, grad);
      EXPECT_TRUE(close(gate_grad, e[0], 0.5 * tolerance(), 2.0 * tolerance()));
      EXPECT_TRUE(close(up_grad, e[1], 0.5 * tolerance(), 2.0 * tolerance()));
      const auto [over, other] = table().gated_activation_backward(gate, up, grad, kind, true);
      EXPECT_TRUE(over.is_alias_of(grad));
      EXPECT_TRUE(at::equal(over, gate_grad) && at::equal(other, up_grad));
    }
  }
  const at::Tensor extreme = at::tensor({-200.0, -90.0, 0.0, 90.0, 200.0}).to(dtype()).view({1, 5}),
                   one = at::ones_like(extreme);
  const at::Tensor gate_grad = table().gated_activation_backward(extreme, one, one, Gate::kSilu, false)[0];
  EXPECT_TRUE(close(gate_grad, at::tensor({0.0, 0.0, 0.5, 1.0, 1.0}).view({1, 5}), 1e-6));
}

struct Shape {
  std::int64_t heads, kv_heads, head_dim, window;
  double softcap;
};
// Windows of 2 and 34: the last query that sees a tile's last key is the first of its own tile.
const std::vector<Shape> kShapes = {{4, 2, 16, 0, 0.0},  {2, 1, 80, 2, 6.0},    {3, 1, 10, 16, 50.0},
                                    {2, 2, 128, 1, 0.0}, {2, 1, 256, 34, 20.0}, {2, 1, 132, 0, 6.0}};

struct Pack {
  at::Tensor starts, parents = {};
};

// The kernels on `pack` against the twin on `twins`, which is the same without empty sequences.
void compare_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Shape& p, const Pack& pack,
                    const Pack& twins, double tolerance) {
  SCOPED_TRACE(p.head_dim);
  const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
  at::Tensor log_sum_exp;
  const at::Tensor out = table().packed_attention(q, k, v, pack.starts, pack.parents, options, &log_sum_exp);
  const at::Tensor qw = wide_leaf(q), kw = wide_leaf(k), vw = wide_leaf(v);
  const at::Tensor expected = reference::packed_attention(qw, kw, vw, twins.starts, options, twins.parents);
  EXPECT_TRUE(close(out, expected, tolerance, tolerance));
  EXPECT_TRUE(testing::identical(table().packed_attention(q, k, v, pack.starts, pack.parents, options, nullptr), out));
  const at::Tensor grad = at::randn(out.sizes()).to(out.scalar_type());
  const auto a = table().packed_attention_backward(q, k, v, pack.starts, pack.parents, out, log_sum_exp, grad, options);
  const auto e = gradients(expected, {qw, kw, vw}, grad);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(close(a[i], e[i], 4.0 * tolerance, tolerance)) << "input " << i;
    if (i < 2 && p.window == 1) continue;  // zero: the one weight is 1
    EXPECT_LT(testing::relative_l2(a[i], e[i]), 0.5 * tolerance) << "input " << i;
  }
}

TEST_P(Emulated, PackedAttention) {
  const Pack pack{at::tensor({0, 1, 6, 39, 39, 109}, at::kLong)}, twins{at::tensor({0, 1, 6, 39, 109}, at::kLong)};
  for (const Shape& p : kShapes) {
    const at::Tensor q = random({109, p.heads, p.head_dim});
    const at::Tensor kv = random({109, 2 * p.kv_heads, p.head_dim});  // keys and values side by side
    compare_packed(q, kv.narrow(1, 0, p.kv_heads), kv.narrow(1, p.kv_heads, p.kv_heads), p, pack, twins, tolerance());
  }
}

// Attention of the kernels that fits_tensor_cores chooses, all of one tile and of more, and inputs with NaNs around
// their rows.
TEST_P(EmulatedTensorCores, PackedAttention) {
  const std::vector<Shape> shapes = {{2, 2, 16, 0, 0.0},    {3, 1, 64, 70, 3.0},  {2, 1, 80, 65, 50.0},
                                     {1, 1, 128, 0, 0.0},   {3, 1, 128, 33, 2.0}, {4, 2, 256, 0, 50.0},
                                     {2, 1, 256, 100, 2.0}, {1, 1, 240, 64, 0.0}};
  const Pack pack{at::tensor({0, 1, 32, 96, 161, 291}, at::kLong)};  // of 1, 31, 64, 65, 130
  constexpr std::int64_t kTokens = 291, kBorder = 8;
  for (const Shape& p : shapes) {
    const std::int64_t rows = p.heads + 2 * p.kv_heads;
    at::Tensor joined = at::full({kTokens + 2, rows, p.head_dim + 2 * kBorder}, NAN, dtype());
    const at::Tensor qkv = joined.narrow(0, 1, kTokens).narrow(2, kBorder, p.head_dim);
    qkv.copy_(at::randn(qkv.sizes()));
    compare_packed(qkv.narrow(1, 0, p.heads), qkv.narrow(1, p.heads, p.kv_heads),
                   qkv.narrow(1, p.heads + p.kv_heads, p.kv_heads), p, pack, pack, tolerance());
  }
  EXPECT_EQ(cuda::emulation::bank_conflicts, 0u);
}

// Prompts of 130, 70, 31 and 1 tokens with their answers, which do not follow them at once, among sequences that stand
// alone.
void compare_families(const std::vector<Shape>& shapes, at::ScalarType dtype, double tolerance) {
  constexpr std::int64_t kTokens = 648;
  const Pack twins{at::tensor({0, 130, 163, 203, 273, 373, 374, 405, 445, 505, 506, 606, 607, 647, 648}, at::kLong),
                   at::tensor({-1, -1, 0, -1, 0, 3, -1, 3, -1, -1, 6, 9, 9, 6}, at::kLong)};
  // Two are empty: an answer, and one that stands alone.
  const Pack pack{at::cat({twins.starts, at::full({2}, kTokens, at::kLong)}),
                  at::cat({twins.parents, at::tensor({0, -1}, at::kLong)})};
  for (const Shape& p : shapes) {
    const auto random = [&](std::int64_t heads) { return at::randn({kTokens, heads, p.head_dim}).to(dtype); };
    compare_packed(random(p.heads), random(p.kv_heads), random(p.kv_heads), p, pack, twins, tolerance);
  }
}

TEST_P(Emulated, PackedAttentionOfSequencesThatContinueOthers) {
  compare_families(
      {{4, 2, 16, 0, 0.0}, {2, 1, 80, 50, 6.0}, {2, 2, 10, 0, 50.0}, {2, 1, 256, 20, 0.0}, {3, 1, 256, 0, 20.0}},
      dtype(), tolerance());
}

TEST_P(EmulatedTensorCores, PackedAttentionOfSequencesThatContinueOthers) {
  compare_families({{2, 1, 64, 100, 0.0}, {2, 1, 128, 0, 3.0}, {1, 1, 128, 1, 0.0}, {2, 1, 240, 129, 0.0}}, dtype(),
                   tolerance());
  EXPECT_EQ(cuda::emulation::bank_conflicts, 0u);
}

// Scores up to a few hundred: weights of almost one and of zero, caps that are reached. The gradients are then small
// differences, among others of sums over outputs that are rounded.
TEST_P(EmulatedTensorCores, LargeScores) {
  const at::Tensor starts = at::tensor({0, 100}, at::kLong);
  for (const double softcap : {0.0, 50.0}) {
    const at::Tensor q = random({100, 2, 64}, 10.0), k = random({100, 1, 64}, 10.0), v = random({100, 1, 64});
    const AttentionOptions options{.scale = 0.125, .softcap = softcap};
    at::Tensor log_sum_exp;
    const at::Tensor out = table().packed_attention(q, k, v, starts, {}, options, &log_sum_exp);
    const at::Tensor qw = wide_leaf(q), kw = wide_leaf(k), vw = wide_leaf(v), grad = random({100, 128});
    const at::Tensor expected = reference::packed_attention(qw, kw, vw, starts, options);
    EXPECT_TRUE(close(out, expected, tolerance(), tolerance())) << softcap;
    const at::Tensor products = at::matmul(qw.transpose(0, 1), kw.permute({1, 2, 0})) * options.scale;
    const at::Tensor scores = softcap > 0.0 ? at::tanh(products / softcap) * softcap : products;
    const at::Tensor hidden = at::ones({100, 100}, at::kBool).triu(1);
    EXPECT_TRUE(close(log_sum_exp, at::logsumexp(scores.masked_fill(hidden, -INFINITY), 2), 2e-5, 1e-6)) << softcap;
    const auto a = table().packed_attention_backward(q, k, v, starts, {}, out, log_sum_exp, grad, options);
    const auto e = gradients(expected, {qw, kw, vw}, grad);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_LT(testing::relative_l2(a[i], e[i]), 2.0 * tolerance()) << softcap << ' ' << i;
  }
}

// Rows that are not at multiples of 16 bytes are left to the other kernels.
TEST_P(EmulatedTensorCores, UnalignedRows) {
  const at::Tensor starts = at::tensor({0, 40}, at::kLong), joined = random({40, 3, 20}), q = joined.narrow(2, 4, 16);
  const AttentionOptions options{.scale = 0.25};
  at::Tensor log_sum_exp;
  const at::Tensor out = table().packed_attention(q, q, q, starts, {}, options, &log_sum_exp), leaf = wide_leaf(q);
  const at::Tensor expected = reference::packed_attention(leaf, leaf, leaf, starts, options), grad = random({40, 48});
  EXPECT_TRUE(close(out, expected, tolerance(), tolerance()));
  const auto a = table().packed_attention_backward(q, q, q, starts, {}, out, log_sum_exp, grad, options);
  const at::Tensor sum = a[0].to(at::kDouble) + a[1].to(at::kDouble) + a[2].to(at::kDouble);
  EXPECT_TRUE(close(sum, gradients(expected, {leaf}, grad)[0], 8.0 * tolerance(), tolerance()));
}

TEST_P(Emulated, PagedAttention) {
  constexpr std::int64_t kLength = 75, kOther = 20;
  for (const Shape& p : kShapes) {
    const at::Tensor q = random({kLength, p.heads, p.head_dim}), k = random({kLength, p.kv_heads, p.head_dim});
    const at::Tensor v = random({kLength, p.kv_heads, p.head_dim});
    const AttentionOptions options{.scale = 1.0 / std::sqrt(p.head_dim), .softcap = p.softcap, .window = p.window};
    const at::Tensor whole = reference::packed_attention(q.to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble),
                                                         at::tensor({std::int64_t{0}, kLength}), options);
    const at::Tensor tables = at::tensor({7, 1, 3, 0, 4, 6, 2, 5, 5, 5}, at::kInt).view({2, 5});
    const auto slots_of = [&](std::int64_t sequence, const at::Tensor& positions) {
      return tables[sequence].to(at::kLong).index_select(0, positions.div(kCacheBlock, "floor")) * kCacheBlock +
             positions.remainder(kCacheBlock);
    };
    at::Tensor steps_of_whole;
    for (const std::int64_t step : {1, 7, 75}) {
      at::Tensor keys = at::full({8, p.kv_heads, p.head_dim, kCacheBlock}, NAN, q.options());
      at::Tensor values = at::full({8, p.kv_heads, kCacheBlock, p.head_dim}, NAN, q.options());
      // A second sequence, the start of the first, gets one token a step.
      table().append_to_cache(k.narrow(0, 0, kOther), v.narrow(0, 0, kOther), slots_of(1, at::arange(kOther)), keys,
                              values);
      std::vector<at::Tensor> outputs;
      for (std::int64_t begin = 0; begin < kLength; begin += step) {
        const std::int64_t n = std::min(step, kLength - begin);
        table().append_to_cache(k.narrow(0, begin, n), v.narrow(0, begin, n), slots_of(0, at::arange(begin, begin + n)),
                                keys, values);
        if (step == 1 && begin % 37 != 0) continue;
        const at::Tensor queries = at::cat({q.narrow(0, begin, n), q.narrow(0, kOther - 1, 1)});
        const at::Tensor starts = at::tensor({std::int64_t{0}, n, n + 1}), lengths = at::tensor({begin + n, kOther});
        const at::Tensor out = table().paged_attention(queries, keys, values, starts, lengths, tables, options);
        const at::Tensor expected = at::cat({whole.narrow(0, begin, n), whole.narrow(0, kOther - 1, 1)});
        EXPECT_TRUE(close(out, expected, tolerance(), tolerance()))
            << p.head_dim << " step " << step << " at " << begin;
        outputs.push_back(out.narrow(0, 0, n));
      }
      if (step == 7) steps_of_whole = at::cat(outputs);
      if (step == 75) {
        EXPECT_TRUE(testing::identical(at::cat(outputs), steps_of_whole));
      }
    }
  }
}

// A step's indices are kept between layers: by what they hold, not by whose tensor they are in.
TEST_P(Emulated, PagedAttentionAfterItsIndicesChanged) {
  const at::Tensor q = random({3, 2, 16}), keys = random({4, 1, 16, kCacheBlock}),
                   values = random({4, 1, kCacheBlock, 16});
  const at::Tensor starts = at::tensor({std::int64_t{0}, std::int64_t{3}}), lengths = at::tensor({std::int64_t{20}}),
                   tables = at::tensor({0, 1}, at::kInt).view({1, 2});
  const auto check = [&] {
    const at::Tensor out = table().paged_attention(q, keys, values, starts, lengths, tables, {.scale = 0.25});
    EXPECT_TRUE(close(out,
                      reference::paged_attention(q.to(at::kDouble), keys.to(at::kDouble), values.to(at::kDouble),
                                                 starts, lengths, tables, {.scale = 0.25}),
                      tolerance(), tolerance()));
  };
  check();
  tables.mutable_data_ptr<std::int32_t>()[1] = 3;
  check();
  lengths.mutable_data_ptr<std::int64_t>()[0] = 31;
  check();
}

// One new token a sequence, over one and several parts of keys.
TEST_P(Emulated, PagedDecode) {
  struct Form {
    std::int64_t heads, kv_heads, head_dim;
    double softcap;
    std::int64_t window;
  };
  const std::vector<std::int64_t> lengths{1, 17, 511, 512, 513, 1100};
  for (const Form& c : {Form{2, 2, 16, 0.0, 0}, Form{4, 2, 64, 20.0, 300}, Form{3, 1, 80, 0.0, 100},
                        Form{4, 1, 128, 0.0, 0}, Form{11, 1, 24, 5.0, 0}, Form{2, 1, 256, 50.0, 590}}) {
    std::int64_t blocks = 0, widest = 0;
    for (const std::int64_t length : lengths) widest = std::max(widest, (length + kCacheBlock - 1) / kCacheBlock);
    at::Tensor tables = at::zeros({static_cast<std::int64_t>(lengths.size()), widest}, at::kInt);
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::int64_t b = 0; b * kCacheBlock < lengths[s]; ++b) {
        tables[static_cast<std::int64_t>(s)][b] = static_cast<int>(blocks++ * 5 % 199);
      }
    }
    ASSERT_LT(blocks, 199);
    at::Tensor keys = random({199, c.kv_heads, c.head_dim, kCacheBlock}),
               values = random({199, c.kv_heads, kCacheBlock, c.head_dim});
    for (std::size_t s = 0; s < lengths.size(); ++s) {  // what is past the end may be anything
      const std::int64_t last = (lengths[s] - 1) / kCacheBlock, kept = (lengths[s] - 1) % kCacheBlock + 1;
      const std::int64_t block = tables[static_cast<std::int64_t>(s)][last].item<int>();
      keys[block].narrow(2, kept, kCacheBlock - kept).fill_(NAN);
      values[block].narrow(1, kept, kCacheBlock - kept).fill_(NAN);
    }
    const auto count = static_cast<std::int64_t>(lengths.size());
    const at::Tensor q = random({count, c.heads, c.head_dim}), starts = at::arange(count + 1);
    const at::Tensor ends = at::tensor(lengths);
    const AttentionOptions options{.scale = 1.0 / std::sqrt(c.head_dim), .softcap = c.softcap, .window = c.window};
    const at::Tensor out = table().paged_attention(q, keys, values, starts, ends, tables, options);
    const at::Tensor expected = reference::paged_attention(q.to(at::kDouble), keys.to(at::kDouble),
                                                           values.to(at::kDouble), starts, ends, tables, options);
    EXPECT_TRUE(close(out, expected, tolerance(), tolerance())) << c.head_dim;
    for (std::int64_t s = 0; s < count; ++s) {
      const at::Tensor alone =
          table().paged_attention(q.narrow(0, s, 1), keys, values, at::arange(2), ends.narrow(0, s, 1),
                                  tables.narrow(0, s, 1).contiguous(), options);
      EXPECT_TRUE(testing::identical(alone, out.narrow(0, s, 1))) << c.head_dim << " sequence " << s;
    }
  }
}

// A page whose scores all overflow to -infinity weighs nothing beside others.
TEST_P(Emulated, PagedDecodeOfScoresThatOverflow) {
  const std::int64_t head_dim = 16, length = 100;
  const at::Tensor q = at::full({1, 2, head_dim}, 1e20).to(dtype());
  at::Tensor keys = at::zeros({7, 1, head_dim, kCacheBlock}, q.options());
  const at::Tensor values = random({7, 1, kCacheBlock, head_dim});
  keys[0].fill_(-1e20);
  const at::Tensor tables = at::arange(7, at::kInt).view({1, 7}), ends = at::tensor({length}, at::kLong);
  const at::Tensor out = table().paged_attention(q, keys, values, at::arange(2), ends, tables, {.scale = 1.0});
  const at::Tensor rows = values.to(at::kDouble).reshape({7 * kCacheBlock, head_dim});
  const at::Tensor expected = rows.narrow(0, kCacheBlock, length - kCacheBlock).mean(0).repeat({1, 2});
  EXPECT_TRUE(close(out, expected, tolerance(), tolerance()));
}

TEST_P(Emulated, LogProbs) {
  for (const double softcap : {0.0, 12.0}) {
    for (const std::int64_t width : {1, 5, 47, 1000, 2300}) {
      const at::Tensor logits = random({4, width}, 8.0), targets = at::randint(width, {4}, at::kLong),
                       grad = at::randn({4});
      at::Tensor log_prob = at::empty({4}), log_sum_exp = at::empty({4}), d = logits.clone();
      table().log_probs(logits, targets, softcap, log_prob, log_sum_exp);
      table().log_probs_backward(d, targets, softcap, log_sum_exp, grad);
      const at::Tensor z = wide_leaf(logits), capped = softcap > 0 ? at::tanh(z / softcap) * softcap : z;
      const at::Tensor expected = at::log_softmax(capped, -1).gather(1, targets.unsqueeze(1)).squeeze(1);
      EXPECT_TRUE(close(log_prob, expected, 4e-6, 1e-6)) << width;
      EXPECT_TRUE(close(log_sum_exp, at::logsumexp(capped, 1), 2e-6, 1e-6)) << width;
      EXPECT_TRUE(close(d, gradients(expected, {z}, grad)[0], 2e-6, tolerance())) << width;
    }
  }
  const at::Tensor mask = at::tensor({-INFINITY, 2.0f, -INFINITY, 1.0f, -INFINITY, -INFINITY, -INFINITY, -INFINITY})
                              .to(dtype())
                              .view({1, 8});
  at::Tensor log_prob = at::empty({1}), log_sum_exp = at::empty({1});
  table().log_probs(mask, at::tensor({1}, at::kLong), 0.0, log_prob, log_sum_exp);
  EXPECT_NEAR(log_prob.item<double>(), -std::log1p(std::exp(-1.0)), 1e-6);
}

// The same bits as its parts.
TEST_P(Emulated, ResidualNorm) {
  for (const std::int64_t width : {3, 300, 2304, 4100, 8196}) {
    for (const bool zero_centered : {false, true}) {
      const RmsNormOptions options{.eps = 1e-5, .zero_centered = zero_centered};
      const at::Tensor h = random({4, width}), update = random({4, width}), none;
      const at::Tensor first = random({width}), second = random({width});
      for (const at::Tensor& update_weight : {first, none}) {
        const at::Tensor added =
            update_weight.defined() ? table().rms_norm(update, update_weight, options, nullptr) : update;
        const auto [sum, y] = table().residual_norm(h, update, update_weight, second, options);
        EXPECT_TRUE(testing::identical(sum, h + added)) << width;
        EXPECT_TRUE(testing::identical(y, table().rms_norm(h + added, second, options, nullptr))) << width;
        const auto [alone, nothing] = table().residual_norm(h, update, update_weight, none, options);
        EXPECT_TRUE(testing::identical(alone, sum));
        EXPECT_FALSE(nothing.defined());
      }
    }
  }
}

TEST_P(Emulated, RotaryAppend) {
  const std::int64_t tokens = 5, heads = 3, kv_heads = 2;
  for (const std::int64_t head_dim : {2, 16, 80}) {
    // Columns of one product, as the model has them.
    const at::Tensor qkv = random({tokens, (heads + 2 * kv_heads) * head_dim});
    const auto columns = [&](std::int64_t begin, std::int64_t count) {
      return qkv.narrow(1, begin * head_dim, count * head_dim).view({tokens, count, head_dim});
    };
    const at::Tensor q = columns(0, heads), k = columns(heads, kv_heads), v = columns(heads + kv_heads, kv_heads);
    const at::Tensor cosines = at::randn({40, head_dim / 2}), sines = at::randn({40, head_dim / 2});
    const at::Tensor positions = at::tensor({0, 7, 39, 1, 1}, at::kLong),
                     slots = at::tensor({3, 16, 47, 20, 0}, at::kLong);
    const auto cache = [&] {
      return std::pair{at::zeros({3, kv_heads, head_dim, kCacheBlock}, q.options()),
                       at::zeros({3, kv_heads, kCacheBlock, head_dim}, q.options())};
    };
    auto [keys, values] = cache();
    auto [expected_keys, expected_values] = cache();
    const at::Tensor found = table().rotary_append(q, k, v, positions, cosines, sines, slots, keys, values);
    table().append_to_cache(table().rotary(k, positions, cosines, sines, 1.0f), v, slots, expected_keys,
                            expected_values);
    EXPECT_TRUE(testing::identical(found, table().rotary(q, positions, cosines, sines, 1.0f))) << head_dim;
    EXPECT_TRUE(testing::identical(keys, expected_keys)) << head_dim;
    EXPECT_TRUE(testing::identical(values, expected_values)) << head_dim;
  }
}

TEST_P(Emulated, AddWidened) {
  for (const std::int64_t width : {1, 8, 333}) {
    const at::Tensor x = random({3, width}), before = at::randn({3, width});
    at::Tensor sum = before.clone();
    table().add_widened(sum, x);
    EXPECT_TRUE(testing::identical(sum, before + x.to(at::kFloat))) << width;
  }
}

TEST_P(Emulated, SoftCapped) {
  for (const double cap : {0.0, 30.0}) {
    for (const std::int64_t width : {1, 8, 333}) {
      const at::Tensor x = random({3, width}, 40.0);
      const at::Tensor y = table().softcapped(x, cap), wide = x.to(at::kDouble);
      EXPECT_EQ(y.scalar_type(), at::kFloat);
      EXPECT_TRUE(close(y, cap > 0.0 ? at::tanh(wide / cap) * cap : wide, 1e-6, 1e-6)) << width;
    }
  }
}

// Against the distribution in float64: the token whose share of [0, 1) holds the number.
TEST_P(Emulated, Draws) {
  const std::vector<SampleOptions> all{{},
                                       {.temperature = 0.0},
                                       {.temperature = 0.5},
                                       {.temperature = 1e-3},
                                       {.top_k = 3},
                                       {.top_p = 0.6},
                                       {.min_p = 0.2},
                                       {.temperature = 1.7, .top_k = 20, .top_p = 0.9, .min_p = 0.05},
                                       {.top_k = 1},
                                       {.top_p = 1e-4}};
  for (const std::int64_t width : {1, 5, 300, 4099, 16392}) {
    const double softcap = width == 300 ? 4.0 : 0.0;
    at::Tensor raw = at::randn({3, width}) * 3.0;
    raw[1] = at::round(raw[1]);  // equals
    raw = raw.to(dtype());
    const at::Tensor logits = softcapped(raw, softcap).to(at::kFloat);
    const at::Tensor log_probs = at::log_softmax(logits, 1, at::kDouble);
    for (const SampleOptions& options : all) {
      const at::Tensor p = sampling_distribution(logits, options), sums = p.cumsum(1);
      at::Tensor draws = at::empty({21, 2}, at::kDouble);
      for (std::int64_t i = 0; i < 21; ++i) {
        draws[i][0] = static_cast<double>(i % 3);
        draws[i][1] = i < 3 ? 0.0 : i > 17 ? 1.0 - 1e-16 : at::rand({1}, at::kDouble).item<double>();
      }
      const at::Tensor found = table().draw(raw, softcap, draws, false, options);
      for (std::int64_t i = 0; i < 21; ++i) {
        const std::int64_t row = i % 3, id = static_cast<std::int64_t>(found[i][0].item<double>());
        ASSERT_TRUE(id >= 0 && id < width);
        const double u = draws[i][1].item<double>(), end = sums[row][id].item<double>();
        const double share = p[row][id].item<double>();
        EXPECT_GT(share, 0.0) << width << " token " << id;
        EXPECT_TRUE(u >= end - share - 1e-5 && u <= end + 1e-5)
            << width << " " << u << " token " << id << " has " << end - share << " to " << end;
        EXPECT_NEAR(found[i][1].item<double>(), log_probs[row][id].item<double>(), 3e-6);
      }
    }
    const at::Tensor given = at::tensor({1.0, static_cast<double>(width - 1)}, at::kDouble).view({1, 2});
    EXPECT_NEAR(table().draw(raw, softcap, given, true, {})[0][1].item<double>(),
                log_probs[1][width - 1].item<double>(), 3e-6);
  }
  at::Tensor broken = at::zeros({4, 40});
  broken[0][7] = NAN;
  broken[1][39] = INFINITY;
  broken[2].fill_(-INFINITY);
  broken[3][0] = -INFINITY;
  const at::Tensor draws = at::tensor({0.0, 0.5, 1.0, 0.5, 2.0, 0.5, 3.0, 0.0}, at::kDouble).view({4, 2});
  const at::Tensor found = table().draw(broken, 0.0, draws, false, {});
  for (std::int64_t row = 0; row < 3; ++row) EXPECT_TRUE(std::isnan(found[row][1].item<double>())) << row;
  EXPECT_EQ(found[3][0].item<double>(), 1.0) << "the first token that can be";
}

TEST_P(Emulated, NothingIsLaunchedForNothing) {
  const std::size_t before = cuda::emulation::launches;
  const at::Tensor starts = at::zeros({1}, at::kLong), none = at::empty({0, 2, 16}, dtype());
  EXPECT_EQ(table().packed_attention(none, none, none, starts, {}, {}, nullptr).sizes(), at::IntArrayRef({0, 32}));
  EXPECT_EQ(table().gated_activation(none.view({0, 32}), none.view({0, 32}), Gate::kSilu).size(0), 0);
  EXPECT_EQ(table().rotary(none, starts.narrow(0, 0, 0), at::ones({4, 8}), at::ones({4, 8}), 1.0f).size(0), 0);
  EXPECT_EQ(cuda::emulation::launches, before);
}

INSTANTIATE_TEST_SUITE_P(Kernels, Emulated, ::testing::Values(Case{at::kFloat, false}, Case{at::kBFloat16, true}),
                         [](const auto& test) {
                           return std::string(test.param.dtype == at::kFloat ? "Float32" : "BFloat16");
                         });

INSTANTIATE_TEST_SUITE_P(Kernels, EmulatedTensorCores,
                         ::testing::Values(Case{at::kBFloat16, false}, Case{at::kBFloat16, true}),
                         [](const auto& test) { return test.param.descending ? "Descending" : "Ascending"; });

}  // namespace
}  // namespace sao::ops
