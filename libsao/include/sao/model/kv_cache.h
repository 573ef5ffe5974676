// SPDX-License-Identifier: Apache-2.0
// Keys and values of past tokens in fixed-size blocks that sequences share by reference count: the prompt of
// several samples is held once. The cache owns positions; attention takes what it gives.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sao/model/config.h"

namespace sao {

/// Tokens a block.
inline constexpr std::int64_t kKvBlockSize = 16;

/// What one forward pass writes to and reads from the cache. Made by KvCache::plan, on the CPU.
struct KvStep {
  at::Tensor slots;         ///< [T] int64: where the key and value of each new token go (block * kKvBlockSize + offset)
  at::Tensor positions;     ///< [T] int64
  at::Tensor starts;        ///< [S + 1] int64: new tokens of each sequence in the pack
  at::Tensor lengths;       ///< [S] int64: tokens in the cache of each sequence after this step
  at::Tensor block_tables;  ///< [S, max blocks] int32: the blocks of each sequence, in order
  std::int64_t longest = 0;  ///< the largest of lengths
  at::Tensor storage;        ///< [bytes] uint8: the memory of the five, which moves as one

  /// The same on a device, copied there without waiting; itself where it is there.
  KvStep on(at::Device device) const;
};

/// Rows and columns that a step has at least: steps of one shape can be recorded once and replayed.
struct KvShape {
  std::int64_t sequences = 0;
  std::int64_t blocks = 0;  ///< of block_tables' rows
};

/// A paged cache for one model. Not thread-safe. Functions that take a sequence throw InputError for one that is not in
/// the cache.
class KvCache {
 public:
  using SequenceId = std::int64_t;

  /// Reserves `blocks` blocks for every layer on `device` (at::Tensor storage, float32 on the CPU).
  KvCache(const ModelConfig& config, std::int64_t blocks, at::ScalarType dtype, at::Device device);
  ~KvCache();
  KvCache(KvCache&&) noexcept;

  std::int64_t free_blocks() const;
  std::int64_t total_blocks() const;
  /// Blocks that `tokens` tokens take.
  static std::int64_t blocks_for(std::int64_t tokens);
  /// Bytes that one block takes over all layers.
  static std::int64_t bytes_per_block(const ModelConfig& config, at::ScalarType dtype);

  /// A new, empty sequence.
  SequenceId create();
  /// A sequence that starts with everything `parent` holds; full blocks are shared, a part-filled last block is copied.
  /// Throws ResourceError when no block is free for that copy.
  SequenceId fork(SequenceId parent);
  /// Frees the sequence's blocks (shared ones when their last user goes).
  void release(SequenceId sequence);
  std::int64_t length(SequenceId sequence) const;
  /// Blocks that appending `tokens` would newly take.
  std::int64_t blocks_needed(SequenceId sequence, std::int64_t tokens) const;

  /// Reserves room for `counts[s]` new tokens of each sequence and describes the step. Throws ResourceError,
  /// without change, when the blocks do not suffice; InputError for a sequence named twice or a count below 1. Missing
  /// sequences of `least` come after the others, with one token each that goes to a block which no sequence has and a
  /// cache on the CPU does not hold.
  KvStep plan(std::span<const SequenceId> sequences, std::span<const std::int64_t> counts, const KvShape& least = {});

  /// A layer's storage in the layout of ops::paged_attention: keys [blocks, kv_heads, head_dim, kKvBlockSize], values
  /// [blocks, kv_heads, kKvBlockSize, head_dim]; off the CPU one block more, that of missing sequences (plan). Zero at
  /// first; stale entries stay finite.
  at::Tensor& keys(std::int64_t layer);
  at::Tensor& values(std::int64_t layer);

  /// Every violated invariant (reference counts, block ownership) as a sentence; empty when sound.
  std::vector<std::string> check() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sao
