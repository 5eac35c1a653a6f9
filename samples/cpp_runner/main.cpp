// patch_runner: continues prompts with an engine that patch-compile built.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "generation.h"

namespace patch_runner {
namespace {

const char* const kUsage =
    "patch_runner ENGINE --ids 1,2,3 [--ids 4,5]... [--new-tokens 32] [--eos ID]\n"
    "             [--plugin libpatch_linear.so] [--time]\n"
    "\n"
    "Continues each prompt greedily and prints the new token ids, one line per --ids.\n"
    "  --new-tokens N  most tokens to generate per prompt\n"
    "  --eos ID        token that ends a continuation; it is printed too\n"
    "  --plugin PATH   plugin library, for an engine that does not contain the plugin\n"
    "  --time          also print times in milliseconds, measured after a warm-up run\n";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string engine, plugin;  // plugin: empty for the library that the engine contains
  Request request;
  bool time = false, help = false;
};

int64_t integer(const std::string& text, const std::string& option) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end || value < 0)
    throw UsageError(option + ": '" + text + "' is not a number of 0 or more");
  return value;
}

Ids token_ids(const std::string& text) {
  Ids ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    ids.push_back(integer(text.substr(begin, comma - begin), "--ids"));
    begin = comma + 1;
  }
  return ids;
}

void take(Options* options, const std::string& name, const std::string& value) {
  if (name == "--ids")
    options->request.prompts.push_back(token_ids(value));
  else if (name == "--new-tokens")
    options->request.new_tokens = integer(value, name);
  else if (name == "--eos")
    options->request.eos = integer(value, name);
  else if (name == "--plugin")
    options->plugin = value;
  else
    throw UsageError("there is no option " + name);
}

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
  if (options.engine.empty()) throw UsageError("no engine is given");
  if (options.request.prompts.empty()) throw UsageError("no prompt is given: --ids 1,2,3");
  if (options.request.new_tokens < 1) throw UsageError("--new-tokens must be at least 1");
  return options;
}

// Nearest-rank percentile: the smallest value such that at least `share` of all values do not exceed it.
double percentile(std::vector<float> values, double share) {
  std::sort(values.begin(), values.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size()) - 1e-9));
  return values[std::max<size_t>(1, rank) - 1];
}

void run(const Options& options) {
  const Engine engine(options.engine, options.plugin);
  if (options.time) Generation(engine, options.request).run();  // the first generation loads kernels
  Generation generation(engine, options.request);
  const Times times = generation.run();
  for (const Ids& row : generation.rows())
    for (size_t i = 0; i < row.size(); ++i)
      std::printf("%lld%s", static_cast<long long>(row[i]), i + 1 < row.size() ? "," : "\n");
  if (options.time) std::printf("prefill %.3f ms\n", times.prefill);
  if (options.time && !times.steps.empty())
    std::printf("decode  %.3f ms median, %.3f ms p90 (%zu steps)\n", percentile(times.steps, 0.5),
                percentile(times.steps, 0.9), times.steps.size());
}

}  // namespace
}  // namespace patch_runner

int main(int argc, char** argv) {
  using namespace patch_runner;
  try {
    const Options options = parse_options({argv + 1, argv + argc});
    if (options.help)
      std::fputs(kUsage, stdout);
    else
      run(options);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "patch_runner: %s\n\n%s", error.what(), kUsage);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "patch_runner: %s\n", error.what());
    return 1;
  }
}
