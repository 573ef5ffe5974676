// SPDX-License-Identifier: Apache-2.0
// What is true in the micro world: read-only tables shared by the composer and the oracle.
//   for (const Subject& s : subjects()) { ... s.values[attribute] ... }
#pragma once

#include <array>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace microworld {

/// What a subject belongs to; a list request asks for members of one domain.
enum class Domain {
  kFarm,
  kWild,
  kSea,
  kBird,
  kFruit,
  kVegetable,
  kFlower,
  kTool,
  kKitchen,
  kHouse,
  kTravel,
  kWord,
  kWork,
};
inline constexpr int kDomainCount = 13;

/// What can be said of a subject.
enum class Attribute {
  kColor,
  kHome,
  kFood,
  kSound,
  kYoung,
  kGrows,
  kSeason,
  kUse,
  kKept,
  kMaterial,
  kCapital,
  kContinent,
  kOpposite,
  kWorkplace,
};
inline constexpr int kAttributeCount = 14;

/// A thing one can ask about. `values` is empty where an attribute does not apply.
struct Subject {
  std::string_view name;
  std::string_view article;  // "a", "an" or "" (countries, words)
  Domain domain{};
  int size = 0;  // rank among animals, 0 elsewhere; only clearly different ranks are compared
  std::array<std::string_view, kAttributeCount> values{};
};

/// A thing one can do, with what it takes and how it is done.
struct Activity {
  std::string_view name;  // "bake bread"
  Domain domain{};
  std::array<std::string_view, 3> needs{};
  std::array<std::string_view, 3> steps{};  // whole sentences
};

/// A small trouble and its remedy.
struct Problem {
  std::string_view text;    // "My tooth hurts."
  std::string_view remedy;  // "see a dentist"
  Domain domain{};
};

/// A kind of short note. `{r}` is the recipient, `{t}` the thing or event.
struct NoteKind {
  std::array<std::string_view, 2> requests{};
  std::string_view first;
  std::string_view second;
  std::vector<std::string_view> things;
};

/// How an attribute is asked for and stated. `{s}` is the subject with its article, `{n}` without,
/// `{v}` the value.
struct AttributePhrases {
  std::array<std::string_view, 3> questions{};
  std::string_view statement;
  std::string_view pronoun;  // second sentence about the same subject
};

/// What a job or a hobby makes a person ask about.
struct Interest {
  std::string_view text;
  std::array<Domain, 3> domains{};
};

std::span<const Subject> subjects();
std::span<const Activity> activities();
std::span<const Problem> problems();
std::span<const NoteKind> note_kinds();
std::span<const Interest> jobs();
std::span<const Interest> hobbies();
std::span<const std::string_view> recipients();
std::span<const std::string_view> names();
std::span<const std::string_view> traits();
std::span<const std::string_view> places();

const AttributePhrases& phrases(Attribute attribute);
/// "farm animals"; empty for domains that are not listed.
std::string_view plural(Domain domain);
/// Distinct values of an attribute over all subjects, in table order.
const std::vector<std::string_view>& values_of(Attribute attribute);
/// Domains whose members could be mistaken for each other (a hen is a farm animal too).
bool are_close(Domain a, Domain b);
/// Values of which a reader would not call one plainly wrong where the other is meant.
bool are_similar(std::string_view a, std::string_view b);

/// Words a request may ask to start with, wishes it may ask to end with.
std::span<const std::string_view> begin_words();
std::span<const std::string_view> end_wishes();
/// Sentences that say nothing, and the openings of careful and careless answers.
std::span<const std::string_view> fillers();
std::span<const std::string_view> careful_openings();
std::span<const std::string_view> careless_openings();

/// Phrasings of the other request families; placeholders {n} number word, {c} plural of a domain,
/// {a} and {b} subjects, {x} activity, {s} subject, {p} problem.
std::span<const std::string_view> list_questions();
std::span<const std::string_view> bigger_questions();
std::span<const std::string_view> smaller_questions();
std::span<const std::string_view> describe_questions();
std::span<const std::string_view> steps_questions();
std::span<const std::string_view> need_questions();
std::span<const std::string_view> advice_questions();
/// "two", "three", ...
std::string_view number_word(int n);

/// `text` with every `{key}` replaced.
std::string fill(std::string_view text, std::initializer_list<std::pair<std::string_view, std::string_view>> values);
/// "a fox", "France".
std::string with_article(const Subject& subject);
/// First letter in upper case.
std::string capitalized(std::string text);

}  // namespace microworld
