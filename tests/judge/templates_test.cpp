// SPDX-License-Identifier: Apache-2.0
#include "sao/judge/templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "sao/text/placeholders.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class JudgeTemplatesTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    write_file_atomically(folder_ / "sao_templates.json", text);
    return folder_ / "sao_templates.json";
  }
  void expect_error(const std::string& text, const std::string& field) {
    SCOPED_TRACE(text);
    const std::filesystem::path file = write(text);
    EXPECT_THAT([&] { load_judge_templates(file); },
                ThrowsMessage<InputError>(AllOf(HasSubstr(file.string()), HasSubstr(field))));
  }
  sao::testing::TemporaryFolder folder_;
};

TEST_F(JudgeTemplatesTest, DefaultsAskForTheVerdictsThatAreRead) {
  const JudgeTemplates defaults;
  EXPECT_NO_THROW(validate(defaults));
  EXPECT_THAT(defaults.judge, HasSubstr(defaults.judge_prefix + defaults.judge_first));
  EXPECT_THAT(defaults.judge, HasSubstr(defaults.judge_prefix + defaults.judge_second));
  EXPECT_EQ(defaults.criteria.size(), 4U);
}

TEST_F(JudgeTemplatesTest, ShippedFileHoldsTheDefaults) {
  const auto file = std::filesystem::path(SAO_SOURCE_DIR) / "libsao" / "share" / "templates.json";
  EXPECT_EQ(load_judge_templates(file), JudgeTemplates{});
}

TEST_F(JudgeTemplatesTest, ReadsTheMicroWorldsFile) {
  const auto folder = std::filesystem::path(SAO_SOURCE_DIR) / "examples" / "microworld";
  if (!std::filesystem::exists(folder / "sao_templates.json")) GTEST_SKIP() << "no micro world here";
  const JudgeTemplates templates = find_judge_templates(folder);
  EXPECT_FALSE(templates == JudgeTemplates{});
  EXPECT_TRUE(templates.criteria.empty());
}

TEST_F(JudgeTemplatesTest, AbsentFieldsGiveDefaults) {
  EXPECT_EQ(find_judge_templates(folder_.path()), JudgeTemplates{});
  write(R"({"judge_prefix": "better:"})");
  EXPECT_EQ(find_judge_templates(folder_.path()).judge, JudgeTemplates{}.judge);
  write(R"({"judge": "{prompt}{first}{second}"})");  // no place for criteria, so none
  EXPECT_TRUE(find_judge_templates(folder_.path()).criteria.empty());
}

TEST_F(JudgeTemplatesTest, ErrorsNameFileAndField) {
  expect_error("", "JSON");
  expect_error(R"({"judge": []})", "judge");
  expect_error(R"({"judge": "{prompt}{first}"})", "{second}");
  expect_error(R"({"judge": "{prompt}{first}{second}{third}"})", "{third}");
  expect_error(R"({"judge": "{prompt}{first}{second}", "criteria": ["a"]})", "criteria");
  expect_error(R"({"criteria": "a"})", "criteria");
  expect_error(R"({"criteria": [1]})", "criteria");
  expect_error(R"({"judge_first": "A", "judge_second": "A"})", "judge_first");
  expect_error(R"({"judge_second": ""})", "judge_second");
  expect_error(R"({"judges": ""})", "judges");
}

TEST_F(JudgeTemplatesTest, InsertedTextIsNeverLookedAtAgain) {
  const JudgeTemplates templates = {.judge = "{criteria}|{prompt}|{first}|{second}|{ first }|{}",
                                    .criteria = {"good {first}", "short"}};
  EXPECT_EQ(render_judge_prompt(templates, "{second} {prompt}", "{prompt}", "{criteria}"),
            "1. good {first}\n2. short|{second} {prompt}|{prompt}|{criteria}|{ first }|{}");
}

TEST(PlaceholdersTest, AreLowerCaseWordsInBraces) {
  EXPECT_THAT(placeholder_names("{a} {b_c} {a} {A} {1} {} {d e} {{x}} {y"), ElementsAre("a", "b_c", "x"));
  const PlaceholderValue values[] = {{"x", "{y}"}, {"y", "z"}};
  EXPECT_EQ(fill_placeholders("{{x}} {y}{x} {other} {", values), "{{y}} z{y} {other} {");
}

}  // namespace
}  // namespace sao
