// SPDX-License-Identifier: Apache-2.0
// Tensors unpacked for the launchers of cuda_kernels.h. Callers have checked shapes; what is checked here would be our
// bug.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/cuda_dispatch.h"
#include "ops/cuda_kernels.h"
#include "ops/cuda_stream.h"
#include "sao/base/version.h"

namespace sao::ops::cuda {
namespace {

static_assert(kAttentionBlock == kCacheBlock && kMaxHeadDim == kWidestHead);

// Calls f with a value of the element type that x holds.
template <class F>
void with_type(const at::Tensor& x, F&& f) {
  if (x.scalar_type() == at::kFloat) {
    f(float{});
  } else {
    TORCH_INTERNAL_ASSERT(x.scalar_type() == at::kBFloat16);
    f(BFloat16{});
  }
}

template <class T>
const T* in(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
T* out(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

void check_alike(const at::Tensor& x, std::initializer_list<at::Tensor> others) {
  for (const at::Tensor& other : others) {
    TORCH_INTERNAL_ASSERT(other.scalar_type() == x.scalar_type() && other.device() == x.device());
  }
}

// A small tensor of indices on x's device, without waiting for what runs there: the copy comes from pinned memory.
at::Tensor on_device_of(const at::Tensor& x, const at::Tensor& indices, at::ScalarType dtype) {
  TORCH_INTERNAL_ASSERT(indices.scalar_type() == dtype);
  if (indices.device() == x.device()) return indices.contiguous();
  return indices.contiguous().pin_memory().to(x.device(), /*non_blocking=*/true);
}

at::Tensor floats_like(const at::Tensor& x, at::IntArrayRef sizes) {
  return at::empty(sizes, x.options().dtype(at::kFloat));
}

at::Tensor last_dense(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

template <class T>
HeadRows<T> head_rows(const at::Tensor& x) {  // [T, heads, D], the last dense
  return {in<T>(x), x.stride(0), x.stride(1)};
}

namespace on_tensors {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, const RmsNormOptions& options,
                    at::Tensor* inverse_rms) {
  check_alike(x, {weight});
  const at::Tensor input = x.contiguous(), scale = weight.contiguous();
  at::Tensor y = at::empty(input.sizes(), input.options());
  if (inverse_rms != nullptr) *inverse_rms = floats_like(x, {input.size(0)});
  on_stream(x, [&](void* stream) {
    with_type(x, [&](auto t) {
      using T = decltype(t);
      cuda::rms_norm<T>(input.size(0), input.size(1), in<T>(input), in<T>(scale), options.zero_centered,
                        static_cast<float>(options.eps), out<T>(y),
                        inverse_rms == nullptr ? nullptr : out<float>(*inverse_rms), stream);
    });
  });
  return y;
}

std::array<at::Tensor, 2> residual_norm(const at::Tensor& h, const at::Tensor& update, const at::Tensor& update_weight,
                                        const at::Tensor& weight, const RmsNormOptions& options) {
  check_alike(h, {update});
  const at::Tensor old = h.contiguous(), added = update.contiguous();
  at::Tensor sum = at::empty(old.sizes(), old.options()), y;
  if (weight.defined()) y = at::empty(old.sizes(), old.options());
  on_stream(h, [&](void* stream) {
    with_type(h, [&](auto t) {
      using T = decltype(t);
      const auto optional = [](const at::Tensor& x) { return x.defined() ? in<T>(x) : nullptr; };
      cuda::residual_norm<T>(old.size(0), old.size(1), in<T>(old), in<T>(added), optional(update_weight),
                             optional(weight), options.zero_centered, static_cast<float>(options.eps), out<T>(sum),
                             y.defined() ? out<T>(y) : nullptr, stream);
    });
  });
  return {sum, y};
}

std::array<at::Tensor, 2> rms_norm_backward(const at::Tensor& x, const at::Tensor& weight,
                                            const at::Tensor& inverse_rms, const at::Tensor& y_grad,
                                            bool zero_centered) {
  check_alike(x, {weight, y_grad});
  const at::Tensor input = x.contiguous(), scale = weight.contiguous(), grad = y_grad.contiguous();
  // A fixed number of partial sums: the result must not depend on the GPU.
  const std::int64_t parts = std::clamp<std::int64_t>(input.size(0), 1, 256);
  at::Tensor x_grad = at::empty(input.sizes(), input.options());
  at::Tensor weight_grads = floats_like(x, {parts, input.size(1)});
  on_stream(x, [&](void* stream) {
    with_type(x, [&](auto t) {
      using T = decltype(t);
      cuda::rms_norm_backward<T>(input.size(0), input.size(1), parts, in<T>(input), in<T>(scale), zero_centered,
                                 in<float>(inverse_rms), in<T>(grad), out<T>(x_grad), out<float>(weight_grads), stream);
    });
  });
  return {x_grad, weight_grads.sum(0).to(weight.scalar_type())};
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines,
                  float sign) {
  const std::int64_t tokens = x.size(0), heads = x.size(1), head_dim = x.size(2);
  const at::Tensor input = x.stride(2) == 1 && x.stride(1) == head_dim ? x : x.contiguous();
  const at::Tensor at_positions = on_device_of(x, positions, at::kLong);
  const at::Tensor c = cosines.contiguous(), s = sines.contiguous();
  TORCH_INTERNAL_ASSERT(c.scalar_type() == at::kFloat && c.device() == x.device() && s.scalar_type() == at::kFloat);
  at::Tensor y = at::empty({tokens, heads, head_dim}, x.options());
  on_stream(x, [&](void* stream) {
    with_type(x, [&](auto t) {
      using T = decltype(t);
      cuda::rotary<T>(tokens, heads, head_dim, in<T>(input), input.stride(0), in<std::int64_t>(at_positions),
                      in<float>(c), in<float>(s), sign, out<T>(y), stream);
    });
  });
  return y;
}

GateKind kernel_kind(Gate kind) { return kind == Gate::kGeluTanh ? GateKind::kGeluTanh : GateKind::kSilu; }

at::Tensor gated_activation(const at::Tensor& gate, const at::Tensor& up, Gate kind) {
  check_alike(gate, {up});
  const at::Tensor g = last_dense(gate), u = last_dense(up);
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  on_stream(gate, [&](void* stream) {
    with_type(gate, [&](auto t) {
      using T = decltype(t);
      cuda::gated_activation<T>(kernel_kind(kind), g.size(0), g.size(1), in<T>(g), g.stride(0), in<T>(u), u.stride(0),
                                out<T>(y), stream);
    });
  });
  return y;
}

std::array<at::Tensor, 2> gated_activation_backward(const at::Tensor& gate, const at::Tensor& up,
                                                    const at::Tensor& y_grad, Gate kind, bool consumes) {
  check_alike(gate, {up, y_grad});
  const at::Tensor g = gate.contiguous(), u = up.contiguous(), grad = y_grad.contiguous();
  at::Tensor gate_grad = consumes ? grad : at::empty(g.sizes(), g.options());
  at::Tensor up_grad = at::empty(g.sizes(), g.options());
  on_stream(gate, [&](void* stream) {
    with_type(gate, [&](auto t) {
      using T = decltype(t);
      cuda::gated_activation_backward<T>(kernel_kind(kind), g.numel(), in<T>(g), in<T>(u), in<T>(grad),
                                         out<T>(gate_grad), out<T>(up_grad), stream);
    });
  });
  return {gate_grad, up_grad};
}

void add_widened(at::Tensor& sum, const at::Tensor& x) {
  TORCH_INTERNAL_ASSERT(sum.is_contiguous() && sum.scalar_type() == at::kFloat && sum.sizes().equals(x.sizes()));
  const at::Tensor input = x.contiguous();
  on_stream(x, [&](void* stream) {
    with_type(x, [&](auto t) {
      using T = decltype(t);
      cuda::add_widened<T>(input.numel(), in<T>(input), out<float>(sum), stream);
    });
  });
}

at::Tensor softcapped(const at::Tensor& x, double cap) {
  const at::Tensor input = x.contiguous();
  at::Tensor y = floats_like(x, input.sizes());
  on_stream(x, [&](void* stream) {
    with_type(x, [&](auto t) {
      using T = decltype(t);
      cuda::softcapped<T>(input.numel(), in<T>(input), static_cast<float>(cap), out<float>(y), stream);
    });
  });
  return y;
}

void append_to_cache(const at::Tensor& k, const at::Tensor& v, const at::Tensor& slots, at::Tensor& keys,
                     at::Tensor& values) {
  check_alike(keys, {k, v, values});
  TORCH_INTERNAL_ASSERT(keys.is_contiguous() && values.is_contiguous());
  const at::Tensor k_rows = last_dense(k), v_rows = last_dense(v), at_slots = on_device_of(keys, slots, at::kLong);
  on_stream(keys, [&](void* stream) {
    with_type(keys, [&](auto t) {
      using T = decltype(t);
      cuda::append_to_cache<T>(k.size(0), keys.size(1), keys.size(2), head_rows<T>(k_rows), head_rows<T>(v_rows),
                               in<std::int64_t>(at_slots), out<T>(keys), out<T>(values), stream);
    });
  });
}

at::Tensor rotary_append(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                         const at::Tensor& positions, const at::Tensor& cosines, const at::Tensor& sines,
                         const at::Tensor& slots, at::Tensor& keys, at::Tensor& values) {
  check_alike(keys, {q_in, k_in, v_in, values});
  TORCH_INTERNAL_ASSERT(keys.is_contiguous() && values.is_contiguous());
  const at::Tensor q = last_dense(q_in), k = last_dense(k_in), v = last_dense(v_in);
  const at::Tensor at_positions = on_device_of(q, positions, at::kLong), at_slots = on_device_of(q, slots, at::kLong);
  const at::Tensor c = cosines.contiguous(), s = sines.contiguous();
  at::Tensor result = at::empty(q.sizes(), q.options());
  on_stream(q, [&](void* stream) {
    with_type(q, [&](auto t) {
      using T = decltype(t);
      RotaryAppend<T> a{};
      a.tokens = q.size(0);
      a.heads = q.size(1);
      a.kv_heads = k.size(1);
      a.head_dim = q.size(2);
      a.q = head_rows<T>(q);
      a.k = head_rows<T>(k);
      a.v = head_rows<T>(v);
      a.positions = in<std::int64_t>(at_positions);
      a.cosines = in<float>(c);
      a.sines = in<float>(s);
      a.slots = in<std::int64_t>(at_slots);
      a.q_out = out<T>(result);
      a.keys = out<T>(keys);
      a.values = out<T>(values);
      cuda::rotary_append<T>(a, stream);
    });
  });
  return result;
}

// A tensor of structs of 32-bit numbers, on x's device.
template <class Struct>
at::Tensor structs_on_device_of(const at::Tensor& x, const std::vector<Struct>& structs) {
  constexpr std::int64_t kInts = sizeof(Struct) / sizeof(std::int32_t);
  if (structs.empty()) return at::empty({0, kInts}, x.options().dtype(at::kInt));
  at::Tensor numbers = at::empty({static_cast<std::int64_t>(structs.size()), kInts}, at::TensorOptions(at::kInt));
  std::memcpy(numbers.mutable_data_ptr<std::int32_t>(), structs.data(), structs.size() * sizeof(Struct));
  return on_device_of(x, numbers, at::kInt);
}

// What a step of the paged cache is made of, on the device.
struct PagedStep {
  at::Tensor starts = {}, lengths = {}, tables = {};
  // Of the sequences with several new tokens: what packed attention takes, over keys that are gathered first.
  at::Tensor tiles = {}, pages = {};
  std::int64_t gathered = 0;  // keys
};

PagedStep new_step(const at::Tensor& q, const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& tables) {
  PagedStep step{.starts = on_device_of(q, starts, at::kLong),
                 .lengths = on_device_of(q, lengths, at::kLong),
                 .tables = on_device_of(q, tables, at::kInt)};
  if (!starts.device().is_cpu()) return step;
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  const std::int64_t* length = lengths.const_data_ptr<std::int64_t>();
  std::vector<AttentionTile> tiles;
  std::vector<GatheredPage> pages;
  const auto narrow = [](std::int64_t n) { return static_cast<std::int32_t>(n); };
  for (std::int64_t s = 0; s < lengths.size(0); ++s) {
    const std::int64_t count = start[s + 1] - start[s], before = length[s] - count;
    if (count < 2) continue;
    for (std::int64_t first = (count - 1) / kTileRows * kTileRows; first >= 0; first -= kTileRows) {
      tiles.push_back({.begin = narrow(step.gathered),
                       .length = narrow(length[s]),
                       .first = narrow(before + first),
                       .query_begin = narrow(start[s] - before),
                       .parent_begin = 0,
                       .parent_length = 0,
                       .first_child = 0,
                       .child_count = 0});
    }
    const std::int32_t* table = tables.const_data_ptr<std::int32_t>() + s * tables.stride(0);
    for (std::int64_t key = 0; key < length[s]; key += kAttentionBlock) {
      pages.push_back({.block = table[key / kAttentionBlock],
                       .row = narrow(step.gathered + key),
                       .count = narrow(std::min(kAttentionBlock, length[s] - key))});
    }
    step.gathered += length[s];
  }
  step.tiles = structs_on_device_of(q, tiles);
  step.pages = structs_on_device_of(q, pages);
  return step;
}

// It is the same in all layers of a model: a thread keeps its last one, for the stream on which it was copied, with
// what it was made of.
PagedStep step_of(const at::Tensor& q, const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& tables,
                  void* stream) {
  if (!starts.device().is_cpu()) return new_step(q, starts, lengths, tables);
  struct Kept {
    at::Tensor starts, lengths, tables;  // copies: the caller may write to its own
    void* stream = nullptr;
    PagedStep step;
  };
  static thread_local Kept kept;
  if (!kept.starts.defined() || kept.stream != stream || kept.step.starts.device() != q.device() ||
      !at::equal(kept.starts, starts) || !at::equal(kept.lengths, lengths) || !at::equal(kept.tables, tables)) {
    kept = {};
    PagedStep step = new_step(q, starts, lengths, tables);
    kept = {starts.clone(), lengths.clone(), tables.clone(), stream, std::move(step)};
  }
  return kept.step;
}

// Several new tokens of a sequence, on tensor cores.
bool prefill(const PagedAttention<BFloat16>& paged, const PagedStep& step, const at::Tensor& like, void* stream) {
  if (!step.tiles.defined() || paged.head_dim % 16 != 0) return false;
  PackedAttention<BFloat16> a{};
  a.tokens = paged.tokens;
  a.heads = paged.heads;
  a.kv_heads = paged.kv_heads;
  a.head_dim = paged.head_dim;
  a.q = paged.q;
  a.tiles = static_cast<const AttentionTile*>(step.tiles.const_data_ptr());
  a.tile_count = step.tiles.size(0);
  a.scale = paged.scale;
  a.softcap = paged.softcap;
  a.window = paged.window;
  a.out = paged.out;
  const at::Tensor rows = at::empty({2, step.gathered, a.kv_heads, a.head_dim}, like.options());
  BFloat16* keys = out<BFloat16>(rows);
  BFloat16* values = keys + rows.stride(0);
  a.k = {keys, a.kv_heads * a.head_dim, a.head_dim};
  a.v = {values, a.kv_heads * a.head_dim, a.head_dim};
  gather_pages<BFloat16>(step.pages.size(0), a.kv_heads, a.head_dim,
                         static_cast<const GatheredPage*>(step.pages.const_data_ptr()), paged.keys, paged.values, keys,
                         values, stream);
  return prefill_attention(a, stream);
}

at::Tensor paged_attention(const at::Tensor& q_in, const at::Tensor& keys, const at::Tensor& values,
                           const at::Tensor& starts, const at::Tensor& lengths, const at::Tensor& block_tables,
                           const AttentionOptions& options) {
  check_alike(q_in, {keys, values});
  TORCH_INTERNAL_ASSERT(keys.is_contiguous() && values.is_contiguous() && keys.size(2) <= kWidestHead);
  const at::Tensor q = last_dense(q_in);
  at::Tensor result = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  on_stream(q, [&](void* stream) {
    const bool several = q.size(0) > lengths.size(0);
    const PagedStep step = several ? step_of(q, starts, lengths, block_tables, stream)
                                   : PagedStep{.starts = on_device_of(q, starts, at::kLong),
                                               .lengths = on_device_of(q, lengths, at::kLong),
                                               .tables = on_device_of(q, block_tables, at::kInt)};
    with_type(q, [&](auto t) {
      using T = decltype(t);
      PagedAttention<T> a{};
      a.tokens = q.size(0);
      a.sequences = step.lengths.size(0);
      a.heads = q.size(1);
      a.kv_heads = keys.size(1);
      a.head_dim = q.size(2);
      a.q = head_rows<T>(q);
      a.keys = in<T>(keys);
      a.values = in<T>(values);
      a.starts = in<std::int64_t>(step.starts);
      a.lengths = in<std::int64_t>(step.lengths);
      a.tables = in<std::int32_t>(step.tables);
      a.table_stride = step.tables.size(1);
      a.scale = static_cast<float>(options.scale);
      a.softcap = static_cast<float>(options.softcap);
      a.window = options.window;
      a.out = out<T>(result);
      bool rest = several;  // to be computed without tensor cores
      if constexpr (std::is_same_v<T, BFloat16>) rest = several && !prefill(a, step, q, stream);
      if (rest || !decodes(a)) {
        cuda::paged_attention<T>(a, stream);
        return;
      }
      a.part_count = (step.tables.size(1) * kAttentionBlock + kDecodePart - 1) / kDecodePart;
      at::Tensor parts;
      if (a.part_count > 1) parts = floats_like(q, {a.sequences, a.heads, a.part_count, a.head_dim + 2});
      a.parts = parts.defined() ? out<float>(parts) : nullptr;
      cuda::paged_decode<T>(a, stream);
    });
  });
  return result;
}

// What packed attention works on, on the device.
struct PackedTiles {
  at::Tensor tiles = {}, children = {};
};

PackedTiles new_tiles(const at::Tensor& q, const std::vector<std::int64_t>& starts,
                      const std::vector<std::int64_t>& parents) {
  const auto narrow = [](std::int64_t n) { return static_cast<std::int32_t>(n); };
  const std::size_t sequences = parents.size();
  std::vector<AttentionTile> whole(sequences);  // of each sequence, with its first own position
  for (std::size_t s = 0; s < sequences; ++s) {
    AttentionTile& tile = whole[s];
    if (parents[s] >= 0) {
      AttentionTile& parent = whole[static_cast<std::size_t>(parents[s])];
      tile.parent_begin = parent.begin;
      tile.parent_length = parent.length;
      ++parent.child_count;
    }
    tile.begin = tile.query_begin = narrow(starts[s]) - tile.parent_length;
    tile.length = tile.parent_length + narrow(starts[s + 1] - starts[s]);
    tile.first = tile.parent_length;
  }
  std::int32_t count = 0;
  for (AttentionTile& tile : whole) {
    tile.first_child = count;
    count += tile.child_count;
  }
  std::vector<AttentionChild> children(static_cast<std::size_t>(count));
  std::vector<std::int32_t> listed(sequences);
  for (std::size_t s = 0; s < sequences; ++s) {
    if (parents[s] < 0) continue;
    const auto parent = static_cast<std::size_t>(parents[s]);
    children[static_cast<std::size_t>(whole[parent].first_child + listed[parent]++)] = {whole[s].begin,
                                                                                        whole[s].length};
  }
  // The last tile of a sequence sees the most keys and comes first, so that none is left for the end. Parents come
  // after the others: they see fewer keys, and most queries see theirs.
  std::vector<AttentionTile> tiles;
  for (const bool of_parents : {false, true}) {
    for (const AttentionTile& of : whole) {
      if ((of.child_count > 0) != of_parents || of.first == of.length) continue;
      constexpr auto kRows = static_cast<std::int32_t>(kTileRows);
      for (std::int32_t first = (of.length - of.first - 1) / kRows * kRows; first >= 0; first -= kRows) {
        tiles.push_back(of);
        tiles.back().first += first;
      }
    }
  }
  return {structs_on_device_of(q, tiles), structs_on_device_of(q, children)};
}

// They are the same in all layers of a model: a thread keeps its last ones, for the stream on which they were copied.
PackedTiles tiles_of(const at::Tensor& q, const at::Tensor& starts, const at::Tensor& parents, void* stream) {
  struct Kept {
    std::vector<std::int64_t> starts, parents;
    void* stream = nullptr;
    PackedTiles tiles;
  };
  static thread_local Kept kept;
  const std::int64_t* start = starts.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> begins(start, start + starts.size(0)), parent_of(begins.size() - 1, -1);
  if (parents.defined()) {
    TORCH_INTERNAL_ASSERT(parents.size(0) == starts.size(0) - 1);
    std::copy_n(parents.const_data_ptr<std::int64_t>(), parent_of.size(), parent_of.begin());
  }
  if (!kept.tiles.tiles.defined() || kept.stream != stream || kept.tiles.tiles.device() != q.device() ||
      kept.starts != begins || kept.parents != parent_of) {
    kept = {};
    PackedTiles tiles = new_tiles(q, begins, parent_of);
    kept = {std::move(begins), std::move(parent_of), stream, std::move(tiles)};
  }
  return kept.tiles;
}

template <class T>
PackedAttention<T> packed_arguments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    const PackedTiles& packed, const at::Tensor& result,
                                    const AttentionOptions& options, float* log_sum_exp) {
  PackedAttention<T> a{};
  a.tokens = q.size(0);
  a.heads = q.size(1);
  a.kv_heads = k.size(1);
  a.head_dim = q.size(2);
  a.q = head_rows<T>(q);
  a.k = head_rows<T>(k);
  a.v = head_rows<T>(v);
  a.tiles = static_cast<const AttentionTile*>(packed.tiles.const_data_ptr());
  a.tile_count = packed.tiles.size(0);
  a.children = static_cast<const AttentionChild*>(packed.children.const_data_ptr());
  a.scale = static_cast<float>(options.scale);
  a.softcap = static_cast<float>(options.softcap);
  a.window = options.window;
  a.out = static_cast<T*>(result.data_ptr());  // backward only reads it
  a.log_sum_exp = log_sum_exp;
  return a;
}

at::Tensor packed_attention(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
                            const at::Tensor& starts, const at::Tensor& parents, const AttentionOptions& options,
                            at::Tensor* log_sum_exp) {
  check_alike(q_in, {k_in, v_in});
  TORCH_INTERNAL_ASSERT(q_in.size(2) <= kWidestHead);
  const at::Tensor q = last_dense(q_in), k = last_dense(k_in), v = last_dense(v_in);
  at::Tensor result = at::empty({q.size(0), q.size(1) * q.size(2)}, q.options());
  if (log_sum_exp != nullptr) *log_sum_exp = floats_like(q, {q.size(1), q.size(0)});
  on_stream(q, [&](void* stream) {
    const PackedTiles tiles = tiles_of(q, starts, parents, stream);
    with_type(q, [&](auto t) {
      using T = decltype(t);
      float* sums = log_sum_exp == nullptr ? nullptr : out<float>(*log_sum_exp);
      cuda::packed_attention<T>(packed_arguments<T>(q, k, v, tiles, result, options, sums), stream);
    });
  });
  return result;
}

std::array<at::Tensor, 3> packed_attention_backward(const at::Tensor& q_in, const at::Tensor& k_in,
                                                    const at::Tensor& v_in, const at::Tensor& starts,
                                                    const at::Tensor& parents, const at::Tensor& result,
                                                    const at::Tensor& log_sum_exp, const at::Tensor& out_grad,
                                                    const AttentionOptions& options) {
  check_alike(q_in, {k_in, v_in, result, out_grad});
  const at::Tensor q = last_dense(q_in), k = last_dense(k_in), v = last_dense(v_in);
  const at::Tensor forward = result.contiguous(), grad = out_grad.contiguous();
  at::Tensor q_grad = at::empty(q.sizes(), q.options()), k_grad = at::empty(k.sizes(), k.options());
  at::Tensor v_grad = at::empty(v.sizes(), v.options()), delta = floats_like(q, {q.size(1), q.size(0)});
  on_stream(q, [&](void* stream) {
    const PackedTiles tiles = tiles_of(q, starts, parents, stream);
    with_type(q, [&](auto t) {
      using T = decltype(t);
      float* sums = static_cast<float*>(log_sum_exp.data_ptr());
      cuda::packed_attention_backward<T>(packed_arguments<T>(q, k, v, tiles, forward, options, sums), in<T>(grad),
                                         out<float>(delta), out<T>(q_grad), out<T>(k_grad), out<T>(v_grad), stream);
    });
  });
  return {q_grad, k_grad, v_grad};
}

at::Tensor draw(const at::Tensor& logits, double softcap, const at::Tensor& draws, bool given,
                const SampleOptions& options) {
  TORCH_INTERNAL_ASSERT(logits.is_contiguous());
  const at::Tensor there = on_device_of(logits, draws, at::kDouble);
  at::Tensor result = at::empty(draws.sizes(), there.options());
  on_stream(logits, [&](void* stream) {
    with_type(logits, [&](auto t) {
      using T = decltype(t);
      DrawArguments<T> a{};
      a.width = logits.size(1);
      a.logits = in<T>(logits);
      a.softcap = static_cast<float>(softcap);
      a.draws = in<double>(there);
      a.given = given;
      a.greedy = options.temperature == 0.0;
      // A temperature so small that its inverse overflows would turn 0 * inf into NaN.
      a.inverse_temperature = a.greedy ? 1.0f : static_cast<float>(std::min(1.0 / options.temperature, 1e30));
      a.top_k = options.top_k;
      a.top_p = static_cast<float>(options.top_p);
      a.min_p = static_cast<float>(options.min_p);
      a.out = out<double>(result);
      draw_tokens<T>(a, draws.size(0), stream);
    });
  });
  return result;
}

void check_log_probs(const at::Tensor& logits, const at::Tensor& targets, const at::Tensor& a, const at::Tensor& b) {
  TORCH_INTERNAL_ASSERT(logits.is_contiguous() && targets.is_contiguous() && a.is_contiguous() && b.is_contiguous());
  TORCH_INTERNAL_ASSERT(targets.scalar_type() == at::kLong && a.scalar_type() == at::kFloat &&
                        b.scalar_type() == at::kFloat);
}

void log_probs(const at::Tensor& logits, const at::Tensor& targets, double softcap, const at::Tensor& log_prob,
               const at::Tensor& log_sum_exp) {
  check_log_probs(logits, targets, log_prob, log_sum_exp);
  on_stream(logits, [&](void* stream) {
    with_type(logits, [&](auto t) {
      using T = decltype(t);
      cuda::log_probs<T>(logits.size(0), logits.size(1), in<T>(logits), static_cast<float>(softcap),
                         in<std::int64_t>(targets), out<float>(log_prob), out<float>(log_sum_exp), stream);
    });
  });
}

void log_probs_backward(const at::Tensor& logits, const at::Tensor& targets, double softcap,
                        const at::Tensor& log_sum_exp, const at::Tensor& grad) {
  check_log_probs(logits, targets, log_sum_exp, grad);
  on_stream(logits, [&](void* stream) {
    with_type(logits, [&](auto t) {
      using T = decltype(t);
      cuda::log_probs_backward<T>(logits.size(0), logits.size(1), out<T>(logits), static_cast<float>(softcap),
                                  in<std::int64_t>(targets), in<float>(log_sum_exp), in<float>(grad), stream);
    });
  });
}

}  // namespace on_tensors
}  // namespace
}  // namespace sao::ops::cuda

extern "C" __attribute__((visibility("default"))) const sao::ops::cuda::Table* sao_cuda_kernels() {
  using namespace sao::ops::cuda;
  static const Table table{.size = sizeof(Table),
                           .version = SAO_VERSION,
                           .device_count = device_count,
                           .rms_norm = on_tensors::rms_norm,
                           .residual_norm = on_tensors::residual_norm,
                           .rms_norm_backward = on_tensors::rms_norm_backward,
                           .rotary = on_tensors::rotary,
                           .gated_activation = on_tensors::gated_activation,
                           .gated_activation_backward = on_tensors::gated_activation_backward,
                           .add_widened = on_tensors::add_widened,
                           .softcapped = on_tensors::softcapped,
                           .append_to_cache = on_tensors::append_to_cache,
                           .rotary_append = on_tensors::rotary_append,
                           .paged_attention = on_tensors::paged_attention,
                           .packed_attention = on_tensors::packed_attention,
                           .packed_attention_backward = on_tensors::packed_attention_backward,
                           .draw = on_tensors::draw,
                           .log_probs = on_tensors::log_probs,
                           .log_probs_backward = on_tensors::log_probs_backward,
                           .record = record,
                           .replay = replay,
                           .forget = forget};
  return &table;
}
