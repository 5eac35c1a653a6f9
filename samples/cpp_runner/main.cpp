// patch_runner: continues prompts with an engine that patch-compile built.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "engine.h"
#include "errors.h"
#include "generation.h"
#include "options.h"
#include "session.h"

namespace patch_runner {
namespace {

void print_ids(const Generation& generation) {
  for (int64_t row = 0; row < generation.batch(); ++row) {
    const char* separator = "";
    for (const int64_t id : generation.continuation(row)) {
      std::printf("%s%lld", separator, static_cast<long long>(id));
      separator = ",";
    }
    std::printf("\n");
  }
}

void print_times(const Times& times, const Generation& generation) {
  std::printf("prefill %.3f ms (batch %lld, %lld tokens)\n", times.prefill,
              static_cast<long long>(generation.batch()), static_cast<long long>(generation.prompt()));
  if (times.steps.empty()) return;
  std::printf("decode  %.3f ms median, %.3f ms p90 (%zu steps)\n", percentile(times.steps, 0.5),
              percentile(times.steps, 0.9), times.steps.size());
}

void run(const Options& options) {
  const Engine engine(options.engine, options.plugin);
  const DecoderIo io = describe_decoder(engine.describe());
  check_request(io, options.prompts, options.new_tokens);

  Generation generation(options.prompts, options.new_tokens, options.eos);
  Session session(&engine.get(), io, generation);
  if (options.time) {  // the first generation loads kernels
    Generation warm_up(options.prompts, options.new_tokens, options.eos);
    session.generate(&warm_up);
  }
  const Times times = session.generate(&generation);
  print_ids(generation);
  if (options.time) print_times(times, generation);
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
