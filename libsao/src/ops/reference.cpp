// SPDX-License-Identifier: Apache-2.0
#include "ops/reference.h"

#include <ATen/ATen.h>

#include <limits>
#include <vector>

namespace sao::ops::reference {
namespace {

// One sequence: q [n, heads, D] are its last n tokens, k and v [m, kv_heads, D] all of them.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const AttentionOptions& options) {
  const std::int64_t n = q.size(0), m = k.size(0), group = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(group, 1).permute({1, 2, 0});    // [heads, D, m]
  const at::Tensor values = v.repeat_interleave(group, 1).permute({1, 0, 2});  // [heads, m, D]
  at::Tensor scores = at::matmul(q.permute({1, 0, 2}), keys) * options.scale;  // [heads, n, m]
  if (options.softcap > 0.0) scores = at::tanh(scores / options.softcap) * options.softcap;
  const at::Tensor query_index = at::arange(m - n, m, scores.options().dtype(at::kLong)).unsqueeze(1);
  const at::Tensor key_index = at::arange(m, query_index.options()).unsqueeze(0);
  at::Tensor hidden = key_index > query_index;
  if (options.window > 0) hidden = hidden.logical_or(key_index <= query_index - options.window);
  scores = scores.masked_fill(hidden, -std::numeric_limits<double>::infinity());
  const at::ScalarType softmax_type = scores.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor weights = at::softmax(scores, -1, softmax_type).to(q.scalar_type());
  return at::matmul(weights, values).permute({1, 0, 2}).reshape({n, -1});
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options) {
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor xf = x.to(wide);
  const at::Tensor normalised = xf * at::rsqrt(xf.pow(2).mean(-1, true) + options.eps);
  if (options.zero_centered) return (normalised * (weight.to(wide) + 1.0)).to(x.scalar_type());
  return normalised.to(x.scalar_type()) * weight;
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines,
                  const at::Tensor& sines) {
  const at::Tensor c = cosines.index_select(0, positions).unsqueeze(1).to(x.scalar_type());  // [T, 1, D / 2]
  const at::Tensor s = sines.index_select(0, positions).unsqueeze(1).to(x.scalar_type());
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1);
}

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Gate kind) {
  if (kind == Gate::kSilu) return at::silu(gate) * up;
  return at::gelu(gate, kind == Gate::kGeluTanh ? "tanh" : "none") * up;
}

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                            const AttentionOptions& options, const at::Tensor& parents) {
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  std::vector<at::Tensor> outputs;
  for (std::int64_t s = 0; s + 1 < starts.size(0); ++s) {
    const auto rows = [&](const at::Tensor& x, std::int64_t of) {
      return x.narrow(0, start[of], start[of + 1] - start[of]);
    };
    at::Tensor keys = rows(k, s), values = rows(v, s);
    const std::int64_t parent = parents.defined() ? parents[s].item<std::int64_t>() : -1;
    if (parent >= 0) {
      keys = at::cat({rows(k, parent), keys});
      values = at::cat({rows(v, parent), values});
    }
    outputs.push_back(attend(rows(q, s), keys, values, options));
  }
  return at::cat(outputs);
}

at::Tensor paged_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                           const AttentionOptions& options) {
  const at::Tensor starts_cpu = starts.to(at::kCPU), lengths_cpu = lengths.to(at::kCPU);
  const std::int64_t* start = starts_cpu.const_data_ptr<std::int64_t>();
  const std::int64_t kv_heads = keys.size(1), head_dim = keys.size(2);
  std::vector<at::Tensor> outputs;
  for (std::int64_t s = 0; s + 1 < starts.size(0); ++s) {
    const std::int64_t length = lengths_cpu.const_data_ptr<std::int64_t>()[s];
    const std::int64_t blocks = (length + kCacheBlock - 1) / kCacheBlock;
    const at::Tensor table = block_tables[s].narrow(0, 0, blocks).to(at::kLong).to(keys.device());
    const at::Tensor k =
        keys.index_select(0, table).permute({0, 3, 1, 2}).reshape({-1, kv_heads, head_dim}).narrow(0, 0, length);
    const at::Tensor v =
        values.index_select(0, table).permute({0, 2, 1, 3}).reshape({-1, kv_heads, head_dim}).narrow(0, 0, length);
    outputs.push_back(attend(q.narrow(0, start[s], start[s + 1] - start[s]), k, v, options));
  }
  return at::cat(outputs);
}

}  // namespace sao::ops::reference
