// SPDX-License-Identifier: Apache-2.0
// Tokens drawn from rows of logits, and the log-probs of given ones: a block a token, a few passes over its row,
// nothing sorted. Sums have a fixed order, and masses that threads add up together are whole numbers: the same row,
// number and options always give the same token. The meaning is that of RowSampler (sample_row.h).
#include "ops/cuda_device.h"

namespace sao::ops::cuda {
namespace {

constexpr int kDrawThreads = 512;
constexpr int kDrawWarps = kDrawThreads / 32;
constexpr int kMostTiles = 1280;  // a warp sums the ids of a tile
constexpr int kLeastPerLane = 8;  // ids of a tile that a lane takes, side by side
constexpr int kTilesAhead = 4;    // of a warp that are asked for at one time
constexpr int kBuckets = 2048;
constexpr double kMassUnit = 1099511627776.0;  // 2^40: masses are whole multiples of 2^-40 of the largest weight

// All threads' numbers joined two by two in a fixed order; the result is the same in all threads.
template <class Join>
__device__ double over_block(double x, double* scratch, const Join& join) {
  scratch[threadIdx.x] = x;
  __syncthreads();
  for (int half = kDrawThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half)
      scratch[threadIdx.x] = join(scratch[threadIdx.x], scratch[threadIdx.x + half]);
    __syncthreads();
  }
  const double result = scratch[0];
  __syncthreads();
  return result;
}
__device__ double draw_block_sum(double x, double* scratch) {
  return over_block(x, scratch, [](double p, double q) { return p + q; });
}

__device__ double from_lane_xor(double x, int offset) {
  std::uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  const float low = __shfl_xor_sync(kAllLanes, float_of_bits(static_cast<std::uint32_t>(bits)), offset);
  const float high = __shfl_xor_sync(kAllLanes, float_of_bits(static_cast<std::uint32_t>(bits >> 32)), offset);
  bits = float_bits(low) | static_cast<std::uint64_t>(float_bits(high)) << 32;
  memcpy(&x, &bits, sizeof bits);
  return x;
}

// Sum over the warp, and of the lanes before this one; in a fixed order, the same in all lanes.
__device__ double warp_sum(double x, double* before) {
  double below = 0.0;
  for (int offset = 1; offset < 32; offset *= 2) {
    const double other = from_lane_xor(x, offset);
    if (lane() & offset) {
      below += other;
      x = other + x;
    } else {
      x += other;
    }
  }
  *before = below;
  return x;
}

// A float's bits so that they rise with it.
__device__ std::uint32_t ordered_bits(float x) {
  const std::uint32_t bits = float_bits(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// cap * tanh(x / cap); of bfloat16 by the fast functions, whose error is far below its 8 bits.
template <class T>
__device__ float capped_logit(T x, float cap) {
  const float z = to_float(x);
  if (cap == 0.0f) return z;
  if (sizeof(T) == sizeof(float)) return soft_capped(z, cap);
  return cap - __fdividef(2.0f * cap, 1.0f + __expf(__fdividef(2.0f * z, cap)));
}

template <class T>
struct Row {
  const T* logits;
  int width;
  float softcap;
  float largest, inverse_temperature;
  std::uint32_t least_bits;  // of ordered_bits; those below are dropped by top-k
  // Dropped by top-p: weights below `floor`, and equal ones of which `equals` in the order of ids have been kept.
  float floor;
  double equals;
  float min_weight;

  __device__ float logit(int id) const { return capped_logit(logits[id], softcap); }

  // Unless top-p drops it.
  __device__ float weight(int id) const { return weight_of(logit(id)); }
  __device__ float weight_of(float z) const {
    if (ordered_bits(z) < least_bits) return 0.0f;
    const float w = expf((z - largest) * inverse_temperature);
    return w < min_weight || w < floor ? 0.0f : w;
  }
};

// The bucket, from the highest down, in which the counted sum reaches `goal`; *above is what the buckets above it hold.
// All buckets together are short of the goal: 0.
__device__ int crossing_bucket(const unsigned long long* buckets, double goal, double* above) {
  double sum = 0.0;
  int bucket = kBuckets - 1;
  while (bucket > 0 && sum + static_cast<double>(buckets[bucket]) < goal) sum += static_cast<double>(buckets[bucket--]);
  *above = sum;
  return bucket;
}

// Finds among 32-bit keys the one at which sums of `amount`, from the largest key down, reach `goal`: 11, 11 and 10
// bits at a time. *above: the sum of all larger keys.
template <class Key, class Amount>
__device__ std::uint32_t crossing_key(int width, double goal, unsigned long long* buckets, double* shared,
                                      double* above, const Key& key_of, const Amount& amount) {
  std::uint32_t prefix = 0, mask = 0;
  double passed = 0.0;
  for (int shift : {21, 10, 0}) {
    const std::uint32_t bits = shift == 0 ? 0x3ffu : 0x7ffu;
    for (int i = static_cast<int>(threadIdx.x); i < kBuckets; i += kDrawThreads) buckets[i] = 0;
    __syncthreads();
    for (int id = static_cast<int>(threadIdx.x); id < width; id += kDrawThreads) {
      const std::uint32_t key = key_of(id);
      if ((key & mask) != prefix) continue;
      const unsigned long long x = amount(id);
      if (x != 0) atomicAdd(&buckets[(key >> shift) & bits], x);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      double here = 0.0;
      shared[1] = crossing_bucket(buckets, goal - passed, &here);
      shared[0] = here;
    }
    __syncthreads();
    passed += shared[0];
    prefix |= static_cast<std::uint32_t>(shared[1]) << shift;
    mask |= bits << shift;
    __syncthreads();
  }
  *above = passed;
  return prefix;
}

template <class T>
__global__ void __launch_bounds__(kDrawThreads) draw_rows(DrawArguments<T> a) {
  __shared__ double scratch[kDrawThreads];
  __shared__ double tile_sums[kMostTiles], tile_equals[kMostTiles];
  __shared__ double found[2];  // handed from one thread to the others
  unsigned long long* buckets = reinterpret_cast<unsigned long long*>(dynamic_shared);
  const int width = static_cast<int>(a.width), thread = static_cast<int>(threadIdx.x);
  const double* draw = a.draws + 2 * static_cast<std::int64_t>(blockIdx.x);
  double* out = a.out + 2 * static_cast<std::int64_t>(blockIdx.x);
  Row<T> row{a.logits + static_cast<std::int64_t>(draw[0]) * a.width,
             width,
             a.softcap,
             -kInfinity,
             a.inverse_temperature,
             0u,
             0.0f,
             0,
             0.0f};
  const int per_lane = a.ids_per_lane, tile_ids = 32 * per_lane, tiles = (width + tile_ids - 1) / tile_ids;
  const auto first_id = [&](int tile) { return tile * tile_ids + lane() * per_lane; };
  // Calls use(id, number) for this lane's ids of a tile, as they are in memory.
  const auto visit = [&](int tile, const auto& use) {
    constexpr int kPack = kVector<T>;
    const int id = first_id(tile);
    if (a.in_packs && id + per_lane <= width) {
      for (int i = 0; i < per_lane; i += kPack) {
        const Pack<T, kPack> pack = load<kPack>(row.logits + id + i);
        SAO_UNROLL
        for (int e = 0; e < kPack; ++e) use(id + i + e, pack.value[e]);
      }
      return;
    }
    for (int i = 0; i < per_lane && id + i < width; ++i) use(id + i, row.logits[id + i]);
  };
  // Calls body(tile, of_tile) for this warp's tiles in their order; of_tile(use) is visit(tile, use).
  const auto visit_all = [&](const auto& body) {
    for (int tile = warp(); tile < tiles; tile += kTilesAhead * kDrawWarps) {
      const int last = tile + (kTilesAhead - 1) * kDrawWarps;
      if (a.in_packs && per_lane == kLeastPerLane && (last + 1) * tile_ids <= width) {
        constexpr int kPack = kVector<T>;
        Pack<T, kPack> packs[kTilesAhead][kLeastPerLane / kPack];
        SAO_UNROLL
        for (int j = 0; j < kTilesAhead; ++j) {
          SAO_UNROLL
          for (int i = 0; i < kLeastPerLane / kPack; ++i) {
            packs[j][i] = load<kPack>(row.logits + first_id(tile + j * kDrawWarps) + i * kPack);
          }
        }
        SAO_UNROLL
        for (int j = 0; j < kTilesAhead; ++j) {
          const int id = first_id(tile + j * kDrawWarps);
          body(tile + j * kDrawWarps, [&](const auto& use) {
            SAO_UNROLL
            for (int i = 0; i < kLeastPerLane; ++i) use(id + i, packs[j][i / kPack].value[i % kPack]);
          });
        }
        continue;
      }
      for (int t = tile; t < tiles && t <= last; t += kDrawWarps) {
        body(t, [&](const auto& use) { visit(t, use); });
      }
    }
  };

  // The largest, where it stands first, and whether all is fine.
  int best = width;
  bool fine = true;
  visit_all([&](int, const auto& of_tile) {
    of_tile([&](int id, T number) {
      const float z = to_float(number);  // what is the largest stays so under a cap
      fine = fine && z < kInfinity;      // a NaN is not
      if (z > row.largest) {
        row.largest = z;
        best = id;
      }
    });
  });
  const float largest = static_cast<float>(
      over_block(fine ? row.largest : kInfinity, scratch, [](double p, double q) { return p > q ? p : q; }));
  if (!(largest < kInfinity && largest > -kInfinity)) {
    if (thread == 0) {
      out[0] = 0.0;
      out[1] = static_cast<double>(kInfinity) - static_cast<double>(kInfinity);  // NaN
    }
    return;
  }
  best = static_cast<int>(
      over_block(row.largest == largest ? best : width, scratch, [](double p, double q) { return p < q ? p : q; }));
  row.largest = row.logit(best);

  double log_sum = 0.0;
  const bool filters = (a.top_k > 0 && a.top_k < width) || a.top_p < 1.0f || a.min_p > 0.0f;
  const bool plain = !a.given && !a.greedy && !filters && a.inverse_temperature == 1.0f;
  if (!plain) {  // else the sum of the weights is that of the probabilities
    double sum = 0.0;
    visit_all([&](int, const auto& of_tile) {
      float own = 0.0f;
      of_tile([&](int, T number) { own += expf(capped_logit(number, a.softcap) - row.largest); });
      sum += static_cast<double>(own);
    });
    log_sum = log(draw_block_sum(sum, scratch));
  }
  const auto finish = [&](int id) {
    if (thread != 0) return;
    out[0] = id;
    out[1] = static_cast<double>(row.logit(id) - row.largest) - log_sum;
  };
  if (a.given) return finish(static_cast<int>(draw[1]));
  if (a.greedy) return finish(best);

  if (a.top_k > 0 && a.top_k < width) {
    double above = 0.0;
    row.least_bits = crossing_key(
        width, static_cast<double>(a.top_k), buckets, found, &above,
        [&](int id) { return ordered_bits(row.logit(id)); }, [](int) { return 1ull; });
  }
  if (a.top_p < 1.0f) {
    const auto mass = [&](int id) {
      return static_cast<unsigned long long>(static_cast<double>(row.weight(id)) * kMassUnit + 0.5);
    };
    double total = 0.0;  // whole numbers below 2^53: no rounding
    for (int id = thread; id < width; id += kDrawThreads) total += static_cast<double>(mass(id));
    const double goal = static_cast<double>(a.top_p) * draw_block_sum(total, scratch);
    double above = 0.0;
    const std::uint32_t bits = crossing_key(
        width, goal, buckets, found, &above, [&](int id) { return float_bits(row.weight(id)); }, mass);
    row.floor = float_of_bits(bits);
    // As many of the equals as the goal needs, at least one.
    const double unit = static_cast<double>(row.floor) * kMassUnit + 0.5;
    const double whole = static_cast<double>(static_cast<unsigned long long>(unit));
    const double wanted = whole > 0.0 ? ceil((goal - above) / whole) : 1e18;
    row.equals = wanted < 1.0 ? 1.0 : wanted;
  }
  row.min_weight = a.min_p;

  // Of this lane's ids of a tile: equals of the floor.
  const bool counts = a.top_p < 1.0f;
  const auto equals_of = [&](int tile) {
    double count = 0.0;
    for (int i = 0; i < per_lane && counts; ++i) {
      const int id = first_id(tile) + i;
      if (id < width && row.weight(id) == row.floor) count += 1.0;
    }
    return count;
  };
  // Calls use(id, weight) for the ids that of_tile has; before: equals in front of them.
  const auto weights_of = [&](const auto& of_tile, double before, const auto& use) {
    of_tile([&](int id, T number) {
      float w = row.weight_of(capped_logit(number, a.softcap));
      if (counts && w == row.floor && (before += 1.0) > row.equals) w = 0.0f;
      use(id, w);
    });
  };
  double ignored;
  if (counts) {  // of each tile, then of those before it
    for (int tile = warp(); tile < tiles; tile += kDrawWarps) {
      const double all = warp_sum(equals_of(tile), &ignored);
      if (lane() == 0) tile_equals[tile] = all;
    }
    __syncthreads();
    if (thread == 0) {
      double so_far = 0.0;
      for (int tile = 0; tile < tiles; ++tile) {
        const double here = tile_equals[tile];
        tile_equals[tile] = so_far;
        so_far += here;
      }
    }
    __syncthreads();
  }
  const auto equals_before = [&](int tile) {  // this lane's first id
    double before = 0.0;
    if (counts) warp_sum(equals_of(tile), &before);
    return counts ? before + tile_equals[tile] : 0.0;
  };
  visit_all([&](int tile, const auto& of_tile) {
    double own = 0.0;
    weights_of(of_tile, equals_before(tile), [&](int, float w) { own += static_cast<double>(w); });
    const double all = warp_sum(own, &ignored);
    if (lane() == 0) tile_sums[tile] = all;
  });
  __syncthreads();
  if (warp() != 0) return;

  // A lane takes tiles side by side. The first at whose end the sum exceeds the target; where rounding leaves none, the
  // last that has any weight.
  const int tiles_a_lane = (tiles + 31) / 32, end_tile = min(tiles, (lane() + 1) * tiles_a_lane);
  int tile = lane() * tiles_a_lane;
  double of_lane = 0.0, reached;
  for (int t = tile; t < end_tile; ++t) of_lane += tile_sums[t];
  const double total = warp_sum(of_lane, &reached), target = draw[1] * total;
  if (plain) log_sum = log(total);
  const auto first_or_last = [](int found_first, int none, int found_last) {
    const int first = -static_cast<int>(maximum_over<32>(-static_cast<float>(found_first)));
    const int last = static_cast<int>(maximum_over<32>(static_cast<float>(found_last)));
    return first < none ? first : last;
  };
  if (lane() ==
      first_or_last(reached + of_lane > target && of_lane > 0.0 ? lane() : 32, 32, of_lane > 0.0 ? lane() : 0)) {
    int weighed = tile;  // the last that has any weight
    double before = reached;
    for (; tile < end_tile; ++tile) {
      if (tile_sums[tile] == 0.0) continue;
      weighed = tile;
      before = reached;
      reached += tile_sums[tile];
      if (reached > target) break;
    }
    found[0] = before;
    found[1] = weighed;
  }
  __syncwarp();
  tile = static_cast<int>(found[1]);
  const double equals = equals_before(tile);
  const auto of_tile = [&](const auto& use) { visit(tile, use); };
  double own = 0.0, before;
  weights_of(of_tile, equals, [&](int, float w) { own += static_cast<double>(w); });
  warp_sum(own, &before);
  // The same of the tile's ids.
  double so_far = found[0] + before;
  int chosen = width, last = -1;
  weights_of(of_tile, equals, [&](int id, float w) {
    if (w == 0.0f) return;
    last = id;
    so_far += static_cast<double>(w);
    if (so_far > target && chosen == width) chosen = id;
  });
  const int id = first_or_last(chosen, width, last);
  finish(id >= 0 ? id : best);
}

}  // namespace

template <class T>
void draw_tokens(const DrawArguments<T>& arguments, std::int64_t draws, void* stream) {
  DrawArguments<T> a = arguments;
  const std::int64_t least = (a.width + 32 * kMostTiles - 1) / (32 * kMostTiles);
  a.ids_per_lane = static_cast<int>((least + kLeastPerLane - 1) / kLeastPerLane * kLeastPerLane);
  a.in_packs = in_packs<kVector<T>>(a.logits, a.width);
  launch<kDrawThreads>(draw_rows<T>, draws, 1, sizeof(unsigned long long) * kBuckets, stream, a);
}

template void draw_tokens(const DrawArguments<float>&, std::int64_t, void*);
template void draw_tokens(const DrawArguments<BFloat16>&, std::int64_t, void*);

}  // namespace sao::ops::cuda
