// SPDX-License-Identifier: Apache-2.0
// The kernels of a GPU, each with its share of what the GPU can do: the time that its bytes take at the measured
// copying speed, or its operations at the measured product peak, whichever is longer, over the time it took.
//   build/bin/cuda_bench [--benchmark_filter=TEXT]: those whose name contains TEXT
// Where there is no GPU it says so and ends well.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "../gpu_seconds.h"
#include "sao/base/error.h"
#include "sao/ops/attention.h"
#include "sao/ops/cuda.h"
#include "sao/ops/cuda_graph.h"
#include "sao/ops/log_probs.h"
#include "sao/ops/pointwise.h"
#include "sao/ops/sample.h"

namespace {

using sao::ops::AttentionOptions;

double median_of(int count, const auto& work) {
  std::vector<double> seconds;
  for (int i = 0; i < count; ++i) seconds.push_back(sao::benchmarks::gpu_seconds(work));
  std::nth_element(seconds.begin(), seconds.begin() + count / 2, seconds.end());
  return seconds[static_cast<std::size_t>(count / 2)];
}

class Bench {
 public:
  explicit Bench(std::string_view filter) : filter_(filter) {
    const at::Tensor a = bf16({8192, 8192}), b = bf16({8192, 8192}), from = bf16({1 << 15, 1 << 15});
    at::Tensor to = at::empty_like(from);
    for (int i = 0; i < 3; ++i) at::mm(a, b), to.copy_(from);
    flops_ = 2.0 * std::pow(8192.0, 3) / median_of(9, [&] { at::mm(a, b); });
    bytes_ = 4.0 * static_cast<double>(from.numel()) / median_of(9, [&] { to.copy_(from); });
    fmt::print("bfloat16; products {:.0f} TFLOP/s, copying {:.2f} TB/s\n{:58} {:>10} {:>8} {:>8} {:>6}\n",
               flops_ * 1e-12, bytes_ * 1e-12, "", "us", "TB/s", "TFLOP/s", "share");
  }

  static at::Tensor bf16(at::IntArrayRef sizes) {
    return at::randn(sizes, at::TensorOptions(at::kCUDA).dtype(at::kFloat)).to(at::kBFloat16);
  }
  static at::Tensor integers(const std::vector<std::int64_t>& values) { return at::tensor(values).to(at::kCUDA); }

  // `recorded`: ten in a row without the host's part, which is longer than a small kernel.
  template <class Work>
  void run(const std::string& name, double bytes, double flops, bool recorded, const Work& work) {
    if (name.find(filter_) == std::string::npos) return;
    double seconds = 0.0;
    work();
    if (recorded) {
      const at::NoGradGuard no_grad;
      const auto ten = sao::ops::CudaGraph::record(at::Device(at::kCUDA, 0), [&] {
        for (int i = 0; i < 10; ++i) work();
      });
      ten.replay();
      seconds = median_of(9, [&] { ten.replay(); }) / 10.0;
    } else {
      work();
      seconds = median_of(9, work);
    }
    const double least = std::max(bytes / bytes_, flops / flops_);
    fmt::print("{:58} {:10.1f} {:8.2f} {:8.0f} {:5.0f}%\n", name, seconds * 1e6, bytes / seconds * 1e-12,
               flops / seconds * 1e-12, 100.0 * least / seconds);
    std::fflush(stdout);
  }

 private:
  std::string_view filter_;
  double flops_ = 0.0, bytes_ = 0.0;
};

void decode(Bench& bench, std::int64_t sequences, std::int64_t from, std::int64_t to, std::int64_t heads,
            std::int64_t kv_heads, std::int64_t head_dim, double softcap) {
  std::vector<std::int64_t> lengths;
  std::int64_t blocks = 0, widest = 0, tokens = 0;
  for (std::int64_t s = 0; s < sequences; ++s) {
    lengths.push_back(from + (to - from) * s / std::max<std::int64_t>(1, sequences - 1));
    tokens += lengths.back();
    widest = std::max(widest, (lengths.back() + sao::ops::kCacheBlock - 1) / sao::ops::kCacheBlock);
  }
  const at::Tensor tables = at::zeros({sequences, widest}, at::kInt);
  const std::int64_t all = sequences * widest;
  const at::Tensor order = at::randperm(all, at::kLong).to(at::kInt);
  for (std::int64_t s = 0; s < sequences; ++s) {
    tables[s].copy_(order.narrow(0, blocks, widest));
    blocks += widest;
  }
  const at::Tensor keys = Bench::bf16({all, kv_heads, head_dim, sao::ops::kCacheBlock}),
                   values = Bench::bf16({all, kv_heads, sao::ops::kCacheBlock, head_dim});
  const at::Tensor q = Bench::bf16({sequences, heads, head_dim}), ends = Bench::integers(lengths),
                   starts = at::arange(sequences + 1).to(at::kCUDA), there = tables.to(at::kCUDA);
  const AttentionOptions options{.scale = 1.0 / std::sqrt(static_cast<double>(head_dim)), .softcap = softcap};
  const double pairs = static_cast<double>(tokens);
  bench.run(fmt::format("decode {} x {} to {}, heads {}:{} of {}", sequences, from, to, heads, kv_heads, head_dim),
            4.0 * pairs * static_cast<double>(kv_heads * head_dim), 4.0 * pairs * static_cast<double>(heads * head_dim),
            true, [&] { sao::ops::paged_attention(q, keys, values, starts, ends, there, options); });
}

void attention(Bench& bench, std::int64_t sequences, std::int64_t length, std::int64_t heads, std::int64_t kv_heads,
               std::int64_t head_dim) {
  const std::int64_t tokens = sequences * length;
  const at::Tensor q = Bench::bf16({tokens, heads, head_dim}), k = Bench::bf16({tokens, kv_heads, head_dim}),
                   v = Bench::bf16({tokens, kv_heads, head_dim}), grad = Bench::bf16({tokens, heads * head_dim});
  const at::Tensor starts = at::arange(0, tokens + 1, length);
  const AttentionOptions options{.scale = 1.0 / std::sqrt(static_cast<double>(head_dim)), .softcap = 50.0};
  const double flops = 2.0 * static_cast<double>(tokens * length * heads * head_dim);  // half of all pairs
  const std::string shape = fmt::format("{} x {}, heads {}:{} of {}", sequences, length, heads, kv_heads, head_dim);
  {
    const at::NoGradGuard no_grad;
    bench.run("attention " + shape, 0.0, flops, false, [&] { sao::ops::packed_attention(q, k, v, starts, options); });
  }
  for (const at::Tensor* x : {&q, &k, &v}) x->requires_grad_(true);
  bench.run("attention, forward and backward " + shape, 0.0, 3.5 * flops, false, [&] {
    sao::ops::packed_attention(q, k, v, starts, options).backward(grad);
    for (const at::Tensor* x : {&q, &k, &v}) x->mutable_grad() = at::Tensor();
  });
}

void pointwise(Bench& bench, std::int64_t rows, std::int64_t hidden, std::int64_t inner, std::int64_t heads,
               std::int64_t kv_heads, std::int64_t head_dim) {
  const at::NoGradGuard no_grad;
  const double r = static_cast<double>(rows), h = static_cast<double>(hidden), i = static_cast<double>(inner);
  const at::Tensor x = Bench::bf16({rows, hidden}), update = Bench::bf16({rows, hidden}), w = Bench::bf16({hidden});
  const std::string of = fmt::format(" {} x ", rows);
  bench.run("rms_norm" + of + std::to_string(hidden), 4.0 * r * h, 0.0, true,
            [&] { sao::ops::rms_norm(x, w, {.zero_centered = true}); });
  bench.run("residual_norm" + of + std::to_string(hidden), 8.0 * r * h, 0.0, true,
            [&] { sao::ops::residual_norm(x, update, w, w, {.zero_centered = true}); });
  const at::Tensor gate_up = Bench::bf16({rows, 2 * inner});
  bench.run("gated_activation" + of + std::to_string(inner), 6.0 * r * i, 0.0, true, [&] {
    sao::ops::gated_activation(gate_up.narrow(1, 0, inner), gate_up.narrow(1, inner, inner), sao::ops::Gate::kGeluTanh);
  });
  const at::Tensor qkv = Bench::bf16({rows, (heads + 2 * kv_heads) * head_dim});
  const auto columns = [&](std::int64_t begin, std::int64_t count) {
    return qkv.narrow(1, begin * head_dim, count * head_dim).view({rows, count, head_dim});
  };
  at::Tensor keys = Bench::bf16({rows, kv_heads, head_dim, sao::ops::kCacheBlock}),
             values = Bench::bf16({rows, kv_heads, sao::ops::kCacheBlock, head_dim});
  const at::Tensor angles = at::rand({4096, head_dim / 2}, at::kCUDA),
                   positions = at::arange(rows).to(at::kCUDA) % 4096,
                   slots = at::arange(rows).to(at::kCUDA) * sao::ops::kCacheBlock + 5;
  bench.run("rotary_append" + of + fmt::format("heads {}:{} of {}", heads, kv_heads, head_dim),
            4.0 * r * static_cast<double>((heads + 2 * kv_heads) * head_dim), 0.0, true, [&] {
              sao::ops::rotary_append(columns(0, heads), columns(heads, kv_heads), columns(heads + kv_heads, kv_heads),
                                      positions, angles, angles, slots, keys, values);
            });
  bench.run("rotary" + of + fmt::format("{} heads of {}", heads, head_dim),
            4.0 * r * static_cast<double>(heads * head_dim), 0.0, true,
            [&] { sao::ops::rotary(columns(0, heads), positions, angles, angles); });
}

void draw(Bench& bench, std::int64_t rows, std::int64_t vocabulary) {
  const at::Tensor logits = Bench::bf16({rows, vocabulary});
  std::vector<sao::ops::Draw> draws;
  for (std::int64_t row = 0; row < rows; ++row) draws.push_back({.row = row, .uniform = 0.37});
  std::vector<sao::ops::Drawn> drawn(draws.size());
  bench.run(fmt::format("sample {} of {}, with its copies", rows, vocabulary),
            2.0 * static_cast<double>(logits.numel()), 0.0, false,
            [&] { sao::ops::sample(logits, draws, {}, drawn, 30.0); });
}

void log_probs(Bench& bench, std::int64_t rows, std::int64_t vocabulary, std::int64_t hidden) {
  const at::Tensor h = Bench::bf16({rows, hidden}), w = Bench::bf16({vocabulary, hidden}) * 0.02;
  const at::Tensor targets = at::randint(vocabulary, {rows}, at::kLong).to(at::kCUDA);
  const at::Tensor grad = at::ones({rows}, at::kCUDA);
  h.requires_grad_(true), w.requires_grad_(true);
  // The logits, again in the backward pass, and two gradients.
  bench.run(fmt::format("log_probs, forward and backward {} x {} x {}", rows, vocabulary, hidden), 0.0,
            8.0 * static_cast<double>(rows * vocabulary) * static_cast<double>(hidden), false, [&] {
              sao::ops::log_probs(h, w, targets, {.logit_softcap = 30.0, .chunk_tokens = 2048}).backward(grad);
              h.mutable_grad() = at::Tensor(), w.mutable_grad() = at::Tensor();
            });
}

void sums(Bench& bench, std::int64_t count) {
  const at::Tensor x = Bench::bf16({count});
  at::Tensor sum = at::zeros({count}, at::kCUDA);
  bench.run(fmt::format("add_widened {}", count), 10.0 * static_cast<double>(count), 0.0, true,
            [&] { sao::ops::add_widened_(sum, x); });
}

}  // namespace

int main(int argc, char** argv) try {
  try {
    sao::ops::enable_cuda(0);
  } catch (const sao::ResourceError& error) {
    fmt::print("cuda_bench: nothing measured: {}\n", error.what());
    return 0;
  }
  constexpr std::string_view kFlag = "--benchmark_filter=";
  std::string_view filter = argc > 1 ? argv[1] : "";
  if (filter.starts_with(kFlag)) filter.remove_prefix(kFlag.size());
  Bench bench(filter);
  decode(bench, 256, 256, 256, 8, 4, 256, 50.0);
  decode(bench, 256, 128, 384, 8, 4, 256, 50.0);
  decode(bench, 256, 512, 1024, 8, 4, 256, 50.0);
  decode(bench, 1, 8192, 8192, 8, 4, 256, 50.0);
  decode(bench, 256, 128, 384, 16, 8, 256, 50.0);
  decode(bench, 256, 128, 384, 32, 8, 128, 0.0);
  attention(bench, 4, 1024, 8, 4, 256);
  attention(bench, 4, 1024, 32, 8, 128);
  pointwise(bench, 256, 2304, 9216, 8, 4, 256);
  pointwise(bench, 8192, 2304, 9216, 8, 4, 256);
  draw(bench, 256, 256000);
  log_probs(bench, 6144, 256000, 2304);
  sums(bench, 1 << 28);
} catch (const sao::Error& error) {
  std::fprintf(stderr, "cuda_bench: %s\n", error.what());
  return 1;
}
