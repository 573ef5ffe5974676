// SPDX-License-Identifier: Apache-2.0
#include "text/sentencepiece_model.h"

#include <fmt/format.h>

#include "sao/base/error.h"

namespace sao::detail {
namespace {

// One field of a protocol buffer message.
struct Field {
  std::uint32_t number = 0;
  std::uint64_t varint = 0;     // wire type 0
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
        take(4);
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
enum ModelField : std::uint32_t { kPieces = 1, kTrainerSpec = 2, kNormalizerSpec = 3 };
enum PieceField : std::uint32_t { kPieceText = 1, kPieceType = 3 };
enum TrainerField : std::uint32_t { kModelType = 3 };
enum NormalizerField : std::uint32_t { kAddDummyPrefix = 3, kRemoveExtraWhitespaces = 4 };

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& file) {
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
      }
    } else if (field.number == kTrainerSpec) {
      while (part.next(inner))
        if (inner.number == kModelType) model.model_type = static_cast<int>(inner.varint);
    } else if (field.number == kNormalizerSpec) {
      while (part.next(inner)) {
        if (inner.number == kAddDummyPrefix) model.add_dummy_prefix = inner.varint != 0;
        if (inner.number == kRemoveExtraWhitespaces) model.remove_extra_whitespaces = inner.varint != 0;
      }
    }
  }
  if (model.pieces.empty()) throw InputError(fmt::format("{}: no pieces, expected a SentencePiece model", file));
  if (model.model_type != 1 && model.model_type != 2)
    throw InputError(
        fmt::format("{}: trainer_spec.model_type is {}, expected 1 (unigram) or 2 (BPE)", file, model.model_type));
  return model;
}

}  // namespace sao::detail
