// SPDX-License-Identifier: Apache-2.0
#include "sao/eval/task.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "sao/eval/exact_match.h"
#include "sao/eval/multiple_choice.h"
#include "sao/eval/perplexity.h"
#include "sao/io/files.h"
#include "support/fake_generator.h"
#include "support/message_of.h"

namespace sao {
namespace {

using sao::testing::message_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TaskTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text, const std::string& name = "rows.jsonl") {
    write_file_atomically(folder_ / name, text);
    return folder_ / name;
  }
  Task read(const std::string& text, const TaskOptions& options = {}) {
    return read_task(write(text), generator_.text(), options);
  }
  std::string complaint(const std::string& text, const TaskOptions& options = {}) {
    return message_of([&] { read(text, options); });
  }

  sao::testing::TemporaryFolder folder_;
  sao::testing::FakeGenerator generator_;
};

TEST_F(TaskTest, TheRightChoiceHasManyNames) {
  const Task task = read(R"({"context": "q", "choices": ["a", "b"], "label": 1}
{"context": "q", "choices": ["a", "b"], "answer": "b"}
{"context": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
{"context": "q", "choices": ["0", "1"], "gold": "1"}
)");
  ASSERT_EQ(task.items.size(), 4U);
  EXPECT_FALSE(task.chat);
  for (const TaskItem& item : task.items) {
    EXPECT_EQ(item.right, 1U);
    EXPECT_EQ(item.contexts, std::vector<std::string>{"q"});
  }
  EXPECT_THAT(task.items[0].continuations, ElementsAre(" a", " b"));
}

TEST_F(TaskTest, AQuestionIsATurnAndAContextIsNot) {
  EXPECT_TRUE(read(R"({"question": "Why?", "answer": "so"})").chat);
  EXPECT_TRUE(read(R"({"question": [{"role": "user", "content": "Why?"}], "answer": 3})").chat);
  EXPECT_FALSE(read(R"({"context": "Why?", "answer": "so"})").chat);
  EXPECT_FALSE(read(R"({"question": "Why?", "answer": "so"})", {.doc_to_text = "{{question}}"}).chat);
  const Task chat = read(R"({"context": "Why?", "choices": ["so", "no"], "label": 0})", {.prompt_format = "chat"});
  EXPECT_THAT(chat.items[0].contexts[0], AllOf(HasSubstr("<start_of_turn>user\nWhy?"), HasSubstr("model\n")));
  EXPECT_THAT(chat.items[0].continuations, ElementsAre("so", "no")) << "no delimiter after the header";
}

TEST_F(TaskTest, TemplatesOfRowsAsDatasetsHaveThem) {
  const Task arc =
      read(R"({"question": "Q1", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "C"})",
           {.doc_to_text = "Question: {{question}}\nAnswer:\n",
            .doc_to_choice = "{{choices.text}}",
            .doc_to_target = "{{choices.label.index(answerKey)}}"});
  EXPECT_EQ(arc.items[0].contexts[0], "Question: Q1\nAnswer:\n") << "the last line break stays";
  EXPECT_EQ(arc.items[0].right, 2U);
  EXPECT_THAT(arc.items[0].choices, ElementsAre("x", "y", "z"));
  EXPECT_THAT(complaint(R"({"question": "q", "answer": "a"})", {.doc_to_text = "{{queston}}"}),
              HasSubstr("'queston' is undefined"));
  EXPECT_THAT(complaint(R"({"question": "q", "answer": "a"})", {.doc_to_text = "{{"}), HasSubstr("doc_to_text"));
}

TEST_F(TaskTest, BadRowsAreNamed) {
  EXPECT_THAT(complaint(""), HasSubstr("no rows"));
  EXPECT_THAT(complaint("{\"question\": \"q\"}"), AllOf(HasSubstr(":1: "), HasSubstr("answer")));
  EXPECT_THAT(complaint(R"({"answer": "q"})"), HasSubstr("question"));
  EXPECT_THAT(complaint(R"({"question": " ", "answer": "q"})"), HasSubstr("not blank"));
  EXPECT_THAT(complaint(R"({"question": "q", "choices": ["a"], "answer": 0})"), HasSubstr("at least two"));
  EXPECT_THAT(complaint(R"({"question": "q", "choices": ["a", "b"], "answer": -1})"), HasSubstr("0 to 1"));
  EXPECT_THAT(complaint(R"({"question": "q", "choices": ["a", "b"], "labels": [0, 0]})"), HasSubstr("labels"));
  EXPECT_THAT(complaint("{\"question\": \"q\", \"answer\": \"a\"}\n{\"text\": \"t\"}\n"),
              AllOf(HasSubstr(":2: "), HasSubstr("another kind")));
  EXPECT_THAT(complaint(R"({"question": "q", "answer": "a"})", {.num_fewshot = 1}), HasSubstr("few-shot"));
  EXPECT_THAT(complaint(R"({"question": "q", "answer": "a"})", {.fewshot_order = "best"}), HasSubstr("fewshot_order"));
}

TEST_F(TaskTest, AnAnswerMayBeOneOfSeveral) {
  generator_.answer = [](const std::string&, Seed, std::int64_t) {
    return sao::testing::FakeGenerator::Answer{.text = "Paris.\n\nQuestion: and"};
  };
  const Task task = read(R"({"context": "q", "answer": ["Lyon", "paris"]}
{"context": "q", "answer": "Rome"}
)");
  const std::vector<std::string> stops = {"", "\n\n"};
  const WrittenAnswers result = measure_written_answers(generator_, task.items, {.max_new_tokens = 20}, stops);
  EXPECT_EQ(result.accuracy.value, 0.5);
  EXPECT_EQ(result.responses[0], "Paris.");
  EXPECT_FALSE(result.strict_match.has_value());
}

TEST_F(TaskTest, AContinuationThatDoesNotFitIsNamed) {
  generator_.max_tokens_value = 4;
  const Task task = read(R"({"context": "q", "choices": ["a", "a long choice of many words"], "label": 0})");
  EXPECT_THAT(message_of([&] { measure_multiple_choice(generator_, task.items); }),
              AllOf(HasSubstr("question 1, choice 2"), HasSubstr("expected at most 4")));
}

TEST(ExactMatchTest, NumbersAndWords) {
  EXPECT_EQ(last_number("so 1,234.50 dollars."), "1234.5");
  EXPECT_EQ(last_number("it is -7."), "-7");
  EXPECT_FALSE(last_number("none").has_value());
  EXPECT_TRUE(answers_match("The answer is 18.", "9 + 9\n#### 18"));
  EXPECT_FALSE(answers_match("18, no, 19", "#### 18"));
  EXPECT_TRUE(answers_match("  paris. ", "Paris"));
}

TEST(RollingTest, EveryTokenIsPredictedOnce) {
  TokenIds tokens;
  for (TokenId id = 10; id < 33; ++id) tokens.push_back(id);
  for (const std::int64_t length : {1, 4, 7, 23, 50}) {
    for (std::int64_t context = 1; context <= std::min<std::int64_t>(length, 5); context += 2) {
      TokenIds predicted;
      for (const ScoreRequest& window : rolling_windows(tokens, 2, length, context)) {
        EXPECT_LE(window.prompt_ids.size() + window.response_ids.size(), static_cast<std::size_t>(length) + 1);
        if (!predicted.empty()) {
          EXPECT_GE(window.prompt_ids.size(), static_cast<std::size_t>(context));
          EXPECT_EQ(window.prompt_ids.back(), predicted.back());
        } else {
          EXPECT_EQ(window.prompt_ids, TokenIds{2});
        }
        predicted.insert(predicted.end(), window.response_ids.begin(), window.response_ids.end());
      }
      EXPECT_EQ(predicted, tokens) << length << ", " << context;
    }
  }
  EXPECT_TRUE(rolling_windows({}, 2, 4).empty());
  EXPECT_THROW(rolling_windows(tokens, 2, 4, 5), InputError);
}

TEST(RollingTest, WordsAreCountedAsPythonSplits) {
  EXPECT_EQ(count_words("a b"), 2);
  EXPECT_EQ(count_words(" a\xE2\x80\x83\n b "), 4);
  EXPECT_EQ(count_words(""), 1);
}

}  // namespace
}  // namespace sao
