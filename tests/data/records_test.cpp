// SPDX-License-Identifier: Apache-2.0
#include "sao/data/records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "sao/base/error.h"
#include "sao/data/checks.h"
#include "sao/io/files.h"
#include "sao/io/jsonl.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

template <class Record>
Record parse(std::string_view line) {
  Record record;
  from_json_line(line, record);
  return record;
}

template <class Record>
std::string complaint(std::string_view line) {
  try {
    parse<Record>(line);
  } catch (const InputError& error) {
    return error.what();
  }
  return "none";
}

template <class Record>
void expect_round_trip(const Record& record) {
  const std::string line = to_json_line(record);
  EXPECT_EQ(line.find('\n'), std::string::npos) << line;
  EXPECT_EQ(parse<Record>(line), record) << line;
  EXPECT_EQ(to_json_line(parse<Record>(line)), line);
}

TEST(Records, GoBothWays) {
  expect_round_trip(Persona{.text = "a gardener\nwith a \"dog\" \xF0\x9F\x90\x95"});
  expect_round_trip(Prompt{.id = "p000017", .persona = "a", .text = "Why?\n", .ids = {2, 5, 1000}, .outcome = "kept"});
  expect_round_trip(Prompt{.id = "p000018"});
  expect_round_trip(Response{.id = "p000017-0",
                             .prompt_id = "p000017",
                             .k = 1,
                             .text = "Because.",
                             .ids = {7, 1},
                             .finish_reason = "stop",
                             .seed = 18446744073709551615ULL,
                             .weights_version = 3});
  expect_round_trip(Verdict{.id = "p000017",
                            .prompt_id = "p000017",
                            .first_id = "p000017-0",
                            .second_id = "p000017-1",
                            .p_first = 0.1 + 0.2,
                            .p_as_first = 1e-300,
                            .p_as_second = {},
                            .outcome = "first"});
  Preference pair{.id = "p000017",
                  .prompt = {{"user", "Why?"}},
                  .chosen = {{"assistant", "Because."}},
                  .rejected = {{"assistant", ""}},
                  .prompt_ids = {2, 5},
                  .chosen_ids = {7, 1},
                  .rejected_ids = {1},
                  .p = 2.0 / 3.0,
                  .weight = 0.25};
  expect_round_trip(pair);
  pair.prompt_ids = pair.chosen_ids = pair.rejected_ids = {};
  expect_round_trip(pair);
  pair.plain_text = true;
  expect_round_trip(pair);
  expect_round_trip(Preference{.prompt_ids = {2, 5}, .chosen_ids = {7}, .rejected_ids = {8, 9}});
}

// The lines as they stand in a run directory: others read them.
TEST(Records, LinesAreTheContract) {
  EXPECT_EQ(to_json_line(Persona{.text = "x"}), R"({"persona":"x"})");
  EXPECT_EQ(to_json_line(Prompt{.id = "p000001", .persona = "x", .text = "t", .ids = {1, 2}, .outcome = "kept"}),
            R"({"id":"p000001","persona":"x","text":"t","ids":[1,2],"outcome":"kept"})");
  EXPECT_EQ(
      to_json_line(Response{
          .id = "p000001-0", .prompt_id = "p000001", .text = "t", .ids = {1}, .finish_reason = "stop", .seed = 5}),
      R"({"id":"p000001-0","prompt_id":"p000001","k":0,"text":"t","ids":[1],"finish_reason":"stop","seed":5,"weights_version":0})");
  EXPECT_EQ(
      to_json_line(Verdict{.id = "v",
                           .prompt_id = "p",
                           .first_id = "a",
                           .second_id = "b",
                           .p_first = 0.75,
                           .p_as_first = 0.5,
                           .outcome = "first"}),
      R"({"id":"v","prompt_id":"p","first_id":"a","second_id":"b","p_as_first":0.5,"p_as_second":null,"p":0.75,"outcome":"first"})");
  EXPECT_EQ(to_json_line(Preference{.id = "p",
                                    .prompt = {{"user", "q"}},
                                    .chosen = {{"assistant", "a"}},
                                    .rejected = {{"assistant", "b"}},
                                    .prompt_ids = {1},
                                    .chosen_ids = {2, 3},
                                    .rejected_ids = {4}}),
            R"({"id":"p","prompt":[{"role":"user","content":"q"}],"chosen":[{"role":"assistant","content":"a"}],)"
            R"("rejected":[{"role":"assistant","content":"b"}],"prompt_ids":[1],"chosen_ids":[2,3],"rejected_ids":[4],)"
            R"("prompt_length":1,"chosen_length":2,"rejected_length":1,"p":1.0,"weight":1.0})");
}

TEST(Records, InvalidUtf8NeverBreaksWriting) {
  const std::string bad = "a\xff\xc3(\xe2\x82 b";
  for (const std::string& line :
       {to_json_line(Persona{.text = bad}), to_json_line(Prompt{.id = "p", .persona = bad, .text = bad}),
        to_json_line(Response{.id = "p", .text = bad, .finish_reason = "length"}),
        to_json_line(
            Preference{.prompt = {{"user", bad}}, .chosen = {{"assistant", bad}}, .rejected = {{"assistant", bad}}})}) {
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
    EXPECT_THAT(line, HasSubstr("\xEF\xBF\xBD"));
  }
}

TEST(Records, PersonasFromElsewhere) {
  EXPECT_EQ(parse<Persona>(R"({"persona": "x", "source": "y", "n": [1]})").text, "x");
  EXPECT_EQ(complaint<Persona>(R"({"person": "x"})"), "no field \"persona\", expected a string");
  EXPECT_EQ(complaint<Persona>(R"({"persona": 3})"), "field \"persona\" is 3, expected a string");
  EXPECT_EQ(complaint<Persona>(R"({"persona": " \n"})"),
            "field \"persona\" is \" \\n\", expected a text that is not blank");
  EXPECT_EQ(complaint<Persona>(R"(["x"])"), "a list of 1, expected a JSON object");
  EXPECT_THAT(complaint<Persona>(R"({"persona": "x)"), HasSubstr("not valid JSON"));
}

TEST(Records, FieldsOutOfRangeAreNamed) {
  const auto response = [](const std::string& field) {
    return complaint<Response>(R"({"id": "a", "prompt_id": "b", "text": "", "finish_reason": "stop", )" + field + "}");
  };
  EXPECT_EQ(response(R"("k": 1)"), "none");
  EXPECT_EQ(response(R"("k": "1")"), "field \"k\" is \"1\", expected an integer");
  EXPECT_EQ(response(R"("ids": [1, -1])"), "field \"ids\" holds a negative id, expected token ids");
  EXPECT_THAT(response(R"("ids": [1, 2147483648])"), HasSubstr("expected a list of integers below 2^31"));
  EXPECT_EQ(response(R"("seed": -1)"), "field \"seed\" is -1, expected an integer that is not negative");
  EXPECT_EQ(response(R"("finish_reason": "eos")"),
            "field \"finish_reason\" is \"eos\", expected \"stop\" or \"length\"");
  EXPECT_EQ(complaint<Verdict>(R"({"id": "a", "prompt_id": "b", "first_id": "", "second_id": "", "outcome": "tie"})"),
            "no field \"p\", expected a number");
  EXPECT_EQ(complaint<Verdict>(R"({"id": "a", "prompt_id": "b", "outcome": "tie", "p": 1.5})"),
            "no field \"first_id\", expected a string");
  EXPECT_EQ(complaint<Verdict>(
                R"({"id": "a", "prompt_id": "b", "first_id": "", "second_id": "", "outcome": "tie", "p": 1.5})"),
            "field \"p\" is 1.5, expected a probability between 0 and 1");
}

TEST(Preference, PlainStrings) {
  const auto pair = parse<Preference>(R"({"prompt": "q", "chosen": "a", "rejected": "b", "score": 3})");
  EXPECT_TRUE(pair.plain_text);
  EXPECT_EQ(pair.prompt, (Messages{{"user", "q"}}));
  EXPECT_EQ(pair.chosen, (Messages{{"assistant", "a"}}));
  EXPECT_EQ(pair.rejected, (Messages{{"assistant", "b"}}));
  EXPECT_EQ(pair.p, 1.0);
  EXPECT_EQ(pair.weight, 1.0);
}

TEST(Preference, MessageLists) {
  const auto pair = parse<Preference>(
      R"({"id": 12, "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
          "chosen": [{"role": "model", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}], "p": 0.5})");
  EXPECT_FALSE(pair.plain_text);
  EXPECT_EQ(pair.id, "12");
  EXPECT_EQ(pair.prompt, (Messages{{"system", "s"}, {"user", "q"}}));
  EXPECT_EQ(pair.chosen, (Messages{{"assistant", "a"}}));
  EXPECT_EQ(pair.p, 0.5);
}

TEST(Preference, MessagesMayHaveMoreThanRoleAndText) {
  const auto pair = parse<Preference>(
      R"({"prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "text": "?"}]},
                     {"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]},
                     {"role": "tool", "content": "r", "name": "f"}],
          "chosen": [{"role": "model", "content": "a", "name": "m"}], "rejected": [{"role": "assistant", "content": "b"}]})");
  EXPECT_EQ(pair.prompt[0].content, "q?");
  EXPECT_EQ(pair.prompt[1].content, "");
  EXPECT_THAT(pair.prompt[1].json, HasSubstr(R"("tool_calls":[{"name":"f"}])"));
  EXPECT_EQ(pair.prompt[2].role, "tool");
  EXPECT_THAT(pair.chosen[0].json, HasSubstr(R"("role":"assistant")"));
  EXPECT_EQ(parse<Preference>(to_json_line(pair)), pair);
  EXPECT_THROW(to_json_line(Preference{.chosen = {{.role = "assistant", .json = "{"}}}), InputError);
}

TEST(Preference, ListsAndStringsMayStandTogether) {
  const auto pair =
      parse<Preference>(R"({"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"})");
  EXPECT_FALSE(pair.plain_text);
  EXPECT_EQ(pair.chosen, (Messages{{"assistant", "a"}}));
}

// As TRL's extract_prompt.
TEST(Preference, ImplicitPromptOfConversations) {
  const auto pair = parse<Preference>(
      R"({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "user", "content": "q2"}, {"role": "assistant", "content": "a"}],
          "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}, {"role": "user", "content": "q2"}, {"role": "assistant", "content": "b"}]})");
  EXPECT_EQ(pair.prompt, (Messages{{"user", "q"}, {"assistant", "r"}, {"user", "q2"}}));
  EXPECT_EQ(pair.chosen, (Messages{{"assistant", "a"}}));
  EXPECT_EQ(pair.rejected, (Messages{{"assistant", "b"}}));

  const auto same = parse<Preference>(
      R"({"chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
          "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]})");
  EXPECT_EQ(same.prompt, (Messages{{"user", "q"}}));
  EXPECT_EQ(same.chosen, same.rejected);

  EXPECT_THAT(complaint<Preference>(
                  R"({"chosen": [{"role": "user", "content": "q"}], "rejected": [{"role": "user", "content": "z"}]})"),
              HasSubstr("expected a prompt"));
}

TEST(Preference, ImplicitPromptOfStrings) {
  const auto pair = parse<Preference>(R"({"chosen": "The sky is blue.", "rejected": "The sky is green."})");
  EXPECT_EQ(pair.prompt, (Messages{{"user", "The sky is"}}));
  EXPECT_EQ(pair.chosen[0].content, " blue.");
  EXPECT_EQ(pair.rejected[0].content, " green.");
  // ä and ö share their first byte, which must not be cut off.
  const auto split = parse<Preference>("{\"chosen\": \"x\xC3\xA4\", \"rejected\": \"x\xC3\xB6\"}");
  EXPECT_EQ(split.prompt[0].content, "x");
  EXPECT_EQ(split.chosen[0].content, "\xC3\xA4");
  EXPECT_THAT(complaint<Preference>(R"({"chosen": "a", "rejected": "b"})"), HasSubstr("expected a prompt"));
  EXPECT_THAT(complaint<Preference>(R"({"chosen": "", "rejected": ""})"), HasSubstr("expected a prompt"));
}

// The last character belongs to the answers, as in TRL, so that neither is empty.
TEST(Preference, ImplicitPromptOfStringsOneOfWhichBeginsTheOther) {
  const auto longer = parse<Preference>(R"({"chosen": "Hi there", "rejected": "Hi there friend"})");
  EXPECT_EQ(longer.prompt, (Messages{{"user", "Hi ther"}}));
  EXPECT_EQ(longer.chosen[0].content, "e");
  EXPECT_EQ(longer.rejected[0].content, "e friend");
  const auto same = parse<Preference>("{\"chosen\": \"ab\xC3\xA4\", \"rejected\": \"ab\xC3\xA4\"}");
  EXPECT_EQ(same.prompt, (Messages{{"user", "ab"}}));
  EXPECT_EQ(same.chosen, same.rejected);
  EXPECT_EQ(same.chosen[0].content, "\xC3\xA4");
}

TEST(Preference, UltraFeedbackRowsHoldTheirPromptTwice) {
  const auto row = parse<Preference>(
      R"({"prompt": "Why?", "prompt_id": "f", "score_chosen": 8.5, "score_rejected": 3.0, "messages": [],
          "all_generated_responses": ["a", "b"], "all_rm_scores": [0.1, 0.2],
          "chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "a"}],
          "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "b"}]})");
  EXPECT_EQ(row.prompt, (Messages{{"user", "Why?"}}));
  EXPECT_EQ(row.chosen, (Messages{{"assistant", "a"}}));
  EXPECT_EQ(row.rejected, (Messages{{"assistant", "b"}}));
  // A plain prompt that is not there again stays.
  const auto apart = parse<Preference>(
      R"({"prompt": "Why?", "chosen": [{"role": "assistant", "content": "a"}],
          "rejected": [{"role": "assistant", "content": "b"}]})");
  EXPECT_EQ(apart.prompt, (Messages{{"user", "Why?"}}));
}

TEST(Preference, ContentMayBeParts) {
  const auto row = parse<Preference>(
      R"({"prompt": [{"role": "user", "content": [{"type": "text", "text": "Why"}, {"type": "text", "text": "?"}]}],
          "chosen": "a", "rejected": "b"})");
  EXPECT_EQ(row.prompt[0].content, "Why?");
}

TEST(Preference, TokenizedRowsOfOtherVersions) {
  const auto apart = parse<Preference>(
      R"({"prompt_input_ids": [0, 2, 3], "prompt_attention_mask": [0, 1, 1], "chosen_input_ids": [4, 1, 0],
          "chosen_attention_mask": [1, 1, 0], "rejected_input_ids": [5, 1], "rejected_attention_mask": [1, 1]})");
  EXPECT_EQ(apart.prompt_ids, (TokenIds{2, 3}));
  EXPECT_EQ(apart.chosen_ids, (TokenIds{4, 1}));
  EXPECT_EQ(apart.rejected_ids, (TokenIds{5, 1}));
  const auto together = parse<Preference>(
      R"({"chosen_input_ids": [2, 3, 4, 1], "chosen_labels": [-100, -100, 4, 1],
          "rejected_input_ids": [2, 3, 5], "rejected_labels": [-100, -100, 5]})");
  EXPECT_EQ(together.prompt_ids, (TokenIds{2, 3}));
  EXPECT_EQ(together.chosen_ids, (TokenIds{4, 1}));
  EXPECT_EQ(together.rejected_ids, TokenIds{5});
  EXPECT_THAT(complaint<Preference>(R"({"prompt_input_ids": [2], "chosen_input_ids": [3]})"),
              HasSubstr("rejected_input_ids"));
  EXPECT_THAT(complaint<Preference>(R"({"prompt_input_ids": [2], "chosen_input_ids": [3], "rejected_input_ids": [4],
                                        "chosen_attention_mask": [1, 1]})"),
              HasSubstr("\"chosen_attention_mask\" is a list of 2, expected 1"));
  EXPECT_THAT(complaint<Preference>(R"({"chosen_input_ids": [2, 3], "chosen_labels": [-100, 3],
                                        "rejected_input_ids": [4, 3], "rejected_labels": [-100, 3]})"),
              HasSubstr("two prompts"));
}

TEST(PreferenceCheck, CountsWithReasons) {
  std::vector<Preference> rows;
  const auto add = [&](const std::string& prompt, const std::string& chosen, const std::string& rejected) {
    rows.push_back(
        {.prompt = {{"user", prompt}}, .chosen = {{"assistant", chosen}}, .rejected = {{"assistant", rejected}}});
  };
  add("q", "a", "b");
  add("q", "a", "b");
  add("q", "b", "a");
  add("q", "a", "a");
  add(" ", "a", "");
  rows.push_back({.prompt_ids = {1}, .chosen_ids = {2}, .rejected_ids = {3}});
  rows.push_back({.prompt_ids = {1}, .chosen_ids = {2}, .rejected_ids = {3}});
  const PreferenceCheck check = check_preferences(rows);
  EXPECT_EQ(check.rows, 7);
  EXPECT_EQ(check.found,
            (std::map<std::string, std::int64_t>{
                {"contradiction", 1}, {"duplicate", 2}, {"empty_prompt", 1}, {"empty_response", 1}, {"identical", 1}}));
}

TEST(Preference, IdsAlone) {
  const auto pair = parse<Preference>(R"({"prompt_ids": [2], "chosen_ids": [5, 6], "rejected_ids": [7]})");
  EXPECT_EQ(pair.prompt_ids, (TokenIds{2}));
  EXPECT_EQ(pair.chosen_ids, (TokenIds{5, 6}));
  EXPECT_TRUE(pair.prompt.empty());
}

TEST(Preference, RowsThatCannotBeTrainedOnAreNamed) {
  EXPECT_EQ(complaint<Preference>(R"({})"), "no field \"chosen\", expected a string or a list of messages");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": "a"})"),
            "no field \"rejected\", expected a string or a list of messages");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": "a", "rejected": 3})"),
            "field \"rejected\" is 3, expected a string or a list of messages");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": [], "chosen": "a", "rejected": "b"})"),
            "field \"prompt\" is a list of 0, expected a list of messages");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": [{"role": "user"}], "rejected": "b"})"),
            "field \"chosen\"[0]: no content, expected role and content");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": [{"role": "bot", "content": ""}], "rejected": "b"})"),
            "field \"chosen\"[0]: field \"role\" is \"bot\", expected system, user, assistant or tool");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": ["a"], "rejected": "b"})"),
            "field \"chosen\"[0]: \"a\", expected an object with role and content");
  EXPECT_EQ(complaint<Preference>(R"({"prompt_ids": [2], "chosen_ids": [5]})"),
            "no field \"rejected_ids\", expected prompt_ids, chosen_ids and rejected_ids together");
  EXPECT_EQ(complaint<Preference>(R"({"prompt_ids": [2], "chosen_ids": [5], "rejected_ids": []})"),
            "field \"rejected_ids\" is empty, expected the ids of a response");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": "a", "rejected": "b", "p": -0.1})"),
            "field \"p\" is -0.1, expected a probability between 0 and 1");
  EXPECT_EQ(complaint<Preference>(R"({"prompt": "q", "chosen": "a", "rejected": "b", "weight": -1})"),
            "field \"weight\" is -1, expected a number that is not negative");
}

TEST(Preference, ThirdAnswerAndReferenceLogProbsOfTrl) {
  const auto row = parse<Preference>(
      R"({"prompt": "q", "chosen": "a", "rejected": "b", "reference": "g", "ref_chosen_logps": -1.25,)"
      R"( "ref_rejected_logps": -2.5})");
  EXPECT_EQ(row.gold, (Messages{{"assistant", "g"}}));
  EXPECT_EQ(row.reference_chosen, -1.25);
  EXPECT_EQ(row.reference_rejected, -2.5);
  EXPECT_EQ(parse<Preference>(to_json_line(row)), row);
  EXPECT_TRUE(parse<Preference>(R"({"prompt": "q", "chosen": "a", "rejected": "b", "reference": 7})").gold.empty());
}

TEST(UnpairedPreference, TextsMessagesAndIds) {
  const auto text = parse<UnpairedPreference>(R"({"prompt": "q", "completion": "a", "label": false, "weight": 2})");
  EXPECT_EQ(text.prompt, (Messages{{"user", "q"}}));
  EXPECT_EQ(text.completion, (Messages{{"assistant", "a"}}));
  EXPECT_TRUE(text.plain_text);
  EXPECT_FALSE(text.label);
  EXPECT_EQ(text.weight, 2.0);
  const auto ids = parse<UnpairedPreference>(
      R"({"id": 3, "prompt_ids": [1], "completion_ids": [2, 3], "label": true, "ref_logps": -0.5})");
  EXPECT_EQ(ids.id, "3");
  EXPECT_EQ(ids.completion_ids, (TokenIds{2, 3}));
  EXPECT_EQ(ids.reference, -0.5);
  for (const auto& row : {text, ids}) EXPECT_EQ(parse<UnpairedPreference>(to_json_line(row)), row);
  EXPECT_THAT(complaint<UnpairedPreference>(R"({"prompt": "q", "completion": "a"})"), HasSubstr("\"label\""));
  EXPECT_THAT(complaint<UnpairedPreference>(R"({"prompt": "q", "label": true})"), HasSubstr("\"completion\""));
  EXPECT_THAT(complaint<UnpairedPreference>(R"({"prompt": "q", "completion": "a", "label": 1})"),
              HasSubstr("field \"label\" is 1"));
}

TEST(Preference, ReadsRowsWrittenByDatasets) {
  const auto rows = read_jsonl<Preference>(testing::golden("records") / "datasets.jsonl");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].prompt, (Messages{{"user", "Where is Zürich?"}}));
  EXPECT_EQ(rows[1].chosen, (Messages{{"assistant", "In \"Africa\"."}}));
  EXPECT_EQ(rows[1].p, 0.75);
  EXPECT_EQ(rows[1].chosen_ids, (TokenIds{5, 6, 1}));
}

}  // namespace
}  // namespace sao
