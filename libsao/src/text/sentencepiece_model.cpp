// SPDX-License-Identifier: Apache-2.0
#include "text/sentencepiece_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

// One field of a protocol buffer message.
struct Field {
  std::uint32_t number = 0;
  std::uint64_t varint = 0;     // wire type 0
  float number32 = 0.0F;        // wire type 5
  std::string_view bytes = {};  // wire type 2
};

// Reads a message field by field; what does not fit throws.
class Reader {
 public:
  Reader(std::string_view bytes, const std::string& file) : rest_(bytes), file_(file) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t tag = varint();
    field = {.number = static_cast<std::uint32_t>(tag >> 3)};
    switch (tag & 7) {
      case 0:
        field.varint = varint();
        break;
      case 1:
        take(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        std::memcpy(&field.number32, take(4).data(), sizeof field.number32);
        break;
      default:
        fail();
    }
    return true;
  }

 private:
  [[noreturn]] void fail() const {
    throw InputError(fmt::format("{}: not a SentencePiece model (broken protocol buffer), expected one", file_));
  }
  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) fail();
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view rest_;
  const std::string& file_;
};

// Field numbers of sentencepiece_model.proto.
enum ModelField : std::uint32_t { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3, kDenormalizerSpec = 5 };
enum PieceField : std::uint32_t { kPieceText = 1, kPieceScore = 2, kPieceType = 3 };
enum TrainerField : std::uint32_t { kModelType = 3 };
enum NormalizerField : std::uint32_t { kCharacterMap = 2, kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4 };

// The library walks through the normalizer's map without looking where it ends. The map is a double array in
// darts-clone's form (its length in bytes, then units of 32 bits), then texts that end with NUL, which its leaves point
// into.
bool is_sound_character_map(std::string_view map) {
  constexpr std::size_t kBlock = 256;  // a step goes to any unit of a block
  const auto word = [&](std::size_t index) {
    std::uint32_t value = 0;
    std::memcpy(&value, map.data() + index * sizeof value, sizeof value);
    return value;
  };
  if (map.empty()) return true;
  if (map.size() < sizeof(std::uint32_t)) return false;
  const std::size_t bytes = word(0);
  map.remove_prefix(sizeof(std::uint32_t));
  if (bytes >= map.size() || bytes % (kBlock * sizeof(std::uint32_t)) != 0 || map.back() != '\0') return false;
  const std::size_t units = bytes / sizeof(std::uint32_t);
  const std::size_t text_bytes = map.size() - bytes;
  for (std::size_t i = 0; i < units; ++i) {
    const std::uint32_t unit = word(i);
    if ((unit >> 31) != 0) continue;  // a leaf's value
    const std::size_t next = i ^ static_cast<std::size_t>((unit >> 10) << ((unit & (1U << 9)) >> 6));
    if (next >= units) return false;
    const bool has_leaf = (unit >> 8 & 1) != 0;
    if (has_leaf && (word(next) & 0x7FFFFFFFU) >= text_bytes) return false;
  }
  return true;
}

// Lines of base64, a blank and a rank.
bool is_tiktoken(std::string_view bytes) {
  const std::string_view line = bytes.substr(0, bytes.find('\n'));
  const std::size_t blank = line.find(' ');
  const auto is_base64 = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '/' ||
           c == '=';
  };
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  return line.size() < bytes.size() && blank != line.npos && blank > 0 && blank + 1 < line.size() &&
         std::ranges::all_of(line.substr(0, blank), is_base64) && std::ranges::all_of(line.substr(blank + 1), is_digit);
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file) {
  if (is_tiktoken(bytes))
    throw InputError(
        fmt::format("{}: ranks in the form of tiktoken, as in Llama 3's original files, expected a "
                    "SentencePiece model, or a tokenizer.json beside it",
                    file));
  SentencePieceModel model;
  Reader reader(bytes, file);
  for (Field field; reader.next(field);) {
    Reader part(field.bytes, file);
    Field inner;
    if (field.number == kPieces) {
      auto& piece = model.pieces.emplace_back();
      while (part.next(inner)) {
        if (inner.number == kPieceText) piece.text = inner.bytes;
        if (inner.number == kPieceType) piece.type = static_cast<PieceType>(inner.varint);
        if (inner.number == kPieceScore && !std::isfinite(inner.number32)) {
          throw InputError(fmt::format("{}: piece {} has the score {}, expected a number", file,
                                       model.pieces.size() - 1, inner.number32));
        }
      }
      if (piece.text.empty() || piece.text.find('\0') != std::string::npos) {
        throw InputError(fmt::format("{}: piece {} {}, expected a text", file, model.pieces.size() - 1,
                                     piece.text.empty() ? "is empty" : "holds a NUL"));
      }
    } else if (field.number == kTrainerSpec) {
      while (part.next(inner))
        if (inner.number == kModelType) model.model_type = static_cast<int>(inner.varint);
    } else if (field.number == kNormalizerSpec) {
      while (part.next(inner)) {
        if (inner.number == kCharacterMap && !is_sound_character_map(inner.bytes)) {
          throw InputError(
              fmt::format("{}: normalizer_spec.precompiled_charsmap is damaged, expected a map of characters", file));
        }
        if (inner.number == kAddDummyPrefix) model.add_dummy_prefix = inner.varint != 0;
        if (inner.number == kRemoveExtraWhitespaces) model.remove_extra_whitespaces = inner.varint != 0;
      }
    } else if (field.number == kDenormalizerSpec) {
      while (part.next(inner))
        if (inner.number == kCharacterMap && !inner.bytes.empty())
          throw InputError(fmt::format("{}: a denormalizer_spec, expected a model without", file));
    }
  }
  if (model.pieces.empty()) throw InputError(fmt::format("{}: no pieces, expected a SentencePiece model", file));
  if (model.model_type != 1 && model.model_type != 2)
    throw InputError(
        fmt::format("{}: trainer_spec.model_type is {}, expected 1 (unigram) or 2 (BPE)", file, model.model_type));
  return model;
}

}  // namespace sao::detail
