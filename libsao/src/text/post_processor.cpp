// SPDX-License-Identifier: Apache-2.0
#include "text/post_processor.h"

#include <string>

#include "text/added_tokens.h"
#include "text/pattern.h"

namespace sao::detail {
namespace {

AddedAround parse_template(const JsonNode& node) {
  const JsonNode single = node.at("single", "a list");
  AddedAround added;
  bool text_seen = false;
  for (std::size_t i = 0; i < single.array_size(); ++i) {
    const JsonNode piece = single[i];
    if (const auto text = piece.find("Sequence")) {
      if (text_seen) single.fail("the text once");
      if (const auto id = text->find("id"); id && id->string() != "A") id->fail("\"A\"");
      text_seen = true;
      continue;
    }
    const JsonNode name = piece.at("SpecialToken", "\"Sequence\" or \"SpecialToken\"").at("id", "a token");
    const JsonNode ids = node.at("special_tokens", "an object")
                             .at(name.string(), "the token of the template")
                             .at("ids", "a list of one id");
    auto& side = text_seen ? added.after : added.before;
    if (ids.array_size() != 1) ids.fail("a list of one id");
    if (side) single.fail("the text, with at most one special token on each side");
    side = check_token_id(ids[0].integer(), ids.where());
  }
  if (!text_seen) single.fail("the text, with at most one special token on each side");
  return added;
}

}  // namespace

AddedAround parse_post_processor(const JsonNode& node) {
  const std::string& type = component_type(node);
  if (type == "ByteLevel") return {};  // concerns offsets only
  if (type == "TemplateProcessing") return parse_template(node);
  if (type != "Sequence") refuse_component(node, "TemplateProcessing, ByteLevel, Sequence");
  AddedAround added;
  const JsonNode list = node.at("processors", "a list");
  for (std::size_t i = 0; i < list.array_size(); ++i) {
    const AddedAround more = parse_post_processor(list[i]);
    if ((more.before && added.before) || (more.after && added.after))
      list.fail("one processor that adds a token before the text, and one that adds one after it");
    if (more.before) added.before = more.before;
    if (more.after) added.after = more.after;
  }
  return added;
}

}  // namespace sao::detail
