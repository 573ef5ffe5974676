// SPDX-License-Identifier: Apache-2.0
#include "sao/synth/templates.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "sao/base/error.h"
#include "sao/io/files.h"
#include "support/paths.h"

namespace sao {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class PromptTemplatesTest : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    write_file_atomically(folder_ / "sao_templates.json", text);
    return folder_ / "sao_templates.json";
  }
  void expect_error(const std::string& text, const std::string& field) {
    SCOPED_TRACE(text);
    const std::filesystem::path file = write(text);
    EXPECT_THAT([&] { load_prompt_templates(file); },
                ::testing::ThrowsMessage<InputError>(AllOf(HasSubstr(file.string()), HasSubstr(field))));
  }
  sao::testing::TemporaryFolder folder_;
};

TEST_F(PromptTemplatesTest, DefaultsAreValidAndAskForAHead) {
  EXPECT_NO_THROW(validate(PromptTemplates{}));
  EXPECT_THAT(PromptTemplates{}.persona, HasSubstr("User prompt:"));
  EXPECT_THAT(PromptTemplates{}.unguided, HasSubstr("User prompt:"));
}

TEST_F(PromptTemplatesTest, ShippedFileHoldsTheDefaults) {
  const auto file = std::filesystem::path(SAO_SOURCE_DIR) / "libsao" / "share" / "templates.json";
  EXPECT_EQ(load_prompt_templates(file), PromptTemplates{});
}

TEST_F(PromptTemplatesTest, ReadsItsFieldsOfTheSharedFile) {
  write(R"({"persona": "As {persona}: ask.", "unguided": "Ask.", "judge": "{prompt}{first}{second}", "criteria": []})");
  EXPECT_EQ(find_prompt_templates(folder_.path()),
            (PromptTemplates{.persona = "As {persona}: ask.", .unguided = "Ask."}));
}

TEST_F(PromptTemplatesTest, AbsentFieldsAndAbsentFileGiveDefaults) {
  EXPECT_EQ(find_prompt_templates(folder_.path()), PromptTemplates{});
  write(R"({"unguided": "Ask."})");
  EXPECT_EQ(find_prompt_templates(folder_.path()).persona, PromptTemplates{}.persona);
}

TEST_F(PromptTemplatesTest, ErrorsNameFileAndField) {
  expect_error("[1]", "JSON");
  expect_error("{", "JSON");
  expect_error(R"({"persona": 3})", "persona");
  expect_error(R"({"persona": "no place"})", "{persona}");
  expect_error(R"({"persona": "{persona} {name}"})", "{name}");
  expect_error(R"({"unguided": "for {persona}"})", "unguided");
  expect_error(R"({"unguided": ""})", "unguided");
  expect_error(R"({"personna": "{persona}"})", "personna");
}

}  // namespace
}  // namespace sao
