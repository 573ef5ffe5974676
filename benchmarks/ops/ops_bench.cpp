// SPDX-License-Identifier: Apache-2.0
// The ops that carry the time, beside LibTorch's own where it has one. build/bin/ops_bench
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <benchmark/benchmark.h>

#include <vector>

#include "sao/ops/attention.h"
#include "sao/ops/linear.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/pointwise.h"

namespace {

void report_flops(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}

// rows, outputs, inputs
void packed_linear(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({state.range(0), state.range(2)}), w = at::randn({state.range(1), state.range(2)});
  const auto packed = sao::ops::PackedWeight::pack({&w, 1});
  for (auto _ : state) benchmark::DoNotOptimize(packed.multiply(x));
  report_flops(state, 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2)));
}

void libtorch_linear(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = at::randn({state.range(0), state.range(2)}), w = at::randn({state.range(1), state.range(2)});
  for (auto _ : state) benchmark::DoNotOptimize(at::linear(x, w));
  report_flops(state, 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2)));
}

// tokens, length of a sequence, heads (half as many of keys and values), head_dim
void packed_attention(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const std::int64_t tokens = state.range(0), heads = state.range(2), head_dim = state.range(3);
  const at::Tensor q = at::randn({tokens, heads, head_dim}), k = at::randn({tokens, heads / 2, head_dim}),
                   v = at::randn({tokens, heads / 2, head_dim});
  const at::Tensor starts = at::arange(0, tokens + 1, state.range(1));
  for (auto _ : state) {
    benchmark::DoNotOptimize(sao::ops::packed_attention(q, k, v, starts, {.scale = 0.18, .softcap = 50.0}));
  }
  report_flops(state, 2.0 * static_cast<double>(tokens * state.range(1) * heads * head_dim));  // half of all pairs
}

// rows, vocabulary
void log_probs_forward(benchmark::State& state) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = at::randn({state.range(0), 256}), weight = at::randn({state.range(1), 256});
  const at::Tensor targets = at::randint(state.range(1), {state.range(0)}, at::kLong);
  for (auto _ : state) {
    benchmark::DoNotOptimize(sao::ops::log_probs(hidden, weight, targets, {.logit_softcap = 30.0}));
  }
}

// Forward and backward of what `compute` makes of inputs with gradients.
template <class Compute>
void train(benchmark::State& state, const std::vector<at::Tensor>& inputs, double flops, const Compute& compute) {
  at::Tensor grad;
  for (const at::Tensor& input : inputs) input.requires_grad_(true);
  for (auto _ : state) {
    const at::Tensor y = compute();
    if (!grad.defined()) grad = at::randn(y.sizes());
    y.backward(grad);
    for (const at::Tensor& input : inputs) input.mutable_grad() = at::Tensor();
  }
  report_flops(state, flops);
}

double products(const benchmark::State& state, double count) {  // of rows, outputs, inputs
  return count * 2.0 * static_cast<double>(state.range(0) * state.range(1) * state.range(2));
}

void linear_trained(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), state.range(2)}), w = at::randn({state.range(1), state.range(2)});
  train(state, {x, w}, products(state, 3), [&] { return sao::ops::linear(x, w); });
}

void libtorch_linear_trained(benchmark::State& state) {
  const at::Tensor x = at::randn({state.range(0), state.range(2)}), w = at::randn({state.range(1), state.range(2)});
  train(state, {x, w}, products(state, 3), [&] { return at::linear(x, w); });
}

void gated_linear_trained(benchmark::State& state) {
  const at::Tensor gate = at::randn({state.range(0), state.range(2)}), up = at::randn_like(gate),
                   w = at::randn({state.range(1), state.range(2)});
  train(state, {gate, up, w}, products(state, 3),
        [&] { return sao::ops::gated_linear(gate, up, w, {}, sao::ops::Gate::kGeluTanh); });
}

// rows, vocabulary, hidden; logits are computed twice
void log_probs_trained(benchmark::State& state) {
  const at::Tensor hidden = at::randn({state.range(0), state.range(2)}),
                   w = at::randn({state.range(1), state.range(2)});
  const at::Tensor targets = at::randint(state.range(1), {state.range(0)}, at::kLong);
  train(state, {hidden, w}, products(state, 4),
        [&] { return sao::ops::log_probs(hidden, w, targets, {.logit_softcap = 30.0}); });
}

void packed_attention_trained(benchmark::State& state) {
  const std::int64_t tokens = state.range(0), heads = state.range(2), head_dim = state.range(3);
  const at::Tensor q = at::randn({tokens, heads, head_dim}), k = at::randn({tokens, heads / 2, head_dim}),
                   v = at::randn({tokens, heads / 2, head_dim});
  const at::Tensor starts = at::arange(0, tokens + 1, state.range(1));
  train(state, {q, k, v}, 7.0 * static_cast<double>(tokens * state.range(1) * heads * head_dim),
        [&] { return sao::ops::packed_attention(q, k, v, starts, {.scale = 0.18, .softcap = 50.0}); });
}

void linear_shapes(benchmark::internal::Benchmark* of) {
  for (const std::int64_t rows : {1, 32, 512, 2048}) of->Args({rows, 5120, 640})->Args({rows, 640, 2560});
  of->Args({32, 32000, 640})->UseRealTime();
}
BENCHMARK(packed_linear)->Apply(linear_shapes);
BENCHMARK(libtorch_linear)->Apply(linear_shapes);
BENCHMARK(packed_attention)
    ->Args({4096, 64, 4, 32})
    ->Args({4096, 1024, 4, 32})
    ->Args({3072, 768, 8, 80})
    ->UseRealTime();
BENCHMARK(linear_trained)->Args({3584, 640, 640})->Args({3584, 2560, 640})->UseRealTime();
BENCHMARK(libtorch_linear_trained)->Args({3584, 640, 640})->Args({3584, 2560, 640})->UseRealTime();
BENCHMARK(gated_linear_trained)->Args({3584, 640, 2560})->UseRealTime();
BENCHMARK(log_probs_trained)->Args({3072, 32000, 640})->UseRealTime();
BENCHMARK(packed_attention_trained)->Args({4096, 512, 10, 64})->UseRealTime();
BENCHMARK(log_probs_forward)->Args({512, 32000});

}  // namespace

BENCHMARK_MAIN();
