// SPDX-License-Identifier: Apache-2.0
#include "sao/model/kv_cache.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "sao/base/error.h"
#include "sao/ops/attention.h"

namespace sao {

static_assert(kKvBlockSize == ops::kCacheBlock);

struct KvCache::Impl {
  struct Sequence {
    std::vector<std::int32_t> blocks;
    std::int64_t length = 0;
    std::uint32_t generation = 0;  // counts uses of the slot, so that a released id is known as such
    bool live = false;
    std::int64_t last_plan = 0;
  };

  std::int64_t total = 0;
  std::vector<at::Tensor> keys, values;   // one a layer
  std::vector<std::int32_t> free_blocks;  // a stack
  std::vector<std::int32_t> users;        // of each block
  std::vector<Sequence> sequences;
  std::vector<std::uint32_t> free_slots;
  std::int64_t plans = 0;

  static SequenceId id_of(std::size_t slot, std::uint32_t generation) {
    return static_cast<SequenceId>(generation) << 32 | static_cast<SequenceId>(slot);
  }

  Sequence& find(SequenceId id) {
    const std::size_t slot = static_cast<std::size_t>(id & 0xFFFFFFFF);
    if (id < 0 || slot >= sequences.size() || !sequences[slot].live ||
        sequences[slot].generation != static_cast<std::uint32_t>(id >> 32)) {
      throw InputError(
          fmt::format("KvCache: sequence {} is not in the cache, expected one that create or fork gave", id));
    }
    return sequences[slot];
  }

  // Blocks that `tokens` more tokens newly take.
  static std::int64_t new_blocks(const Sequence& sequence, std::int64_t tokens) {
    return blocks_for(sequence.length + tokens) - static_cast<std::int64_t>(sequence.blocks.size());
  }

  std::int32_t take_block() {
    const std::int32_t block = free_blocks.back();
    free_blocks.pop_back();
    users[static_cast<std::size_t>(block)] = 1;
    return block;
  }

  void copy_block(std::int32_t from, std::int32_t to) {
    for (std::vector<at::Tensor>* side : {&keys, &values}) {
      for (at::Tensor& layer : *side) {
        if (layer.device().is_cpu()) {
          const std::size_t bytes = static_cast<std::size_t>(layer.stride(0)) * layer.element_size();
          char* data = static_cast<char*>(layer.mutable_data_ptr());
          std::memcpy(data + static_cast<std::size_t>(to) * bytes, data + static_cast<std::size_t>(from) * bytes,
                      bytes);
        } else {
          layer.select(0, to).copy_(layer.select(0, from));
        }
      }
    }
  }
};

namespace {

// int64: slots, positions, starts, lengths; then int32: block tables.
std::int64_t step_bytes(std::int64_t sequences, std::int64_t tokens, std::int64_t blocks) {
  return (2 * tokens + 2 * sequences + 1) * 8 + sequences * blocks * 4;
}

KvStep step_over(const at::Tensor& storage, std::int64_t sequences, std::int64_t tokens, std::int64_t blocks,
                 std::int64_t longest) {
  std::int64_t from = 0;
  const auto numbers = [&](std::int64_t count) {
    from += count * 8;
    return storage.narrow(0, from - count * 8, count * 8).view(at::kLong);
  };
  return {.slots = numbers(tokens),
          .positions = numbers(tokens),
          .starts = numbers(sequences + 1),
          .lengths = numbers(sequences),
          .block_tables = storage.narrow(0, from, sequences * blocks * 4).view(at::kInt).view({sequences, blocks}),
          .longest = longest,
          .storage = storage};
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, std::int64_t blocks, at::ScalarType dtype, at::Device device)
    : impl_(std::make_unique<Impl>()) {
  if (blocks < 1 || blocks > INT32_MAX) {
    throw InputError(fmt::format("KvCache: {} blocks, expected 1 to {}", blocks, INT32_MAX));
  }
  impl_->total = blocks;
  const at::TensorOptions options = at::TensorOptions(dtype).device(device);
  const std::int64_t heads = config.num_key_value_heads, head_dim = config.head_dim;
  const std::int64_t held = device.is_cpu() ? blocks : blocks + 1;  // the last for missing sequences, of recorded steps
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    impl_->keys.push_back(at::zeros({held, heads, head_dim, kKvBlockSize}, options));
    impl_->values.push_back(at::zeros({held, heads, kKvBlockSize, head_dim}, options));
  }
  impl_->users.assign(static_cast<std::size_t>(blocks), 0);
  impl_->free_blocks.resize(static_cast<std::size_t>(blocks));
  std::iota(impl_->free_blocks.rbegin(), impl_->free_blocks.rend(), 0);  // block 0 is taken first
}

KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;

std::int64_t KvCache::free_blocks() const { return static_cast<std::int64_t>(impl_->free_blocks.size()); }
std::int64_t KvCache::total_blocks() const { return impl_->total; }
std::int64_t KvCache::blocks_for(std::int64_t tokens) { return (tokens + kKvBlockSize - 1) / kKvBlockSize; }

std::int64_t KvCache::bytes_per_block(const ModelConfig& config, at::ScalarType dtype) {
  return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * kKvBlockSize *
         static_cast<std::int64_t>(at::elementSize(dtype));
}

KvCache::SequenceId KvCache::create() {
  Impl& impl = *impl_;
  if (impl.free_slots.empty()) {
    impl.free_slots.push_back(static_cast<std::uint32_t>(impl.sequences.size()));
    impl.sequences.emplace_back();
  }
  const std::uint32_t slot = impl.free_slots.back();
  impl.free_slots.pop_back();
  Impl::Sequence& sequence = impl.sequences[slot];
  sequence.live = true;
  sequence.generation = (sequence.generation + 1) & 0x7FFFFFFF;
  return Impl::id_of(slot, sequence.generation);
}

KvCache::SequenceId KvCache::fork(SequenceId parent) {
  Impl& impl = *impl_;
  const bool part_filled = impl.find(parent).length % kKvBlockSize != 0;
  if (part_filled && impl.free_blocks.empty()) {
    throw ResourceError(fmt::format(
        "KvCache: none of {} blocks is free for a fork, expected one; give the cache more bytes", impl.total));
  }
  const SequenceId id = create();
  Impl::Sequence& child = impl.find(id);
  const Impl::Sequence& from = impl.find(parent);  // after create, which may move the sequences
  child.blocks = from.blocks;
  child.length = from.length;
  const std::size_t shared = child.blocks.size() - (part_filled ? 1 : 0);
  for (std::size_t b = 0; b < shared; ++b) ++impl.users[static_cast<std::size_t>(child.blocks[b])];
  if (part_filled) {
    child.blocks.back() = impl.take_block();
    impl.copy_block(from.blocks.back(), child.blocks.back());
  }
  return id;
}

void KvCache::release(SequenceId id) {
  Impl& impl = *impl_;
  Impl::Sequence& sequence = impl.find(id);
  for (auto block = sequence.blocks.rbegin(); block != sequence.blocks.rend(); ++block) {
    if (--impl.users[static_cast<std::size_t>(*block)] == 0) impl.free_blocks.push_back(*block);
  }
  sequence.blocks.clear();
  sequence.length = 0;
  sequence.live = false;
  impl.free_slots.push_back(static_cast<std::uint32_t>(id & 0xFFFFFFFF));
}

std::int64_t KvCache::length(SequenceId sequence) const { return impl_->find(sequence).length; }

std::int64_t KvCache::blocks_needed(SequenceId sequence, std::int64_t tokens) const {
  return Impl::new_blocks(impl_->find(sequence), tokens);
}

KvStep KvStep::on(at::Device device) const {
  if (storage.device() == device) return *this;
  return step_over(storage.to(device, /*non_blocking=*/storage.is_pinned()), starts.size(0) - 1, slots.size(0),
                   block_tables.size(1), longest);
}

KvStep KvCache::plan(std::span<const SequenceId> sequences, std::span<const std::int64_t> counts,
                     const KvShape& least) {
  Impl& impl = *impl_;
  if (sequences.empty() || sequences.size() != counts.size()) {
    throw InputError(
        fmt::format("KvCache::plan: {} sequences and {} counts, expected one count for each of at least one",
                    sequences.size(), counts.size()));
  }
  // All checks come first, so that a refusal changes nothing.
  const std::int64_t stamp = ++impl.plans;
  std::int64_t tokens = 0, wanted = 0, widest = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    Impl::Sequence& sequence = impl.find(sequences[s]);
    if (counts[s] < 1 || sequence.last_plan == stamp) {
      throw InputError(
          fmt::format("KvCache::plan: sequence {} {}, expected every sequence once with at least one new token",
                      sequences[s], counts[s] < 1 ? fmt::format("has {} new tokens", counts[s]) : "stands twice"));
    }
    sequence.last_plan = stamp;
    tokens += counts[s];
    wanted += Impl::new_blocks(sequence, counts[s]);
    widest = std::max(widest, blocks_for(sequence.length + counts[s]));
  }
  if (wanted > free_blocks()) {
    throw ResourceError(
        fmt::format("KvCache: {} new blocks are needed and {} of {} are free; give the cache more bytes", wanted,
                    free_blocks(), impl.total));
  }

  const std::int64_t count = static_cast<std::int64_t>(sequences.size());
  const std::int64_t missing = std::max<std::int64_t>(0, least.sequences - count);
  std::int64_t longest = 1;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    longest = std::max(longest, impl.find(sequences[s]).length + counts[s]);
  }
  widest = std::max(widest, least.blocks);
  const bool on_gpu = !impl.keys.empty() && !impl.keys[0].device().is_cpu();
  const auto bytes = at::TensorOptions(at::kByte).pinned_memory(on_gpu);  // pinned: the copy does not wait
  const KvStep step = step_over(at::empty({step_bytes(count + missing, tokens + missing, widest)}, bytes),
                                count + missing, tokens + missing, widest, longest);
  std::int64_t* slot = step.slots.mutable_data_ptr<std::int64_t>();
  std::int64_t* start = step.starts.mutable_data_ptr<std::int64_t>();
  std::int64_t* length = step.lengths.mutable_data_ptr<std::int64_t>();
  std::int32_t* table = step.block_tables.mutable_data_ptr<std::int32_t>();
  std::int64_t* position = step.positions.mutable_data_ptr<std::int64_t>();
  start[0] = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s, table += widest) {
    Impl::Sequence& sequence = impl.find(sequences[s]);
    for (std::int64_t b = Impl::new_blocks(sequence, counts[s]); b > 0; --b)
      sequence.blocks.push_back(impl.take_block());
    for (std::int64_t at = sequence.length; at < sequence.length + counts[s]; ++at) {
      *position++ = at;
      *slot++ = sequence.blocks[static_cast<std::size_t>(at / kKvBlockSize)] * kKvBlockSize + at % kKvBlockSize;
    }
    sequence.length += counts[s];
    start[s + 1] = start[s] + counts[s];
    length[s] = sequence.length;
    std::fill(std::copy(sequence.blocks.begin(), sequence.blocks.end(), table), table + widest, 0);
  }
  for (std::int64_t s = count; s < count + missing; ++s, table += widest) {
    *position++ = 0;
    *slot++ = impl.total * kKvBlockSize;
    start[s + 1] = start[s] + 1;
    length[s] = 1;
    std::fill(table, table + widest, static_cast<std::int32_t>(impl.total));
  }
  return step;
}

at::Tensor& KvCache::keys(std::int64_t layer) { return impl_->keys[static_cast<std::size_t>(layer)]; }
at::Tensor& KvCache::values(std::int64_t layer) { return impl_->values[static_cast<std::size_t>(layer)]; }

std::vector<std::string> KvCache::check() const {
  const Impl& impl = *impl_;
  std::vector<std::string> problems;
  const auto report = [&](std::string problem) { problems.push_back(std::move(problem)); };

  std::vector<std::int32_t> users(static_cast<std::size_t>(impl.total), 0);
  for (std::size_t s = 0; s < impl.sequences.size(); ++s) {
    const Impl::Sequence& sequence = impl.sequences[s];
    if (!sequence.live) {
      if (!sequence.blocks.empty() || sequence.length != 0)
        report(fmt::format("released slot {} still holds blocks", s));
      if (std::count(impl.free_slots.begin(), impl.free_slots.end(), s) != 1) {
        report(fmt::format("released slot {} is not on the list of free slots once", s));
      }
      continue;
    }
    if (static_cast<std::int64_t>(sequence.blocks.size()) != blocks_for(sequence.length)) {
      report(fmt::format("slot {}: {} blocks for {} tokens", s, sequence.blocks.size(), sequence.length));
    }
    std::vector<std::int32_t> own = sequence.blocks;
    std::sort(own.begin(), own.end());
    if (std::adjacent_find(own.begin(), own.end()) != own.end())
      report(fmt::format("slot {}: a block stands twice", s));
    for (const std::int32_t block : sequence.blocks) {
      if (block < 0 || block >= impl.total) {
        report(fmt::format("slot {}: block {} is outside the cache", s, block));
      } else {
        ++users[static_cast<std::size_t>(block)];
      }
    }
    if (sequence.length % kKvBlockSize != 0 && !sequence.blocks.empty() &&
        impl.users[static_cast<std::size_t>(sequence.blocks.back())] != 1) {
      report(fmt::format("slot {}: its part-filled last block is shared", s));
    }
  }
  std::vector<std::int32_t> free(static_cast<std::size_t>(impl.total), 0);
  for (const std::int32_t block : impl.free_blocks) ++free[static_cast<std::size_t>(block)];
  for (std::size_t b = 0; b < users.size(); ++b) {
    if (users[b] != impl.users[b])
      report(fmt::format("block {}: {} users counted, {} found", b, impl.users[b], users[b]));
    if (free[b] != (users[b] == 0 ? 1 : 0)) {
      report(fmt::format("block {}: {} users and {} times on the list of free blocks", b, users[b], free[b]));
    }
  }
  return problems;
}

}  // namespace sao
