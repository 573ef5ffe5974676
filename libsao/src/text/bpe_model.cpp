// SPDX-License-Identifier: Apache-2.0
#include "text/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <queue>

#include "base/utf8.h"
#include "sao/base/error.h"
#include "text/added_tokens.h"
#include "text/byte_alphabet.h"
#include "text/unicode.h"

namespace sao::detail {
namespace {

// Below this many symbols a scan for the best merge is faster than a heap.
constexpr std::size_t kShortWord = 48;
// Longer tokens are not tried as whole words when the vocabulary is read: there are few, and a file may lie.
constexpr std::size_t kLongestWhole = 256;

}  // namespace

void BpeModel::MergeTable::reserve(std::size_t count) {
  const std::size_t capacity = std::bit_ceil(std::max<std::size_t>(16, count * 2));
  slots_.assign(capacity, Slot{});
  shift_ = 64 - std::countr_zero(capacity);
}

std::size_t BpeModel::MergeTable::index_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t i = (pair * 0x9E3779B97F4A7C15ULL) >> shift_;
  while (slots_[i].pair != pair && slots_[i].pair != kFree) i = (i + 1) & mask;
  return i;
}

void BpeModel::MergeTable::insert(TokenId left, TokenId right, Merge merge) {
  const auto pair = static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  Slot& slot = slots_[index_of(pair)];
  slot.pair = pair;
  slot.merge = merge;  // of a pair that is listed twice the last one counts, as in the reference
}

BpeModel::Merge BpeModel::MergeTable::find(TokenId left, TokenId right) const {
  return slots_[index_of(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right))].merge;
}

BpeModel::BpeModel(const JsonNode& model, bool byte_level) : byte_level_(byte_level) {
  if (const auto dropout = model.find("dropout"); dropout && dropout->value() != 0) dropout->fail("null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (const auto affix = model.find(key); affix && !affix->string().empty()) affix->fail("null");
  ignore_merges_ = model.boolean_or("ignore_merges", false);
  byte_fallback_ = model.boolean_or("byte_fallback", false);
  fuse_unk_ = model.boolean_or("fuse_unk", false);

  read_vocabulary(model.at("vocab", "an object of token to id"));
  read_merges(model.at("merges", "a list of pairs"));
  for (std::size_t c = 0; c < ascii_ids_.size(); ++c) {
    const char character = static_cast<char>(c);
    ascii_ids_[c] = tokens_.find({&character, 1});
  }
  byte_ids_.fill(-1);
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    auto& id = byte_ids_[static_cast<std::size_t>(b)];
    if (byte_level_) {
      id = words_.find({&byte, 1});
    } else if (byte_fallback_) {
      id = tokens_.find(fmt::format("<0x{:02X}>", b));
    }
  }
  read_unknown(model);

  whole_.assign(words().size(), ignore_merges_);
  if (!ignore_merges_) {
    TokenIds ids;
    for (std::size_t i = 0; i < whole_.size(); ++i) {
      const auto id = static_cast<TokenId>(i);
      const std::string_view word = words()[id];
      if (word.empty() || word.size() > kLongestWhole) continue;
      ids.clear();
      merge(word, ids);
      whole_[i] = ids.size() == 1 && ids[0] == id;
    }
  }
}

void BpeModel::read_unknown(const JsonNode& model) {
  const auto unk = model.find("unk_token");
  if (!unk) return;
  if (const TokenId id = tokens_.find(unk->string()); id >= 0) {
    unk_ = id;
  } else if (!byte_level_ || std::ranges::count(byte_ids_, -1) > 0) {  // else nothing is ever unknown
    unk->fail("a token of the vocabulary");
  }
}

void BpeModel::read_vocabulary(const JsonNode& vocab) {
  if (!vocab.value().is_object() || vocab.value().empty()) vocab.fail("an object of token to id");
  TokenId largest = 0;
  const auto id_of = [&](const auto& entry) {
    if (!entry.value().is_number_integer())
      throw InputError(fmt::format("{}: token \"{}\" has a {}, expected an id", vocab.where(), entry.key(),
                                   entry.value().type_name()));
    return check_token_id(entry.value().template get<std::int64_t>(), vocab.where());
  };
  for (const auto& entry : vocab.value().items()) largest = std::max(largest, id_of(entry));
  tokens_.resize(static_cast<std::size_t>(largest) + 1);
  if (byte_level_) words_.resize(tokens_.size());
  for (const auto& entry : vocab.value().items()) {
    const TokenId id = id_of(entry);
    const std::string& token = entry.key();
    if (token.empty()) continue;
    if (!tokens_[id].empty())
      throw InputError(fmt::format("{}: id {} belongs to \"{}\" and to \"{}\", expected one token", vocab.where(), id,
                                   tokens_[id], token));
    tokens_.set(id, token);
    // A token with characters that stand for no byte can never come out of a word.
    if (byte_level_)
      if (const auto bytes = bytes_of_token(token)) words_.set(id, *bytes);
  }
}

void BpeModel::read_merges(const JsonNode& merges) {
  if (!merges.value().is_array()) merges.fail("a list of pairs");
  merges_.reserve(merges.value().size());
  std::string joined;
  std::uint32_t rank = 0;
  for (const Json& merge : merges.value()) {
    const auto where = [&] { return fmt::format("{}[{}]", merges.where(), &merge - &merges.value()[0]); };
    std::string_view left;
    std::string_view right;
    if (merge.is_string()) {
      const std::string_view both = merge.get_ref<const std::string&>();
      if (both.starts_with("#version")) continue;
      const std::size_t space = both.find(' ');
      if (space == both.npos || both.find(' ', space + 1) != both.npos)
        throw InputError(fmt::format("{}: found \"{}\", expected two tokens with a space between", where(), both));
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else {
      throw InputError(fmt::format("{}: found a JSON {}, expected a pair of tokens", where(), merge.type_name()));
    }
    joined.assign(left).append(right);
    const auto id_of = [&](std::string_view token) {
      const TokenId id = tokens_.find(token);
      if (id < 0)
        throw InputError(
            fmt::format("{}: token \"{}\" is not in the vocabulary, expected both tokens and what they "
                        "merge to to be there",
                        where(), token));
      return id;
    };
    merges_.insert(id_of(left), id_of(right), {.rank = rank++, .id = id_of(joined)});
    if (right.starts_with(kSpaceMark) && !left.ends_with(kSpaceMark)) cut_at_space_marks_ = false;
  }
  // Unknown characters may be fused; a known one is not.
  if (byte_level_ || tokens_.find(kSpaceMark) < 0) cut_at_space_marks_ = false;
}

void BpeModel::initial_symbols(std::string_view word, TokenIds& symbols) const {
  // The reference drops a character that is unknown where there is no unk_token, and puts a pending <unk> behind the
  // byte tokens of the characters that follow it.
  bool pending = false;
  const auto end_unknown = [&] {
    if (pending) symbols.push_back(*unk_);
    pending = false;
  };
  const auto add_unknown = [&] {
    if (pending && !fuse_unk_) symbols.push_back(*unk_);
    pending = unk_.has_value();
  };
  if (byte_level_) {
    for (const char c : word) {
      const TokenId id = byte_ids_[static_cast<unsigned char>(c)];
      if (id < 0) {
        add_unknown();
      } else {
        end_unknown();
        symbols.push_back(id);
      }
    }
    return end_unknown();
  }
  while (!word.empty()) {
    const std::string_view character = word.substr(0, read_character(word).length);
    word.remove_prefix(character.size());
    const TokenId id =
        character.size() == 1 ? ascii_ids_[static_cast<std::size_t>(character[0])] : tokens_.find(character);
    if (id >= 0) {
      end_unknown();
      symbols.push_back(id);
      continue;
    }
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (byte_fallback_ && std::ranges::all_of(character, [&](char c) { return byte_id(c) >= 0; })) {
      for (const char c : character) symbols.push_back(byte_id(c));
    } else {
      add_unknown();
    }
  }
  end_unknown();
}

void BpeModel::encode(std::string_view word, TokenIds& ids) const {
  if (word.empty()) return;
  if (ignore_merges_ || !cut_at_space_marks_) return encode_part(word, ids);
  // Nothing merges across the front of a blank, so the parts can be looked up and merged one by one.
  std::size_t begin = 0;
  for (std::size_t i = word.find(kSpaceMark, 1); i != word.npos; i = word.find(kSpaceMark, i + 1)) {
    if (word.substr(0, i).ends_with(kSpaceMark)) continue;
    encode_part(word.substr(begin, i - begin), ids);
    begin = i;
  }
  encode_part(word.substr(begin), ids);
}

void BpeModel::encode_part(std::string_view word, TokenIds& ids) const {
  if (const TokenId id = words().find(word); id >= 0 && whole_[static_cast<std::size_t>(id)]) {
    ids.push_back(id);
  } else {
    merge(word, ids);
  }
}

void BpeModel::merge(std::string_view word, TokenIds& ids) const {
  const std::size_t first = ids.size();
  initial_symbols(word, ids);
  const std::size_t count = ids.size() - first;
  if (count <= kShortWord) {
    ids.resize(first + merge_short(std::span(ids).subspan(first)));
  } else {
    TokenIds symbols(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
    merge_long(symbols);
    ids.resize(first);
    ids.insert(ids.end(), symbols.begin(), symbols.end());
  }
}

// Merges in place; what is left is at the front. Returns how many.
std::size_t BpeModel::merge_short(std::span<TokenId> symbols) const {
  std::size_t n = symbols.size();
  if (n < 2) return n;
  std::array<Merge, kShortWord> merges;  // merges[i]: of symbols i and i + 1
  for (std::size_t i = 0; i + 1 < n; ++i) merges[i] = merges_.find(symbols[i], symbols[i + 1]);
  for (;;) {
    std::size_t best = 0;
    std::uint32_t rank = kNoMerge;
    for (std::size_t i = 0; i + 1 < n; ++i) {
      if (merges[i].rank < rank) {
        rank = merges[i].rank;
        best = i;
      }
    }
    if (rank == kNoMerge) return n;
    symbols[best] = merges[best].id;
    std::copy(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 2, symbols.begin() + static_cast<std::ptrdiff_t>(n),
              symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(merges.begin() + best + 1, merges.begin() + n - 1, merges.begin() + best);
    --n;
    if (best > 0) merges[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < n) merges[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
}

void BpeModel::merge_long(TokenIds& symbols) const {
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t position;
    TokenId left;  // what the merge was found for; else it is out of date
    TokenId right;
    TokenId id;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  const auto n = static_cast<std::uint32_t>(symbols.size());
  std::vector<std::uint32_t> next(n);
  std::vector<std::uint32_t> previous(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    next[i] = i + 1;  // n: none
    previous[i] = i - 1;
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](std::uint32_t i) {
    if (next[i] >= n) return;
    const TokenId left = symbols[i];
    const TokenId right = symbols[next[i]];
    if (const Merge merge = merges_.find(left, right); merge.rank != kNoMerge)
      queue.push({merge.rank, i, left, right, merge.id});
  };
  for (std::uint32_t i = 0; i + 1 < n; ++i) offer(i);
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    const std::uint32_t i = top.position;
    if (symbols[i] != top.left || next[i] >= n || symbols[next[i]] != top.right) continue;
    const std::uint32_t gone = next[i];
    symbols[i] = top.id;
    symbols[gone] = -1;
    next[i] = next[gone];
    if (next[i] < n) previous[next[i]] = i;
    if (i > 0) offer(previous[i]);
    offer(i);
  }
  std::erase(symbols, -1);
}

}  // namespace sao::detail
