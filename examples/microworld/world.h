// SPDX-License-Identifier: Apache-2.0
// Seeded composer of the micro world: personas, requests, answers of mixed quality, judgements.
//   Document d = compose_document(seed, i);  // item i is a pure function of (seed, i)
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "facts.h"
#include "flaws.h"

namespace microworld {

/// Counted random numbers: value k of a stream is a pure function of (key, k).
class Rng {
 public:
  Rng(std::uint64_t seed, std::uint64_t stream, std::uint64_t index);
  std::uint64_t next();
  /// Uniform in [0, n); n > 0.
  int below(int n);
  /// Uniform in [0, 1).
  double uniform();
  bool chance(double p) { return uniform() < p; }
  /// An index drawn in proportion to `weights`.
  int weighted(const std::vector<double>& weights);
  /// An independent stream; the same for the same tag.
  Rng fork(std::uint64_t tag) const;

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
};

/// Train and held-out items never share a request text, nor a pair of job and hobby.
enum class Split { kTrain, kHeldOut };

struct Persona {
  std::string text;
  int name = 0;
  int job = 0;
  int hobby = 0;
};

enum class Family { kAsk, kList, kCompare, kDescribe, kSteps, kNeed, kAdvice, kNote };
inline constexpr int kFamilyCount = 8;

enum class ConstraintKind { kNone, kBegin, kEnd, kName };

struct Constraint {
  ConstraintKind kind = ConstraintKind::kNone;
  std::string_view word;  // begin word, wish or name
};

/// A request with the fields it was made of; those that do not apply are -1 or 0.
struct Request {
  std::string text;
  Family family{};
  int subject = -1;
  int other = -1;  // second animal of a comparison
  Attribute attribute{};
  bool bigger = true;
  Domain domain{};
  int count = 0;
  int activity = -1;
  int problem = -1;
  int note = -1;
  int recipient = -1;
  int thing = -1;
  Constraint constraint{};
};

struct Answer {
  std::string text;
  Flaws flaws = 0;
};

struct Turn {
  std::string role;  // "user" or "model"
  std::string text;
  /// Loss weight of the turn's tokens, and of the bytes [label_begin, label_end) within it.
  double weight = 0.0;
  int label_begin = 0;
  int label_end = 0;
  double label_weight = 0.0;
};

enum class DocumentKind { kPersona, kUnguided, kAnswer, kJudge };

struct Document {
  DocumentKind kind{};
  std::vector<Turn> turns;
};

/// A judgement: the right label by the injected flaws, and the label as written (with noise).
struct Judgement {
  Request request;
  Answer first;
  Answer second;
  bool first_is_better = false;
  bool label_first = false;
  std::string reasons;
};

/// How the corpus is mixed.
struct MixOptions {
  double persona_share = 0.15;
  double unguided_share = 0.03;
  double answer_share = 0.42;  // the rest are judge documents
  double careful_share = 0.2;
  double careful_flawed = 0.06;
  double one_apart_share = 0.5;  // of judge documents: two answers that differ in one flaw
  double label_noise = 0.05;
  double judge_user_weight = 0.2;
  double label_weight = 8.0;
  double remark_weight = 2.0;  // the user's reply to an answer
};

Persona compose_persona(std::uint64_t seed, std::uint64_t index, Split split);
/// What this persona would ask; a new request for every `index`.
Request compose_request(std::uint64_t seed, std::uint64_t index, const Persona& persona, Split split);
/// The k-th of the popular requests, drawn by Zipf's law: what comes to mind without a persona.
Request compose_unguided(std::uint64_t seed, std::uint64_t index);
/// Request of a fresh persona.
Request compose_any_request(std::uint64_t seed, std::uint64_t index, Split split);
/// True where flaw set `flaws` can be injected in an answer to `request`.
bool can_have(const Request& request, Flaws flaws);
/// An answer with exactly `flaws`; wording is a pure function of `key`.
Answer compose_answer(const Request& request, Flaws flaws, bool careful, std::uint64_t key);
/// An answer as the corpus has them: careful or careless, with the flaws these have.
Answer compose_mixed_answer(const Request& request, std::uint64_t key, const MixOptions& mix = {});
Judgement compose_judgement(std::uint64_t seed, std::uint64_t index, Split split, const MixOptions& mix = {});
/// Document `index` of the corpus.
Document compose_document(std::uint64_t seed, std::uint64_t index, const MixOptions& mix = {});

/// The texts of the user turns.
std::string persona_prompt(std::string_view persona);
std::string judge_prompt(std::string_view request, std::string_view first, std::string_view second);

}  // namespace microworld
