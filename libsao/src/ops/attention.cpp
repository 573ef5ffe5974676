// SPDX-License-Identifier: Apache-2.0
#include "sao/ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/checks.h"
#include "ops/cuda_dispatch.h"
#include "ops/kernels.h"
#include "ops/reference.h"
#include "ops/shares.h"
#include "sao/base/error.h"
#include "sao/ops/pointwise.h"

namespace sao::ops {
namespace {

static_assert(kAttentionBlock == kCacheBlock);

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t B = kAttentionBlock;
constexpr std::int64_t kTile = 4;  // query rows that a call of the backward kernel takes

bool on_cpu(const at::Tensor& x) { return x.device().is_cpu() && x.scalar_type() == at::kFloat; }

bool has_kernel(const at::Tensor& q) {
  return on_cpu(q) || (q.size(2) <= cuda::kWidestHead && cuda::kernels_for(q) != nullptr);
}

// Half precision on the CPU: computed in float32, whose kernel needs no memory that grows with the square of the
// length.
bool is_widened(const at::Tensor& q) {
  return q.device().is_cpu() && (q.scalar_type() == at::kBFloat16 || q.scalar_type() == at::kHalf);
}

bool alike(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

void check_parents(const at::Tensor& parents, std::int64_t sequences) {
  if (!parents.defined()) return;
  if (parents.dim() != 1 || parents.size(0) != sequences || parents.scalar_type() != at::kLong ||
      !parents.device().is_cpu() || !parents.is_contiguous()) {
    throw InputError(
        fmt::format("packed_attention: parents {}, expected [{}] int64 on the CPU", describe(parents), sequences));
  }
  const std::int64_t* parent = parents.const_data_ptr<std::int64_t>();
  for (std::int64_t s = 0; s < sequences; ++s) {
    if (parent[s] < -1 || parent[s] >= s || (parent[s] >= 0 && parent[parent[s]] != -1)) {
      throw InputError(fmt::format(
          "packed_attention: parent {} of sequence {}, expected -1 or an earlier sequence that has none itself",
          parent[s], s));
    }
  }
}

void check_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts) {
  if (q.dim() != 3 || k.dim() != 3 || !k.sizes().equals(v.sizes()) || q.size(0) != k.size(0) ||
      q.size(2) != k.size(2) || k.size(1) < 1 || q.size(1) % k.size(1) != 0 || !alike(q, k) || !alike(q, v) ||
      !starts.device().is_cpu()) {
    throw InputError(
        fmt::format("packed_attention: q {}, k {}, v {}, expected q [T, heads, D] and k, v [T, kv_heads, D] of one "
                    "dtype and device, with heads a multiple of kv_heads, and starts on the CPU",
                    describe(q), describe(k), describe(v)));
  }
  check_starts("packed_attention", starts, q.size(0));
}

// keys [blocks, kv_heads, D, kCacheBlock], values [blocks, kv_heads, kCacheBlock, D]
bool is_cache(const at::Tensor& keys, const at::Tensor& values) {
  return keys.dim() == 4 && values.dim() == 4 && keys.size(3) == kCacheBlock && keys.size(1) > 0 &&
         keys.transpose(2, 3).sizes().equals(values.sizes()) && alike(keys, values) && keys.is_contiguous() &&
         values.is_contiguous();
}

void check_append(const at::Tensor& k, const at::Tensor& v, const at::Tensor& slots, const at::Tensor& keys,
                  const at::Tensor& values) {
  if (!is_cache(keys, values) || k.dim() != 3 || !k.sizes().equals(v.sizes()) || k.size(1) != keys.size(1) ||
      k.size(2) != keys.size(2) || slots.dim() != 1 || slots.size(0) != k.size(0) || slots.scalar_type() != at::kLong ||
      !slots.is_contiguous()) {
    throw InputError(fmt::format(
        "append_to_cache: k {}, v {}, slots {}, keys {}, values {}, expected k, v [T, kv_heads, D], slots "
        "[T] int64, keys [blocks, kv_heads, D, {}], values [blocks, kv_heads, {}, D]",
        describe(k), describe(v), describe(slots), describe(keys), describe(values), kCacheBlock, kCacheBlock));
  }
  check_range("append_to_cache", "slot", slots, keys.size(0) * kCacheBlock);
}

void check_paged(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& starts,
                 const at::Tensor& lengths, const at::Tensor& block_tables) {
  if (!is_cache(keys, values) || !alike(q, keys) || q.dim() != 3 || q.size(2) != keys.size(2) ||
      q.size(1) % keys.size(1) != 0 || lengths.dim() != 1 || lengths.scalar_type() != at::kLong ||
      !lengths.is_contiguous() || starts.numel() != lengths.size(0) + 1 || block_tables.dim() != 2 ||
      block_tables.scalar_type() != at::kInt || block_tables.size(0) != lengths.size(0) ||
      !block_tables.is_contiguous()) {
    throw InputError(
        fmt::format("paged_attention: q {}, keys {}, values {}, starts {}, lengths {}, block_tables {}, expected q [T, "
                    "heads, D], keys [blocks, kv_heads, D, {}], values [blocks, kv_heads, {}, D] of one dtype, starts "
                    "[S + 1] and lengths [S] int64, block_tables [S, max_blocks] int32",
                    describe(q), describe(keys), describe(values), describe(starts), describe(lengths),
                    describe(block_tables), kCacheBlock, kCacheBlock));
  }
  check_starts("paged_attention", starts, q.size(0));
  check_range("paged_attention", "length", lengths, block_tables.size(1) * kCacheBlock + 1);
  check_range("paged_attention", "block", block_tables, keys.size(0));
  if (!starts.device().is_cpu() || !lengths.device().is_cpu()) return;
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  for (std::int64_t s = 0; s < lengths.size(0); ++s) {
    const std::int64_t length = lengths.const_data_ptr<std::int64_t>()[s];
    if (length < start[s + 1] - start[s]) {
      throw InputError(fmt::format("paged_attention: length {} of sequence {}, expected at least its {} new tokens",
                                   length, s, start[s + 1] - start[s]));
    }
  }
}

// Rows of one head of a strided [T, heads, D] tensor.
struct HeadRows {
  HeadRows(const at::Tensor& x, std::int64_t head)
      : data(x.const_data_ptr<float>() + head * x.stride(1)), stride(x.stride(0)) {}
  const float* operator[](std::int64_t row) const { return data + row * stride; }
  const float* data;
  std::int64_t stride;
};

at::Tensor rows_contiguous(const at::Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }

// What a sequence sees: its parent's tokens, then its own. Index j of it is a row of the pack.
struct Seen {
  std::int64_t parent_begin, parent_length, begin, length;

  std::int64_t total() const { return parent_length + length; }
  std::int64_t operator[](std::int64_t j) const {
    return j < parent_length ? parent_begin + j : begin + j - parent_length;
  }
};

Seen seen_by(const at::Tensor& starts, const at::Tensor& parents, std::int64_t s) {
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  const std::int64_t parent = parents.defined() ? parents.const_data_ptr<std::int64_t>()[s] : -1;
  Seen seen{.parent_begin = 0, .parent_length = 0, .begin = start[s], .length = start[s + 1] - start[s]};
  if (parent >= 0) {
    seen.parent_begin = start[parent];
    seen.parent_length = start[parent + 1] - start[parent];
  }
  return seen;
}

// The rows of a head that a sequence sees as blocks of 16: [16][D] with zero rows at the end, or [D][16] transposed.
class Blocks {
 public:
  void copy(const HeadRows& rows, const Seen& seen, std::int64_t head_dim) {
    prepare(seen.total(), head_dim, B * head_dim);
    for (std::int64_t j = 0; j < seen.total(); ++j) {
      std::memcpy(storage_.data() + j * head_dim, rows[seen[j]], sizeof(float) * static_cast<std::size_t>(head_dim));
    }
  }
  void transpose(const HeadRows& rows, const Seen& seen, std::int64_t head_dim) {
    prepare(seen.total(), head_dim, B * head_dim);
    for (std::int64_t j = 0; j < seen.total(); ++j) {
      const float* row = rows[seen[j]];
      float* block = storage_.data() + (j / B) * B * head_dim + j % B;
      for (std::int64_t d = 0; d < head_dim; ++d) block[d * B] = row[d];
    }
  }
  const float* const* pointers() const { return pointers_.data(); }
  const float* rows() const { return storage_.data(); }

 private:
  void prepare(std::int64_t length, std::int64_t head_dim, std::int64_t block_floats) {
    const std::int64_t blocks = (length + B - 1) / B;
    storage_.assign(static_cast<std::size_t>(blocks * B * head_dim), 0.0f);
    pointers_.resize(static_cast<std::size_t>(blocks));
    for (std::int64_t b = 0; b < blocks; ++b)
      pointers_[static_cast<std::size_t>(b)] = storage_.data() + b * block_floats;
  }
  std::vector<float> storage_;
  std::vector<const float*> pointers_;
};

std::int64_t first_key(std::int64_t position, std::int64_t window) {
  return window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
}

// Forward over packed sequences. log_sum_exp: [heads, T], or undefined when not wanted.
at::Tensor packed_forward(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                          const at::Tensor& starts, const at::Tensor& parents, const AttentionOptions& options,
                          at::Tensor* log_sum_exp) {
  if (const cuda::Table* gpu = cuda::kernels_for(q_in)) {
    return gpu->packed_attention(q_in, k_in, v_in, starts, parents, options, log_sum_exp);
  }
  const at::Tensor q = rows_contiguous(q_in), k = rows_contiguous(k_in), v = rows_contiguous(v_in);
  const std::int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2), kv_heads = k.size(1);
  const std::int64_t group = heads / kv_heads, sequences = starts.size(0) - 1;
  at::Tensor out = at::empty({tokens, heads * head_dim}, q.options().requires_grad(false));
  if (log_sum_exp != nullptr) *log_sum_exp = at::empty({heads, tokens}, out.options());
  float* lse = log_sum_exp != nullptr ? log_sum_exp->mutable_data_ptr<float>() : nullptr;
  float* out_data = out.mutable_data_ptr<float>();

  // Heads first: threads take all sequences of some heads, which are equal shares whatever the sequences' lengths.
  const std::int64_t tile = kernels().attention_rows;
  at::parallel_for(0, sequences * kv_heads, 1, [&](std::int64_t task_begin, std::int64_t task_end) {
    Blocks keys, values;
    std::vector<float> scores;
    for (std::int64_t task = task_begin; task < task_end; ++task) {
      const std::int64_t s = task % sequences, kv_head = task / sequences;
      const Seen seen = seen_by(starts, parents, s);
      keys.transpose(HeadRows(k, kv_head), seen, head_dim);
      values.copy(HeadRows(v, kv_head), seen, head_dim);
      scores.resize(static_cast<std::size_t>(tile * ((seen.total() + B - 1) / B) * B));
      AttentionRow rows[kMostAttentionRows];
      std::int64_t filled = 0;
      const auto flush = [&] {
        if (filled > 0) {
          kernels().attention(filled, rows, head_dim, keys.pointers(), values.pointers(),
                              static_cast<float>(options.scale), static_cast<float>(options.softcap), scores.data());
        }
        filled = 0;
      };
      for (std::int64_t i = seen.parent_length; i < seen.total(); ++i) {
        for (std::int64_t g = 0; g < group; ++g) {
          const std::int64_t head = kv_head * group + g, token = seen[i];
          rows[filled++] = {.query = HeadRows(q, head)[token],
                            .out = out_data + token * heads * head_dim + head * head_dim,
                            .log_sum_exp = lse == nullptr ? nullptr : lse + head * tokens + token,
                            .first_key = first_key(i, options.window),
                            .last_key = i};
          if (filled == tile) flush();
        }
      }
      flush();
    }
  });
  return out;
}

// Sequences that stand alone, each followed by those that continue it: what must be worked on together, because
// gradients of the shared keys and values add up.
std::vector<std::vector<std::int64_t>> families(std::int64_t sequences, const at::Tensor& parents) {
  std::vector<std::vector<std::int64_t>> all;
  std::vector<std::size_t> family(static_cast<std::size_t>(sequences));
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t parent = parents.defined() ? parents.const_data_ptr<std::int64_t>()[s] : -1;
    if (parent < 0) all.emplace_back();
    const std::size_t index = parent < 0 ? all.size() - 1 : family[static_cast<std::size_t>(parent)];
    family[static_cast<std::size_t>(s)] = index;
    all[index].push_back(s);
  }
  return all;
}

struct PackedAttention : torch::autograd::Function<PackedAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& starts, const at::Tensor& parents, double scale, double softcap,
                            std::int64_t window) {
    at::Tensor log_sum_exp;
    at::Tensor out =
        packed_forward(q, k, v, starts, parents, {.scale = scale, .softcap = softcap, .window = window}, &log_sum_exp);
    context->save_for_backward({q, k, v, starts, parents, out, log_sum_exp});
    context->saved_data["scale"] = scale;
    context->saved_data["softcap"] = softcap;
    context->saved_data["window"] = window;
    return out;
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &starts = saved[3], &parents = saved[4], &out = saved[5], &log_sum_exp = saved[6];
    if (const cuda::Table* gpu = cuda::kernels_for(saved[0])) {
      const AttentionOptions options{.scale = context->saved_data["scale"].toDouble(),
                                     .softcap = context->saved_data["softcap"].toDouble(),
                                     .window = context->saved_data["window"].toInt()};
      const auto [dq, dk, dv] = gpu->packed_attention_backward(saved[0], saved[1], saved[2], starts, parents, out,
                                                               log_sum_exp, grads[0], options);
      return {dq, dk, dv, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
    }
    const at::Tensor q = rows_contiguous(saved[0]), k = rows_contiguous(saved[1]), v = rows_contiguous(saved[2]);
    const at::Tensor out_grad = grads[0].contiguous();
    const float scale = static_cast<float>(context->saved_data["scale"].toDouble());
    const float softcap = static_cast<float>(context->saved_data["softcap"].toDouble());
    const std::int64_t window = context->saved_data["window"].toInt();
    const std::int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2), kv_heads = k.size(1);
    const std::int64_t group = heads / kv_heads, width = heads * head_dim;
    at::Tensor q_grad = at::empty({tokens, heads, head_dim}, q.options());
    at::Tensor k_grad = at::zeros({tokens, kv_heads, head_dim}, q.options());
    at::Tensor v_grad = at::zeros({tokens, kv_heads, head_dim}, q.options());
    float* dq = q_grad.mutable_data_ptr<float>();
    float* dk = k_grad.mutable_data_ptr<float>();
    float* dv = v_grad.mutable_data_ptr<float>();
    const float* o = out.const_data_ptr<float>();
    const float* d_out = out_grad.const_data_ptr<float>();
    const float* lse = log_sum_exp.const_data_ptr<float>();
    const std::vector<std::vector<std::int64_t>> all = families(starts.size(0) - 1, parents);

    const auto tasks = static_cast<std::int64_t>(all.size()) * kv_heads;
    at::parallel_for(0, tasks, 1, [&](std::int64_t task_begin, std::int64_t task_end) {
      Blocks keys_t, values_t, keys;
      std::vector<float> scratch, dk_rows, dv_rows;
      const auto sequence = [&](std::int64_t s, std::int64_t kv_head) {
        const Seen seen = seen_by(starts, parents, s);
        keys_t.transpose(HeadRows(k, kv_head), seen, head_dim);
        values_t.transpose(HeadRows(v, kv_head), seen, head_dim);
        keys.copy(HeadRows(k, kv_head), seen, head_dim);
        scratch.resize(static_cast<std::size_t>(2 * kTile * ((seen.total() + B - 1) / B) * B));
        dk_rows.assign(static_cast<std::size_t>(seen.total() * head_dim), 0.0f);
        dv_rows.assign(static_cast<std::size_t>(seen.total() * head_dim), 0.0f);
        AttentionBackwardRow rows[kTile];
        std::int64_t filled = 0;
        const auto flush = [&] {
          if (filled > 0) {
            kernels().attention_backward(filled, rows, head_dim, keys_t.pointers(), values_t.pointers(), keys.rows(),
                                         scale, softcap, dk_rows.data(), dv_rows.data(), scratch.data());
          }
          filled = 0;
        };
        for (std::int64_t i = seen.parent_length; i < seen.total(); ++i) {
          for (std::int64_t g = 0; g < group; ++g) {
            const std::int64_t head = kv_head * group + g, token = seen[i], at = token * width + head * head_dim;
            rows[filled++] = {.query = HeadRows(q, head)[token],
                              .out = o + at,
                              .out_grad = d_out + at,
                              .log_sum_exp = lse[head * tokens + token],
                              .query_grad = dq + at,
                              .first_key = first_key(i, window),
                              .last_key = i};
            if (filled == kTile) flush();
          }
        }
        flush();
        for (std::int64_t j = 0; j < seen.total(); ++j) {
          const std::int64_t to = (seen[j] * kv_heads + kv_head) * head_dim;
          for (std::int64_t d = 0; d < head_dim; ++d) {
            dk[to + d] += dk_rows[static_cast<std::size_t>(j * head_dim + d)];
            dv[to + d] += dv_rows[static_cast<std::size_t>(j * head_dim + d)];
          }
        }
      };
      for (std::int64_t task = task_begin; task < task_end; ++task) {
        for (const std::int64_t s : all[static_cast<std::size_t>(task / kv_heads)]) sequence(s, task % kv_heads);
      }
    });
    return {q_grad, k_grad, v_grad, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// One sequence at a time, its blocks of the cache in float32.
at::Tensor paged_widened(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                         const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                         const AttentionOptions& options) {
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  const std::int64_t* length = lengths.const_data_ptr<std::int64_t>();
  at::Tensor out = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  for (std::int64_t s = 0; s < lengths.size(0); ++s) {
    const std::int64_t count = start[s + 1] - start[s], blocks = (length[s] + B - 1) / B;
    const at::Tensor table = block_tables[s].narrow(0, 0, blocks);
    out.narrow(0, start[s], count)
        .copy_(paged_attention(q.narrow(0, start[s], count).to(at::kFloat), keys.index_select(0, table).to(at::kFloat),
                               values.index_select(0, table).to(at::kFloat), at::tensor({std::int64_t{0}, count}),
                               lengths.narrow(0, s, 1), at::arange(blocks, at::kInt).unsqueeze(0), options));
  }
  return out;
}

}  // namespace

at::Tensor packed_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& starts,
                            const AttentionOptions& options, const at::Tensor& parents) {
  check_packed(q, k, v, starts);
  check_parents(parents, starts.size(0) - 1);
  if (is_widened(q)) {
    return packed_attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), starts, options, parents)
        .to(q.scalar_type());
  }
  if (!has_kernel(q)) return reference::packed_attention(q, k, v, starts, options, parents);
  if (at::GradMode::is_enabled() && (q.requires_grad() || k.requires_grad() || v.requires_grad())) {
    const at::Tensor known = parents.defined() ? parents : at::full({starts.size(0) - 1}, -1, at::kLong);
    return PackedAttention::apply(q, k, v, starts, known, options.scale, options.softcap, options.window);
  }
  return packed_forward(q, k, v, starts, parents, options, nullptr);
}

void append_to_cache(const at::Tensor& k, const at::Tensor& v, const at::Tensor& slots, at::Tensor& keys,
                     at::Tensor& values) {
  check_append(k, v, slots, keys, values);
  const std::int64_t kv_heads = keys.size(1), head_dim = keys.size(2), tokens = k.size(0);
  if (const cuda::Table* gpu = cuda::kernels_for(keys); gpu != nullptr && k.scalar_type() == keys.scalar_type()) {
    return gpu->append_to_cache(k, v, slots, keys, values);
  }
  if (!on_cpu(keys)) {
    const at::Tensor at_slots = slots.to(keys.device());
    const at::Tensor block = at_slots.div(kCacheBlock, "floor"), offset = at_slots.remainder(kCacheBlock);
    keys.permute({0, 3, 1, 2}).index_put_({block, offset}, k.to(keys.scalar_type()));
    values.permute({0, 2, 1, 3}).index_put_({block, offset}, v.to(values.scalar_type()));
    return;
  }
  const at::Tensor k_rows = rows_contiguous(k.to(at::kFloat)), v_rows = rows_contiguous(v.to(at::kFloat));
  const std::int64_t* slot = slots.const_data_ptr<std::int64_t>();
  float* key_data = keys.mutable_data_ptr<float>();
  float* value_data = values.mutable_data_ptr<float>();
  at::parallel_for(0, tokens, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t block = slot[t] / B, offset = slot[t] % B;
      for (std::int64_t h = 0; h < kv_heads; ++h) {
        const float* key = HeadRows(k_rows, h)[t];
        const std::int64_t base = (block * kv_heads + h) * head_dim * B;
        for (std::int64_t d = 0; d < head_dim; ++d) key_data[base + d * B + offset] = key[d];
        std::memcpy(value_data + base + offset * head_dim, HeadRows(v_rows, h)[t],
                    sizeof(float) * static_cast<std::size_t>(head_dim));
      }
    }
  });
}

at::Tensor rotary_append(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& positions,
                         const at::Tensor& cosines, const at::Tensor& sines, const at::Tensor& slots, at::Tensor& keys,
                         at::Tensor& values) {
  check_append(k, v, slots, keys, values);
  if (const cuda::Table* gpu = cuda::kernels_for(keys); gpu != nullptr && alike(q, keys) && alike(k, keys)) {
    return gpu->rotary_append(q, k, v, positions, cosines, sines, slots, keys, values);
  }
  append_to_cache(rotary(k, positions, cosines, sines), v, slots, keys, values);
  return rotary(q, positions, cosines, sines);
}

at::Tensor paged_attention(const at::Tensor& q_in, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                           const AttentionOptions& options) {
  check_paged(q_in, keys, values, starts, lengths, block_tables);
  if (is_widened(q_in)) return paged_widened(q_in, keys, values, starts, lengths, block_tables, options);
  if (!has_kernel(q_in)) return reference::paged_attention(q_in, keys, values, starts, lengths, block_tables, options);
  if (const cuda::Table* gpu = cuda::kernels_for(q_in)) {
    return gpu->paged_attention(q_in, keys, values, starts, lengths, block_tables, options);
  }
  const at::Tensor q = rows_contiguous(q_in);
  const std::int64_t heads = q.size(1), head_dim = q.size(2), kv_heads = keys.size(1), group = heads / kv_heads;
  const std::int64_t sequences = lengths.size(0), block_floats = kv_heads * head_dim * B;
  at::Tensor out = at::empty({q.size(0), heads * head_dim}, q.options());
  float* out_data = out.mutable_data_ptr<float>();
  const float* key_data = keys.const_data_ptr<float>();
  const float* value_data = values.const_data_ptr<float>();
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  const std::int64_t* length = lengths.const_data_ptr<std::int64_t>();
  const std::int32_t* table = block_tables.const_data_ptr<std::int32_t>();
  const std::int64_t table_stride = block_tables.stride(0);

  // Some of a sequence's new tokens each.
  struct Piece {
    std::int64_t sequence, begin, end;
  };
  constexpr std::int64_t kPieceTokens = 64;
  std::vector<Piece> pieces;
  double pairs = 0;
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t new_tokens = start[s + 1] - start[s];
    pairs += static_cast<double>(new_tokens * length[s]);
    for (std::int64_t begin = 0; begin < new_tokens; begin += kPieceTokens) {
      pieces.push_back({.sequence = s, .begin = begin, .end = std::min(new_tokens, begin + kPieceTokens)});
    }
  }
  const std::int64_t tile = kernels().attention_rows, count = static_cast<std::int64_t>(pieces.size());
  const bool is_small = 4.0 * pairs * static_cast<double>(heads * head_dim) < 4e5;  // a thread would not pay
  for_each_share(count * kv_heads, is_small ? count * kv_heads : 1, 64,
                 [&](std::int64_t task_begin, std::int64_t task_end, std::int64_t) {
                   std::vector<const float*> key_blocks, value_blocks;
                   std::vector<float> scores;
                   for (std::int64_t task = task_begin; task < task_end; ++task) {
                     const Piece& piece = pieces[static_cast<std::size_t>(task % count)];
                     const std::int64_t s = piece.sequence, kv_head = task / count;
                     const std::int64_t blocks = (length[s] + B - 1) / B, new_tokens = start[s + 1] - start[s];
                     key_blocks.resize(static_cast<std::size_t>(blocks));
                     value_blocks.resize(static_cast<std::size_t>(blocks));
                     for (std::int64_t b = 0; b < blocks; ++b) {
                       const std::int64_t at = table[s * table_stride + b] * block_floats + kv_head * head_dim * B;
                       key_blocks[static_cast<std::size_t>(b)] = key_data + at;
                       value_blocks[static_cast<std::size_t>(b)] = value_data + at;
                     }
                     scores.resize(static_cast<std::size_t>(tile * blocks * B));
                     AttentionRow rows[kMostAttentionRows];
                     std::int64_t filled = 0;
                     const auto flush = [&] {
                       if (filled > 0) {
                         kernels().attention(filled, rows, head_dim, key_blocks.data(), value_blocks.data(),
                                             static_cast<float>(options.scale), static_cast<float>(options.softcap),
                                             scores.data());
                       }
                       filled = 0;
                     };
                     for (std::int64_t i = piece.begin; i < piece.end; ++i) {
                       const std::int64_t position = length[s] - new_tokens + i, token = start[s] + i;
                       for (std::int64_t g = 0; g < group; ++g) {
                         const std::int64_t head = kv_head * group + g;
                         rows[filled++] = {.query = HeadRows(q, head)[token],
                                           .out = out_data + token * heads * head_dim + head * head_dim,
                                           .log_sum_exp = nullptr,
                                           .first_key = first_key(position, options.window),
                                           .last_key = position};
                         if (filled == tile) flush();
                       }
                     }
                     flush();
                   }
                 });
  return out;
}

}  // namespace sao::ops
