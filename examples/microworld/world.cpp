// SPDX-License-Identifier: Apache-2.0
#include "world.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "templates.h"

namespace microworld {
namespace {

// Streams of the composer.
enum Stream : std::uint64_t { kPersonas = 1, kRequests, kPopular, kZipf, kAnswers, kJudges, kMix };

constexpr int kPopularCount = 200;

std::uint64_t mix_bits(std::uint64_t x) {  // SplitMix64 finalizer
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

std::uint64_t hash_of(std::string_view text) {  // FNV-1a, then mixed
  std::uint64_t h = 1469598103934665603ULL;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return mix_bits(h);
}

bool is_held_out(std::string_view text) { return hash_of(text) % 8 == 0; }

template <typename Range>
const auto& pick(Rng& rng, const Range& range) {
  return range[static_cast<std::size_t>(rng.below(static_cast<int>(std::size(range))))];
}

int index_of(Rng& rng, auto span) { return rng.below(static_cast<int>(span.size())); }

const Subject& subject(int i) { return subjects()[static_cast<std::size_t>(i)]; }
const Activity& activity(int i) { return activities()[static_cast<std::size_t>(i)]; }
const Problem& problem(int i) { return problems()[static_cast<std::size_t>(i)]; }
const NoteKind& note(int i) { return note_kinds()[static_cast<std::size_t>(i)]; }

std::string_view value(const Subject& s, Attribute a) { return s.values[static_cast<std::size_t>(a)]; }

std::vector<int> members(Domain domain) {
  std::vector<int> result;
  for (int i = 0; i < static_cast<int>(subjects().size()); ++i) {
    if (subject(i).domain == domain) result.push_back(i);
  }
  return result;
}

std::vector<Attribute> known(const Subject& s) {
  std::vector<Attribute> result;
  for (int a = 0; a < kAttributeCount; ++a) {
    if (!s.values[static_cast<std::size_t>(a)].empty()) result.push_back(static_cast<Attribute>(a));
  }
  return result;
}

template <typename Items>
std::vector<int> of_domain(const Items& items, Domain domain) {
  std::vector<int> result;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (items[i].domain == domain) result.push_back(static_cast<int>(i));
  }
  return result;
}

// The first `n` of a seeded shuffle.
std::vector<int> sample(Rng& rng, std::vector<int> items, int n) {
  for (int i = 0; i < n && i < static_cast<int>(items.size()); ++i) {
    std::swap(items[i], items[i + rng.below(static_cast<int>(items.size()) - i)]);
  }
  items.resize(std::min<std::size_t>(items.size(), static_cast<std::size_t>(n)));
  return items;
}

Constraint compose_constraint(Rng& rng, std::optional<int> name) {
  switch (rng.weighted({0.40, 0.18, 0.18, 0.24})) {
    case 1:
      return {ConstraintKind::kBegin, pick(rng, begin_words())};
    case 2:
      return {ConstraintKind::kEnd, pick(rng, end_wishes())};
    case 3:
      return {ConstraintKind::kName, name ? names()[static_cast<std::size_t>(*name)] : pick(rng, names())};
    default:
      return {};
  }
}

std::string constraint_text(Rng& rng, const Constraint& c) {
  const std::string word(c.word);
  switch (c.kind) {
    case ConstraintKind::kBegin:
      return rng.chance(0.5) ? " Start with the word " + word + "." : " First say " + word + ".";
    case ConstraintKind::kEnd:
      return rng.chance(0.5) ? " End with " + word + "." : " At the end, say " + word + ".";
    case ConstraintKind::kName:
      return rng.chance(0.5) ? " Call me " + word + "." : " My name is " + word + ".";
    case ConstraintKind::kNone:
      return {};
  }
  return {};
}

// A request within `domain`.
Request draw_request(Rng& rng, Domain domain, std::optional<int> name) {
  Request r;
  r.domain = domain;
  const std::vector<int> all = members(domain);
  const std::vector<int> doing = of_domain(activities(), domain);
  const std::vector<int> trouble = of_domain(problems(), domain);
  const bool animals = subject(all[0]).size > 0;
  r.subject = pick(rng, all);
  const bool describable = known(subject(r.subject)).size() >= 2;
  r.family = static_cast<Family>(rng.weighted({
      0.30,
      plural(domain).empty() ? 0.0 : 0.14,
      animals ? 0.16 : 0.0,
      describable ? 0.20 : 0.0,
      doing.empty() ? 0.0 : 0.10,
      doing.empty() ? 0.0 : 0.10,
      trouble.empty() ? 0.0 : 0.10,
      0.10,
  }));
  const auto s_text = [&] { return with_article(subject(r.subject)); };
  switch (r.family) {
    case Family::kAsk: {
      r.attribute = pick(rng, known(subject(r.subject)));
      r.text = fill(pick(rng, phrases(r.attribute).questions), {{"s", s_text()}, {"n", subject(r.subject).name}});
      break;
    }
    case Family::kList: {
      r.count = 2 + rng.below(3);
      r.text = fill(pick(rng, list_questions()), {{"n", number_word(r.count)}, {"c", plural(domain)}});
      break;
    }
    case Family::kCompare: {
      // Any animal of another size; names of the two stand in either order.
      do {
        r.other = index_of(rng, subjects());
      } while (subject(r.other).size == 0 || std::abs(subject(r.other).size - subject(r.subject).size) < 2);
      r.bigger = rng.chance(0.5);
      std::string a = s_text();
      std::string b = with_article(subject(r.other));
      if (rng.chance(0.5)) std::swap(a, b);
      r.text = fill(pick(rng, r.bigger ? bigger_questions() : smaller_questions()), {{"a", a}, {"b", b}});
      break;
    }
    case Family::kDescribe: {
      r.count = known(subject(r.subject)).size() >= 3 && rng.chance(0.4) ? 3 : 2;
      r.text = fill(pick(rng, describe_questions()), {{"n", number_word(r.count)}, {"s", s_text()}});
      break;
    }
    case Family::kSteps:
    case Family::kNeed: {
      r.count = 3;
      r.activity = pick(rng, doing);
      r.text = fill(pick(rng, r.family == Family::kSteps ? steps_questions() : need_questions()),
                    {{"x", activity(r.activity).name}});
      break;
    }
    case Family::kAdvice: {
      r.problem = pick(rng, trouble);
      r.text = fill(pick(rng, advice_questions()), {{"p", problem(r.problem).text}});
      break;
    }
    case Family::kNote: {
      r.note = index_of(rng, note_kinds());
      r.recipient = index_of(rng, recipients());
      r.thing = rng.below(static_cast<int>(note(r.note).things.size()));
      r.text = fill(pick(rng, note(r.note).requests), {{"r", recipients()[static_cast<std::size_t>(r.recipient)]},
                                                       {"t", note(r.note).things[static_cast<std::size_t>(r.thing)]}});
      break;
    }
  }
  r.constraint = compose_constraint(rng, name);
  r.text += constraint_text(rng, r.constraint);
  return r;
}

// ---- Answers: a core of sentences or list items, then opening, wish and idle talk around it.

std::string statement(const Subject& s, Attribute a, std::string_view v, bool pronoun) {
  const AttributePhrases& p = phrases(a);
  return capitalized(fill(pronoun ? p.pronoun : p.statement, {{"s", with_article(s)}, {"n", s.name}, {"v", v}}));
}

// A plainly wrong value. Most mistakes about one fact are the same popular one.
std::string_view wrong_value(Rng& rng, int subject_index, Attribute a) {
  const std::string_view truth = value(subject(subject_index), a);
  std::vector<std::string_view> choices;
  for (const std::string_view v : values_of(a)) {
    if (!are_similar(v, truth)) choices.push_back(v);
  }
  if (rng.chance(0.95)) {
    const std::uint64_t h = hash_of(std::string(subject(subject_index).name) + std::string(truth));
    return choices[h % choices.size()];
  }
  return pick(rng, choices);
}

std::string join_items(const std::vector<std::string>& items) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) text += i + 1 == items.size() ? " and " : ", ";
    text += items[i];
  }
  return text;
}

std::string list_sentence(const std::vector<std::string>& items, bool need) {
  return need ? "You need " + join_items(items) + "." : capitalized(join_items(items)) + ".";
}

std::string item_text(Domain, int i) { return with_article(subject(i)); }

std::string comparison(int big, int small, bool bigger) {
  const std::string a = with_article(subject(big));
  const std::string b = with_article(subject(small));
  return bigger ? capitalized(a) + " is bigger than " + b + "." : capitalized(b) + " is smaller than " + a + ".";
}

Rng core_stream(std::uint64_t key) { return Rng(key, kAnswers, 0).fork(4); }

// Sentences of an answer to `r` with the core flaws among `flaws`.
std::vector<std::string> core_sentences(const Request& r, Flaws flaws, Rng rng) {
  // One stream per decision: toggling a flaw leaves the other words as they were.
  Rng shape = rng.fork(1);
  Rng slip = rng.fork(2);
  std::vector<std::string> out;
  switch (r.family) {
    case Family::kAsk: {
      const std::string_view v =
          flaws & kWrong ? wrong_value(slip, r.subject, r.attribute) : value(subject(r.subject), r.attribute);
      out.push_back(statement(subject(r.subject), r.attribute, v, false));
      break;
    }
    case Family::kCompare: {
      int big = r.subject;
      int small = r.other;
      if (subject(big).size < subject(small).size) std::swap(big, small);
      if (flaws & kWrong) std::swap(big, small);
      out.push_back(comparison(big, small, r.bigger));
      break;
    }
    case Family::kAdvice: {
      std::string_view remedy = problem(r.problem).remedy;
      if (flaws & kWrong) {
        // Like other mistakes, most about one problem are the same.
        const int count = static_cast<int>(problems().size());
        int p = slip.chance(0.95) ? static_cast<int>(hash_of(problem(r.problem).text) % problems().size())
                                  : index_of(slip, problems());
        while (problem(p).domain == problem(r.problem).domain || problem(p).remedy == remedy) p = (p + 1) % count;
        remedy = problem(p).remedy;
      }
      out.push_back("You should " + std::string(remedy) + ".");
      break;
    }
    case Family::kNote: {
      std::string_view who = recipients()[static_cast<std::size_t>(r.recipient)];
      std::string_view what = note(r.note).things[static_cast<std::size_t>(r.thing)];
      if (flaws & kWrong) {
        if (slip.chance(0.4)) {
          const std::string_view right = who;
          while (who == right) who = pick(slip, recipients());
        } else {
          const std::string_view right = what;
          while (what == right) what = pick(slip, note(r.note).things);
        }
      }
      out.push_back(fill(note(r.note).first, {{"r", who}, {"t", what}}));
      out.push_back(std::string(note(r.note).second));
      break;
    }
    case Family::kDescribe: {
      const std::vector<Attribute> attributes = known(subject(r.subject));
      std::vector<int> order(attributes.size());
      for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
      order = sample(shape, order, static_cast<int>(order.size()));
      int n = r.count;
      if (flaws & kCount) {
        const bool more = static_cast<int>(order.size()) > n && slip.chance(0.1);
        n += more ? 1 : -1;
      }
      const int bad = flaws & kWrong ? n - 1 : -1;  // the last thing said is the one made up
      for (int i = 0; i < n; ++i) {
        const Attribute a = attributes[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])];
        const std::string_view v = i == bad ? wrong_value(slip, r.subject, a) : value(subject(r.subject), a);
        out.push_back(statement(subject(r.subject), a, v, i > 0));
      }
      break;
    }
    case Family::kSteps: {
      const auto& steps = activity(r.activity).steps;
      out.assign(steps.begin(), steps.end());
      if (flaws & kWrong) {
        int other;
        do {
          other = index_of(slip, activities());
        } while (other == r.activity);
        out[static_cast<std::size_t>(slip.below(3))] = pick(slip, activity(other).steps);
      }
      if (flaws & kCount) out.erase(out.begin() + 1);
      break;
    }
    case Family::kList:
    case Family::kNeed: {
      const bool need = r.family == Family::kNeed;
      std::vector<std::string> items;
      std::vector<std::string> spare;
      if (need) {
        const auto& needs = activity(r.activity).needs;
        for (const int i : sample(shape, {0, 1, 2}, 3)) {
          items.emplace_back(needs[static_cast<std::size_t>(i)]);
        }
      } else {
        for (const int i : sample(shape, members(r.domain), r.count + 2)) {
          (static_cast<int>(items.size()) < r.count ? items : spare).push_back(item_text(r.domain, i));
        }
      }
      // A list that is too long costs words, one that is too short saves them.
      if (flaws & kCount) {
        if (!spare.empty() && slip.chance(0.1)) {
          items.push_back(spare[0]);
        } else {
          items.pop_back();
        }
      }
      const int n = static_cast<int>(items.size());
      int spoiled = -1;
      if (flaws & kWrong) {
        std::string wrong;
        if (need) {
          do {
            wrong = pick(slip, activity(index_of(slip, activities())).needs);
          } while (std::ranges::find(activity(r.activity).needs, wrong) != activity(r.activity).needs.end());
        } else {
          int i;
          do {
            i = index_of(slip, subjects());
          } while (are_close(subject(i).domain, r.domain) || plural(subject(i).domain).empty());
          wrong = item_text(r.domain, i);
        }
        spoiled = slip.below(n);
        items[static_cast<std::size_t>(spoiled)] = wrong;
      }
      if (flaws & kRepeats) {
        // The repeated item takes the place of another one.
        int from;
        int to;
        do {
          from = slip.below(n);
          to = slip.below(n);
        } while (from == to || (n > 2 && (from == spoiled || to == spoiled)) || to == spoiled);
        items[static_cast<std::size_t>(to)] = items[static_cast<std::size_t>(from)];
      }
      out.push_back(list_sentence(items, need));
      return out;
    }
  }
  if (flaws & kRepeats) {
    // A whole sentence said twice.
    const int i = slip.below(static_cast<int>(out.size()));
    out.insert(out.begin() + i + 1, out[static_cast<std::size_t>(i)]);
  }
  return out;
}

bool shares_word_of(const Activity& a, const Activity& b) {
  for (const std::string_view need : a.needs) {
    if (std::ranges::find(b.needs, need) != b.needs.end()) return true;
  }
  return false;
}

// A request whose answer says nothing about `r`.
Request unrelated(const Request& r, Rng rng) {
  for (;;) {
    Request other = draw_request(rng, static_cast<Domain>(rng.below(kDomainCount)), std::nullopt);
    const bool same_family = rng.chance(0.5);
    if (same_family != (other.family == r.family)) continue;
    if (r.family == Family::kNote || r.family == Family::kAdvice) {
      if (other.family == r.family) other.family = Family::kAsk, other.attribute = known(subject(other.subject))[0];
    }
    if (r.subject >= 0 && (other.subject == r.subject || other.other == r.subject)) continue;
    if (r.family == Family::kCompare && (other.subject == r.other || other.other == r.other)) continue;
    if (r.family == Family::kList && are_close(other.domain, r.domain)) continue;
    if (r.activity >= 0 && other.activity >= 0 &&
        (other.activity == r.activity || shares_word_of(activity(r.activity), activity(other.activity)))) {
      continue;
    }
    return other;
  }
}

std::string join_sentences(const std::vector<std::string>& sentences) {
  std::string text;
  for (const std::string& s : sentences) {
    if (s.empty()) continue;
    if (!text.empty()) text += ' ';
    text += s;
  }
  return text;
}

std::string opening_of(Rng& rng, bool careful) {
  return std::string(pick(rng, careful ? careful_openings() : careless_openings()));
}

// Drops the last words of the last sentence.
void break_off(std::string& text, Rng& rng) {
  text.pop_back();
  const std::size_t start = text.rfind(". ") == std::string::npos ? 0 : text.rfind(". ") + 2;
  int words = 1 + static_cast<int>(std::count(text.begin() + static_cast<std::ptrdiff_t>(start), text.end(), ' '));
  int drop = 1 + rng.below(std::max(1, std::min(3, words - 1)));
  while (drop-- > 0 && text.rfind(' ') != std::string::npos && text.rfind(' ') > start) {
    text.resize(text.rfind(' '));
  }
  while (!text.empty() && (text.back() == ',' || text.back() == '.')) text.pop_back();
}

Request draw_popular(std::uint64_t seed, int rank) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    Rng rng = Rng(seed, kPopular, static_cast<std::uint64_t>(rank)).fork(attempt);
    Request r = draw_request(rng, static_cast<Domain>(rng.below(kDomainCount)), std::nullopt);
    if (!is_held_out(r.text)) return r;
  }
}

// "is good." or "is wrong and repeats itself."
std::string remark(Flaws flaws) {
  if (flaws == 0) return "is good.";
  std::string text;
  for (int i = 0; i < kFlawCount; ++i) {
    if (!(flaws & (Flaws{1} << i))) continue;
    if (!text.empty()) text += " and ";
    text += kFlaws[static_cast<std::size_t>(i)].phrase;
  }
  return text + ".";
}

// The sentence that a wrong answer should have had; empty where no single sentence says it.
std::string correction(const Request& r, Flaws flaws, std::uint64_t key) {
  const bool stated = r.family == Family::kAsk || r.family == Family::kCompare || r.family == Family::kAdvice ||
                      r.family == Family::kDescribe;
  if (!(flaws & kWrong) || !stated) return {};
  return " " + core_sentences(r, 0, core_stream(key)).back();
}

std::string reasons_of(const Answer& first, const Answer& second) {
  return "\nResponse 1 " + remark(first.flaws) + "\nResponse 2 " + remark(second.flaws);
}

// Flaws of an answer as people make them; `prefer` weighs them in the order of the bits.
Flaws draw_flaws(const Request& r, Rng& rng, int n, const std::vector<double>& prefer) {
  for (;;) {
    Flaws flaws = 0;
    for (int i = 0; i < n; ++i) flaws |= Flaws{1} << rng.weighted(prefer);
    if (can_have(r, flaws)) return flaws;
  }
}

// How often single slips are of each kind, in the order of the bits.
const std::vector<double>& usual_flaws() {
  static const std::vector<double> weights = {0.15, 0.34, 0.28, 0.06, 0.40, 0.16, 0.22};
  return weights;
}

// Flaws of a careless answer. Each family of requests has its typical one, which more than half of the careless answers
// make: rarer or more scattered slips would vanish when answers are sampled at a low temperature.
Flaws careless_flaws(const Request& r, Rng& rng) {
  Flaws flaws = 0;
  const auto slip = [&](Flaws flaw, double rate) {
    if (rng.chance(rate) && can_have(r, flaws | flaw)) flaws |= flaw;
  };
  slip(kOffTopic, 0.06);
  slip(kBroken, 0.08);
  switch (r.family) {
    case Family::kAsk:
    case Family::kCompare:
      slip(kWrong, 0.85);
      break;
    case Family::kAdvice:
      slip(kWrong, 0.75);
      break;
    case Family::kDescribe:
      slip(kWrong, 0.5);
      slip(kCount, 0.8);
      break;
    case Family::kList:
      slip(kCount, 0.7);
      slip(kRepeats, 0.4);
      break;
    case Family::kSteps:
    case Family::kNeed:
      slip(kCount, 0.8);
      break;
    case Family::kNote:
      slip(kIdle, 0.7);
      break;
  }
  slip(kIgnored, 0.75);
  slip(kIdle, 0.45);
  return flaws;
}

}  // namespace

Rng::Rng(std::uint64_t seed, std::uint64_t stream, std::uint64_t index)
    : key_(mix_bits(mix_bits(mix_bits(seed) ^ stream) + index)) {}

std::uint64_t Rng::next() { return mix_bits(key_ ^ mix_bits(counter_++)); }

int Rng::below(int n) { return static_cast<int>((next() >> 32) * static_cast<std::uint64_t>(n) >> 32); }

double Rng::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

int Rng::weighted(const std::vector<double>& weights) {
  double total = 0.0;
  for (const double w : weights) total += w;
  double x = uniform() * total;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    x -= weights[i];
    if (x < 0.0) return static_cast<int>(i);
  }
  return static_cast<int>(weights.size()) - 1;
}

Rng Rng::fork(std::uint64_t tag) const { return Rng(key_, 0x5EED, tag); }

Persona compose_persona(std::uint64_t seed, std::uint64_t index, Split split) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    Rng rng = Rng(seed, kPersonas, index).fork(attempt);
    Persona p;
    p.name = index_of(rng, names());
    p.job = index_of(rng, jobs());
    p.hobby = index_of(rng, hobbies());
    const Interest& job = jobs()[static_cast<std::size_t>(p.job)];
    const Interest& hobby = hobbies()[static_cast<std::size_t>(p.hobby)];
    const std::string key = std::string(job.text) + "/" + std::string(hobby.text);
    if (is_held_out(key) != (split == Split::kHeldOut)) continue;
    const std::string trait(pick(rng, traits()));
    p.text = std::string(names()[static_cast<std::size_t>(p.name)]) + " is " +
             (std::string_view("aeiou").find(trait[0]) == std::string_view::npos ? "a " : "an ") + trait + " " +
             std::string(job.text) + " who " + std::string(hobby.text) + " and lives " +
             std::string(pick(rng, places())) + ".";
    return p;
  }
}

Request compose_request(std::uint64_t seed, std::uint64_t index, const Persona& persona, Split split) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    Rng rng = Rng(seed, kRequests, index).fork(attempt);
    Domain domain = static_cast<Domain>(rng.below(kDomainCount));
    const int source = rng.weighted({0.45, 0.50, 0.05});
    if (source == 0) domain = pick(rng, jobs()[static_cast<std::size_t>(persona.job)].domains);
    if (source == 1) domain = pick(rng, hobbies()[static_cast<std::size_t>(persona.hobby)].domains);
    Request r = draw_request(rng, domain, persona.name);
    if (is_held_out(r.text) == (split == Split::kHeldOut)) return r;
  }
}

Request compose_unguided(std::uint64_t seed, std::uint64_t index) {
  static const std::vector<double> weights = [] {
    std::vector<double> w(kPopularCount);
    for (int i = 0; i < kPopularCount; ++i) w[static_cast<std::size_t>(i)] = 1.0 / (i + 1.0);
    return w;
  }();
  // One popular list for all seeds: what is popular is a property of the world.
  return draw_popular(0, Rng(seed, kZipf, index).weighted(weights));
}

Request compose_any_request(std::uint64_t seed, std::uint64_t index, Split split) {
  return compose_request(seed, index, compose_persona(seed, index, Split::kTrain), split);
}

bool can_have(const Request& r, Flaws flaws) {
  const bool counted = r.family == Family::kList || r.family == Family::kDescribe || r.family == Family::kSteps ||
                       r.family == Family::kNeed;
  if ((flaws & kIgnored) && r.constraint.kind == ConstraintKind::kNone) return false;
  if ((flaws & kCount) && !counted) return false;
  if ((flaws & kOffTopic) && (flaws & (kWrong | kCount | kRepeats | kBroken))) return false;
  if (flaws & kBroken) {
    if (flaws & (kWrong | kCount | kRepeats | kIdle)) return false;
    if (r.constraint.kind == ConstraintKind::kEnd) return false;
  }
  if ((flaws & kCount) && (flaws & (kRepeats | kWrong))) return false;
  if ((flaws & kRepeats) && (flaws & kWrong)) return false;
  return true;
}

Answer compose_answer(const Request& r, Flaws flaws, bool careful, std::uint64_t key) {
  const Rng base(key, kAnswers, 0);
  Rng opening_rng = base.fork(1);
  Rng tail_rng = base.fork(2);
  const Request about = flaws & kOffTopic ? unrelated(r, base.fork(3)) : r;
  std::vector<std::string> parts;

  const bool heeds = !(flaws & kIgnored);
  if (heeds && r.constraint.kind == ConstraintKind::kBegin) {
    parts.push_back(capitalized(std::string(r.constraint.word)) + ".");
  } else if (heeds && r.constraint.kind == ConstraintKind::kName) {
    parts.push_back("Hi " + std::string(r.constraint.word) + ".");
  }
  parts.push_back(opening_of(opening_rng, careful));
  for (std::string& s : core_sentences(about, flaws, core_stream(key))) parts.push_back(std::move(s));
  if (flaws & kIdle) parts.emplace_back(pick(tail_rng, fillers()));
  if (heeds && r.constraint.kind == ConstraintKind::kEnd) {
    parts.push_back(capitalized(std::string(r.constraint.word)) + ".");
  }
  Answer answer{join_sentences(parts), flaws};
  if (flaws & kBroken) break_off(answer.text, tail_rng);
  return answer;
}

Answer compose_mixed_answer(const Request& r, std::uint64_t key, const MixOptions& mix) {
  Rng rng(key, kAnswers, 1);
  const bool careful = rng.chance(mix.careful_share);
  const Flaws flaws = !careful                         ? careless_flaws(r, rng)
                      : rng.chance(mix.careful_flawed) ? draw_flaws(r, rng, 1, usual_flaws())
                                                       : Flaws{0};
  return compose_answer(r, flaws, careful, key);
}

Judgement compose_judgement(std::uint64_t seed, std::uint64_t index, Split split, const MixOptions& mix) {
  for (std::uint64_t attempt = 0;; ++attempt) {
    Rng rng = Rng(seed, kJudges, index).fork(attempt);
    Judgement j;
    j.request = compose_any_request(rng.next(), 0, split);
    const std::uint64_t key = rng.next();
    if (rng.chance(mix.one_apart_share)) {
      // Content flaws, which are harder to see, come more often than in the mixture.
      static const std::vector<double> kHarder = {0.14, 0.40, 0.14, 0.10, 0.22, 0.06, 0.08};
      const Flaws base = rng.chance(0.7) ? 0 : draw_flaws(j.request, rng, 1, usual_flaws());
      const Flaws flaw = Flaws{1} << rng.weighted(kHarder);
      if ((base & flaw) || !can_have(j.request, base | flaw)) continue;
      const bool careful = rng.chance(0.5);
      const bool same_words = rng.chance(0.6);
      j.first = compose_answer(j.request, base, careful, key);
      j.second =
          compose_answer(j.request, base | flaw, same_words ? careful : rng.chance(0.5), same_words ? key : rng.next());
    } else {
      j.first = compose_mixed_answer(j.request, key, mix);
      j.second = compose_mixed_answer(j.request, rng.next(), mix);
    }
    if (score_of(j.first.flaws) == score_of(j.second.flaws)) continue;
    if (rng.chance(0.5)) std::swap(j.first, j.second);
    j.first_is_better = score_of(j.first.flaws) > score_of(j.second.flaws);
    j.label_first = j.first_is_better != rng.chance(mix.label_noise);
    j.reasons = reasons_of(j.first, j.second);
    return j;
  }
}

Document compose_document(std::uint64_t seed, std::uint64_t index, const MixOptions& mix) {
  Rng rng(seed, kMix, index);
  Document d;
  const double rest = 1.0 - mix.persona_share - mix.unguided_share - mix.answer_share;
  d.kind = static_cast<DocumentKind>(rng.weighted({mix.persona_share, mix.unguided_share, mix.answer_share, rest}));
  const auto turns = [&](std::string user, std::string model) {
    d.turns = {{"user", std::move(user), 0.0, 0, 0, 0.0}, {"model", std::move(model), 1.0, 0, 0, 0.0}};
  };
  switch (d.kind) {
    case DocumentKind::kPersona: {
      const Persona p = compose_persona(seed, index, Split::kTrain);
      turns(persona_prompt(p.text), compose_request(seed, index, p, Split::kTrain).text);
      break;
    }
    case DocumentKind::kUnguided:
      turns(std::string(kUnguidedTemplate), compose_unguided(seed, index).text);
      break;
    case DocumentKind::kAnswer: {
      const Request r =
          rng.chance(0.1) ? compose_unguided(seed, index) : compose_any_request(seed, index, Split::kTrain);
      const std::uint64_t key = rng.next();
      const Answer answer = compose_mixed_answer(r, key, mix);
      turns(r.text, answer.text);
      // What the user says to it teaches the model, cheaply, what is true and what the judge has to see.
      d.turns.push_back({"user", "This response " + remark(answer.flaws) + correction(r, answer.flaws, key),
                         mix.remark_weight, 0, 0, 0.0});
      break;
    }
    case DocumentKind::kJudge: {
      const Judgement j = compose_judgement(seed, index, Split::kTrain, mix);
      const std::string label(j.label_first ? kJudgeFirst : kJudgeSecond);
      turns(judge_prompt(j.request.text, j.first.text, j.second.text), std::string(kJudgePrefix) + label + j.reasons);
      d.turns[0].weight = mix.judge_user_weight;
      Turn& verdict = d.turns[1];
      verdict.label_begin = static_cast<int>(kJudgePrefix.size());
      verdict.label_end = verdict.label_begin + static_cast<int>(label.size());
      verdict.label_weight = mix.label_weight;
      break;
    }
  }
  return d;
}

std::string persona_prompt(std::string_view persona) { return fill(kPersonaTemplate, {{"persona", persona}}); }

std::string judge_prompt(std::string_view request, std::string_view first, std::string_view second) {
  return fill(kJudgeTemplate, {{"prompt", request}, {"first", first}, {"second", second}});
}

}  // namespace microworld
