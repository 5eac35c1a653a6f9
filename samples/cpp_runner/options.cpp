#include "options.h"

#include <algorithm>
#include <charconv>

#include "errors.h"

namespace patch_runner {
namespace {

int64_t integer(const std::string& text, const std::string& option) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < 0)
    throw UsageError(option + ": '" + text + "' is not a number of 0 or more");
  return value;
}

std::vector<int64_t> token_ids(const std::string& text) {
  std::vector<int64_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    ids.push_back(integer(text.substr(begin, comma - begin), "--ids"));
    begin = comma + 1;
  }
  return ids;
}

void take(Options* options, const std::string& name, const std::string& value) {
  if (name == "--ids")
    options->prompts.push_back(token_ids(value));
  else if (name == "--new-tokens")
    options->new_tokens = integer(value, name);
  else if (name == "--eos")
    options->eos = integer(value, name);
  else if (name == "--plugin")
    options->plugin = value;
  else
    throw UsageError("there is no option " + name);
}

void check(const Options& options) {
  if (options.engine.empty()) throw UsageError("no engine is given");
  if (options.prompts.empty()) throw UsageError("no prompt is given: --ids 1,2,3");
  if (options.new_tokens < 1) throw UsageError("--new-tokens must be at least 1");
}

}  // namespace

const char* const kUsage =
    "patch_runner ENGINE --ids 1,2,3 [--ids 4,5]... [--new-tokens 32] [--eos ID]\n"
    "             [--plugin libpatch_linear.so] [--time]\n"
    "\n"
    "Continues each prompt greedily and prints the new token ids, one line per --ids.\n"
    "  --new-tokens N  most tokens to generate per prompt\n"
    "  --eos ID        token that ends a continuation; it is printed too\n"
    "  --plugin PATH   plugin library, for an engine that does not contain the plugin\n"
    "  --time          also print times in milliseconds, measured after a warm-up run\n";

Options parse_options(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      options.help = true;
      return options;
    }
    if (argument == "--time") {
      options.time = true;
    } else if (argument.rfind("--", 0) == 0) {
      const size_t equals = argument.find('=');
      const std::string name = argument.substr(0, equals);
      if (equals == std::string::npos && i + 1 == arguments.size()) throw UsageError(name + " needs a value");
      take(&options, name, equals == std::string::npos ? arguments[++i] : argument.substr(equals + 1));
    } else if (options.engine.empty()) {
      options.engine = argument;
    } else {
      throw UsageError("only one engine can be given, and '" + argument + "' is a second one");
    }
  }
  check(options);
  return options;
}

}  // namespace patch_runner
