// SPDX-License-Identifier: Apache-2.0
// Every request and every sentence an answer can be made of stands in a table built from the facts;
// whatever is not found there is not understood, and counts against the answer.
#include "oracle.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <unordered_map>

#include "facts.h"

namespace microworld {
namespace {

enum class Kind { kAsk, kList, kCompare, kDescribe, kSteps, kNeed, kAdvice, kNote };
enum class Wish { kNone, kBegin, kEnd, kName };

struct Question {
  Kind kind{};
  int subject = -1;
  int other = -1;
  Attribute attribute{};
  Domain domain{};
  int count = 0;
  int activity = -1;
  int problem = -1;
  int note = -1;
  std::string recipient = {};
  std::string thing = {};
  Wish wish = Wish::kNone;
  std::string word = {};
};

enum class Says { kFact, kPronounFact, kBigger, kRemedy, kNoteFirst, kNoteSecond, kStep };

struct Statement {
  Says says{};
  int subject = -1;
  int other = -1;
  Attribute attribute{};
  std::string value = {};
  int note = -1;
  std::string recipient = {};
  std::string thing = {};
};

// Lower case, no punctuation, single spaces.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto u = static_cast<unsigned char>(c);
    if (std::isalnum(u) || c == '-') {
      out += static_cast<char>(std::tolower(u));
    } else if (c == ' ' && !out.empty() && out.back() != ' ') {
      out += ' ';
    }
  }
  while (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

std::string value_of(const Subject& s, int attribute) {
  return std::string(s.values[static_cast<std::size_t>(attribute)]);
}

class Tables {
 public:
  Tables() {
    build_questions();
    build_statements();
  }

  std::unordered_map<std::string, Question> questions;
  std::unordered_map<std::string, Statement> statements;
  std::unordered_map<std::string, int> listed;  // "a fox" -> subject
  std::set<std::string> openings;
  std::set<std::string> fillers_said;
  std::set<std::string> wishes;

 private:
  void build_questions() {
    const auto all = subjects();
    for (int i = 0; i < static_cast<int>(all.size()); ++i) {
      const Subject& s = all[static_cast<std::size_t>(i)];
      const std::string name = with_article(s);
      for (int a = 0; a < kAttributeCount; ++a) {
        if (value_of(s, a).empty()) continue;
        Question q{.kind = Kind::kAsk, .subject = i, .attribute = static_cast<Attribute>(a)};
        for (const auto text : phrases(q.attribute).questions) {
          questions[fill(text, {{"s", name}, {"n", s.name}})] = q;
        }
      }
      for (int n = 2; n <= 3; ++n) {
        Question q{.kind = Kind::kDescribe, .subject = i, .count = n};
        for (const auto text : describe_questions()) {
          questions[fill(text, {{"n", number_word(n)}, {"s", name}})] = q;
        }
      }
      for (int j = 0; j < static_cast<int>(all.size()); ++j) {
        const Subject& t = all[static_cast<std::size_t>(j)];
        if (s.size == 0 || t.size == 0 || s.size == t.size) continue;
        Question q{.kind = Kind::kCompare, .subject = i, .other = j};
        const std::string b = with_article(t);
        for (const auto text : bigger_questions()) questions[fill(text, {{"a", name}, {"b", b}})] = q;
        for (const auto text : smaller_questions()) {
          questions[fill(text, {{"a", name}, {"b", b}})] = q;
        }
      }
    }
    for (int d = 0; d < kDomainCount; ++d) {
      for (int n = 2; n <= 4; ++n) {
        Question q{.kind = Kind::kList, .domain = static_cast<Domain>(d), .count = n};
        for (const auto text : list_questions()) {
          questions[fill(text, {{"n", number_word(n)}, {"c", plural(q.domain)}})] = q;
        }
      }
    }
    for (int i = 0; i < static_cast<int>(activities().size()); ++i) {
      const std::string_view name = activities()[static_cast<std::size_t>(i)].name;
      for (const auto text : steps_questions()) {
        questions[fill(text, {{"x", name}})] = {.kind = Kind::kSteps, .count = 3, .activity = i};
      }
      for (const auto text : need_questions()) {
        questions[fill(text, {{"x", name}})] = {.kind = Kind::kNeed, .count = 3, .activity = i};
      }
    }
    for (int i = 0; i < static_cast<int>(problems().size()); ++i) {
      for (const auto text : advice_questions()) {
        questions[fill(text, {{"p", problems()[static_cast<std::size_t>(i)].text}})] = {.kind = Kind::kAdvice,
                                                                                        .problem = i};
      }
    }
    for (int i = 0; i < static_cast<int>(note_kinds().size()); ++i) {
      const NoteKind& note = note_kinds()[static_cast<std::size_t>(i)];
      for (const auto r : recipients()) {
        for (const auto t : note.things) {
          for (const auto text : note.requests) {
            questions[fill(text, {{"r", r}, {"t", t}})] = {
                .kind = Kind::kNote, .note = i, .recipient = std::string(r), .thing = std::string(t)};
          }
        }
      }
    }
  }

  void build_statements() {
    const auto all = subjects();
    for (int a = 0; a < kAttributeCount; ++a) {
      const auto attribute = static_cast<Attribute>(a);
      for (const auto v : values_of(attribute)) {
        Statement said{.says = Says::kPronounFact, .attribute = attribute, .value = std::string(v)};
        statements[plain(fill(phrases(attribute).pronoun, {{"v", v}}))] = said;
        said.says = Says::kFact;
        for (int i = 0; i < static_cast<int>(all.size()); ++i) {
          const Subject& s = all[static_cast<std::size_t>(i)];
          said.subject = i;
          statements[plain(fill(phrases(attribute).statement, {{"s", with_article(s)}, {"n", s.name}, {"v", v}}))] =
              said;
        }
      }
    }
    for (int i = 0; i < static_cast<int>(all.size()); ++i) {
      const Subject& s = all[static_cast<std::size_t>(i)];
      listed[plain(with_article(s))] = i;
      for (int j = 0; j < static_cast<int>(all.size()); ++j) {
        const Subject& t = all[static_cast<std::size_t>(j)];
        if (i == j || s.size == 0 || t.size == 0) continue;
        const Statement said{.says = Says::kBigger, .subject = i, .other = j};
        statements[plain(with_article(s) + " is bigger than " + with_article(t))] = said;
        statements[plain(with_article(t) + " is smaller than " + with_article(s))] = said;
      }
    }
    for (const Problem& p : problems()) {
      statements[plain("you should " + std::string(p.remedy))] = {.says = Says::kRemedy,
                                                                  .value = std::string(p.remedy)};
    }
    for (const Activity& a : activities()) {
      for (const auto step : a.steps) {
        statements[plain(step)] = {.says = Says::kStep, .value = std::string(step)};
      }
    }
    for (int i = 0; i < static_cast<int>(note_kinds().size()); ++i) {
      const NoteKind& note = note_kinds()[static_cast<std::size_t>(i)];
      statements[plain(note.second)] = {.says = Says::kNoteSecond, .note = i};
      for (const auto r : recipients()) {
        for (const NoteKind& from : note_kinds()) {
          for (const auto t : from.things) {
            statements[plain(fill(note.first, {{"r", r}, {"t", t}}))] = {
                .says = Says::kNoteFirst, .note = i, .recipient = std::string(r), .thing = std::string(t)};
          }
        }
      }
    }
    for (const auto text : careful_openings()) openings.insert(plain(text));
    for (const auto text : careless_openings()) openings.insert(plain(text));
    for (const auto text : begin_words()) openings.insert(plain(text));
    for (const auto text : fillers()) fillers_said.insert(plain(text));
    for (const auto text : end_wishes()) wishes.insert(plain(text));
  }
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

// The wish at the end of a request, and the request without it.
std::optional<Question> find_question(std::string_view request) {
  struct Form {
    std::string_view text;
    Wish wish;
  };
  constexpr Form kForms[] = {
      {" Start with the word ", Wish::kBegin}, {" First say ", Wish::kBegin}, {" End with ", Wish::kEnd},
      {" At the end, say ", Wish::kEnd},       {" Call me ", Wish::kName},    {" My name is ", Wish::kName},
  };
  std::string core(request);
  Wish wish = Wish::kNone;
  std::string word;
  for (const Form& form : kForms) {
    const std::size_t at = request.rfind(form.text);
    if (at == std::string_view::npos || request.back() != '.') continue;
    const std::size_t from = at + form.text.size();
    word = plain(request.substr(from, request.size() - 1 - from));
    core = std::string(request.substr(0, at));
    wish = form.wish;
    const auto among = [&word](auto words) {
      return std::ranges::any_of(words, [&](auto w) { return plain(w) == word; });
    };
    const bool known = wish == Wish::kBegin ? among(begin_words())
                       : wish == Wish::kEnd ? among(end_wishes())
                                            : among(names());
    if (!known) return std::nullopt;
    break;
  }
  const auto found = tables().questions.find(core);
  if (found == tables().questions.end()) return std::nullopt;
  Question q = found->second;
  q.wish = wish;
  q.word = word;
  return q;
}

struct Sentences {
  std::vector<std::string> whole;
  bool broken = false;  // the last one lacks its end
};

Sentences split_sentences(std::string_view answer) {
  Sentences out;
  std::string current;
  for (const char c : answer) {
    current += c;
    if (c == '.' || c == '!' || c == '?') {
      if (!plain(current).empty()) out.whole.push_back(current);
      current.clear();
    }
  }
  out.broken = !plain(current).empty();
  return out;
}

bool is_greeting(const std::string& sentence) {
  return sentence.starts_with("hi ") &&
         std::ranges::any_of(names(), [&](std::string_view n) { return sentence.substr(3) == plain(n); });
}

// Items of "A fox, a cow and a pig."
std::vector<std::string> items_of(std::string_view sentence) {
  std::string text(sentence);
  for (std::size_t at; (at = text.find(" and ")) != std::string::npos;) text.replace(at, 5, ",");
  std::vector<std::string> items;
  std::string item;
  for (const char c : text + ",") {
    if (c == ',') {
      if (!plain(item).empty()) items.push_back(plain(item));
      item.clear();
    } else {
      item += c;
    }
  }
  return items;
}

// Flaws of the core: the sentences that are left without openings, wishes and idle talk.
class Core {
 public:
  Core(const Question& q, bool broken) : q_(q), broken_(broken) {}

  Flaws judge(const std::vector<std::string>& sentences) {
    if (sentences.empty()) return broken_ ? 0 : kOffTopic;
    for (const std::string& sentence : sentences) take(sentence);
    if (relevant_ == 0) return kOffTopic;
    if (stray_) flaws_ |= kIdle;
    finish();
    return flaws_;
  }

 private:
  void take(const std::string& sentence) {
    const std::string key = plain(sentence);
    if (!said_.insert(key).second) {
      flaws_ |= kRepeats;
      return;
    }
    if (q_.kind == Kind::kList || q_.kind == Kind::kNeed) {
      take_list(sentence, key);
      return;
    }
    const auto found = tables().statements.find(key);
    if (found == tables().statements.end()) {
      stray_ = true;
      topic_ = -1;
    } else {
      take_statement(found->second);
    }
  }

  void take_statement(const Statement& s) {
    const auto all = subjects();
    if (s.says == Says::kFact) topic_ = s.subject;
    switch (q_.kind) {
      case Kind::kAsk:
        if (s.says != Says::kFact || s.subject != q_.subject || s.attribute != q_.attribute) break;
        relevant(s.value == value_of(all[static_cast<std::size_t>(q_.subject)], static_cast<int>(s.attribute)));
        return;
      case Kind::kDescribe: {
        const bool fact = s.says == Says::kFact || s.says == Says::kPronounFact;
        if (!fact || topic_ != q_.subject) break;
        const int a = static_cast<int>(s.attribute);
        if (!told_.insert(a).second) flaws_ |= kRepeats;
        relevant(s.value == value_of(all[static_cast<std::size_t>(q_.subject)], a));
        return;
      }
      case Kind::kCompare: {
        if (s.says != Says::kBigger) break;
        const std::set<int> asked = {q_.subject, q_.other};
        if (asked != std::set<int>{s.subject, s.other}) break;
        relevant(all[static_cast<std::size_t>(s.subject)].size > all[static_cast<std::size_t>(s.other)].size);
        return;
      }
      case Kind::kAdvice:
        if (s.says != Says::kRemedy) break;
        relevant(s.value == problems()[static_cast<std::size_t>(q_.problem)].remedy);
        return;
      case Kind::kNote:
        if (s.note != q_.note) break;
        relevant(s.says == Says::kNoteSecond || (s.recipient == q_.recipient && s.thing == q_.thing));
        return;
      case Kind::kSteps: {
        if (s.says != Says::kStep) break;
        ++steps_;
        const auto& own = activities()[static_cast<std::size_t>(q_.activity)].steps;
        const auto at = std::ranges::find(own, s.value);
        if (at == own.end()) {
          flaws_ |= kWrong;
          return;
        }
        const int index = static_cast<int>(at - own.begin());
        relevant(index > last_step_);
        last_step_ = index;
        return;
      }
      default:
        break;
    }
    stray_ = true;
  }

  void take_list(std::string_view sentence, const std::string& key) {
    const bool need = key.starts_with("you need ");
    if (need != (q_.kind == Kind::kNeed) || relevant_ > 0) {
      stray_ = true;
      return;
    }
    const std::vector<std::string> items = items_of(need ? sentence.substr(9) : sentence);
    int right = 0;
    std::set<std::string> seen;
    for (const std::string& item : items) {
      if (!seen.insert(item).second) flaws_ |= kRepeats;
      if (belongs(item)) ++right;
    }
    if (right == 0) {
      stray_ = true;
      return;
    }
    relevant_ = 1;
    if (right < static_cast<int>(items.size())) flaws_ |= kWrong;
    listed_ = static_cast<int>(items.size());
  }

  bool belongs(const std::string& item) const {
    if (q_.kind == Kind::kNeed) {
      return std::ranges::any_of(activities()[static_cast<std::size_t>(q_.activity)].needs,
                                 [&](auto need) { return plain(need) == item; });
    }
    const auto found = tables().listed.find(item);
    return found != tables().listed.end() && subjects()[static_cast<std::size_t>(found->second)].domain == q_.domain;
  }

  void relevant(bool right) {
    ++relevant_;
    if (!right) flaws_ |= kWrong;
  }

  void finish() {
    if (broken_) return;
    const int said = q_.kind == Kind::kDescribe ? static_cast<int>(told_.size())
                     : q_.kind == Kind::kSteps  ? steps_
                                                : listed_;
    if (q_.count > 0 && said != q_.count) flaws_ |= kCount;
    if (q_.kind == Kind::kNote && relevant_ < 2) flaws_ |= kCount;
  }

  const Question& q_;
  bool broken_;
  Flaws flaws_ = 0;
  int relevant_ = 0;
  bool stray_ = false;
  int topic_ = -1;
  int steps_ = 0;
  int last_step_ = -1;
  int listed_ = 0;
  std::set<std::string> said_;
  std::set<int> told_;
};

}  // namespace

bool is_request(std::string_view request) { return find_question(request).has_value(); }

std::optional<Assessment> assess(std::string_view request, std::string_view answer) {
  const std::optional<Question> q = find_question(request);
  if (!q) return std::nullopt;
  Sentences sentences = split_sentences(answer);
  Flaws flaws = sentences.broken ? kBroken : 0;

  std::string first_word = plain(answer.substr(0, answer.find_first_of(" .,!")));
  bool greeted = false;
  std::vector<std::string> core;
  bool opening = true;
  for (std::size_t i = 0; i < sentences.whole.size(); ++i) {
    const std::string key = plain(sentences.whole[i]);
    if (opening && is_greeting(key)) {
      const bool asked = q->wish == Wish::kName && key.substr(3) == q->word;
      (asked ? greeted : opening) = true;
      if (!asked) flaws |= kIdle;  // greets somebody who is not there
      continue;
    }
    if (opening && tables().openings.contains(key)) continue;
    opening = false;
    if (tables().fillers_said.contains(key)) {
      flaws |= kIdle;
      continue;
    }
    if (tables().wishes.contains(key)) {
      const bool asked = q->wish == Wish::kEnd && key == q->word;
      if (!asked) flaws |= kIdle;
      continue;
    }
    core.push_back(sentences.whole[i]);
  }
  const bool ends_well = !sentences.broken && !sentences.whole.empty() && plain(sentences.whole.back()) == q->word;
  if ((q->wish == Wish::kBegin && first_word != q->word) || (q->wish == Wish::kName && !greeted) ||
      (q->wish == Wish::kEnd && !ends_well)) {
    flaws |= kIgnored;
  }
  flaws |= Core(*q, sentences.broken).judge(core);
  return Assessment{flaws, score_of(flaws)};
}

std::vector<std::string> flaw_names(Flaws flaws) {
  std::vector<std::string> out;
  for (int i = 0; i < kFlawCount; ++i) {
    if (flaws & (Flaws{1} << i)) out.emplace_back(kFlaws[static_cast<std::size_t>(i)].name);
  }
  return out;
}

}  // namespace microworld
