// Tests of the code that needs neither CUDA nor TensorRT.  Prints failed expectations, and exits with 1 if
// there are any.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "decoder_io.h"
#include "errors.h"
#include "generation.h"
#include "kv_cache.h"
#include "options.h"
#include "sampling.h"
#include "statistics.h"

namespace {

using namespace patch_runner;
using Ids = std::vector<int64_t>;

int failures = 0;

void expect(bool holds, const char* what, int line) {
  if (holds) return;
  ++failures;
  std::fprintf(stderr, "line %d: %s\n", line, what);
}
#define EXPECT(condition) expect(condition, #condition, __LINE__)

template <class Error>
void expect_error(const std::function<void()>& action, const std::vector<std::string>& words, int line) {
  try {
    action();
    expect(false, "no error", line);
  } catch (const Error& error) {
    for (const std::string& word : words)
      if (std::string(error.what()).find(word) == std::string::npos)
        expect(false, (word + " is not in: " + error.what()).c_str(), line);
  }
}
#define EXPECT_ERROR(Error, action, ...) expect_error<Error>([&] { action; }, {__VA_ARGS__}, __LINE__)

void test_options() {
  const Options all = parse_options({"--ids", "1,2,3", "a.engine", "--ids=4", "--new-tokens", "7", "--eos=0",
                                     "--plugin", "p.so", "--time"});
  EXPECT(all.engine == "a.engine" && all.plugin == "p.so" && all.time && all.new_tokens == 7);
  EXPECT((all.prompts == std::vector<Ids>{{1, 2, 3}, {4}}) && all.eos == 0);
  const Options few = parse_options({"a.engine", "--ids", "5"});
  EXPECT(!few.eos && few.plugin.empty() && !few.time && few.new_tokens == 32);
  EXPECT(parse_options({"--help"}).help);
  for (const char* ids : {"", "1,", ",1", "1,,2", "a", "-1", "1 2", "99999999999999999999"})
    EXPECT_ERROR(UsageError, parse_options({"a.engine", "--ids", ids}), "--ids", "is not a number");
  EXPECT_ERROR(UsageError, parse_options({"a.engine"}), "no prompt");
  EXPECT_ERROR(UsageError, parse_options({"--ids", "1"}), "no engine");
  EXPECT_ERROR(UsageError, parse_options({"a", "b", "--ids", "1"}), "'b' is a second");
  EXPECT_ERROR(UsageError, parse_options({"a", "--ids"}), "--ids needs a value");
  EXPECT_ERROR(UsageError, parse_options({"a", "--ids", "1", "--beam", "4"}), "no option --beam");
  EXPECT_ERROR(UsageError, parse_options({"a", "--ids", "1", "--new-tokens", "0"}), "at least 1");
}

// Two layers with 3 heads of size 16; prompts of up to 10 tokens, a cache of up to 20, a batch of 2 to 4 in
// decode.
EngineDescription description() {
  const auto input = [](const char* name, Element element, Shape shape, ShapeRange prefill,
                        ShapeRange decode) {
    return Tensor{name, true, element, std::move(shape), {std::move(prefill), std::move(decode)}};
  };
  const Element integers = Element::kInt64, half = Element::kHalf;
  EngineDescription out{{input("input_ids", integers, {-1, -1}, {{1, 1}, {4, 10}}, {{2, 1}, {4, 1}}),
                         input("attention_mask", integers, {-1, -1}, {{1, 1}, {4, 10}}, {{2, 2}, {4, 21}}),
                         input("position_ids", integers, {-1, -1}, {{1, 1}, {4, 10}}, {{2, 1}, {4, 1}}),
                         Tensor{"logits", false, Element::kFloat, {-1, -1, 100}, {}}},
                        2};
  for (const char* part : {"0.key", "0.value", "1.key", "1.value"}) {
    const std::string past = std::string("past_key_values.") + part;
    out.tensors.push_back(input(past.c_str(), half, {-1, 3, -1, 16}, {{1, 3, 0, 16}, {4, 3, 0, 16}},
                                {{2, 3, 1, 16}, {4, 3, 20, 16}}));
    out.tensors.push_back({std::string("present.") + part, false, half, {-1, 3, -1, 16}, {}});
  }
  return out;
}

Tensor& tensor(EngineDescription* engine, const std::string& name) {
  for (Tensor& t : engine->tensors)
    if (t.name == name) return t;
  throw std::logic_error(name);
}

void test_decoder() {
  const DecoderIo io = describe_decoder(description());
  EXPECT(io.cache.size() == 4 && io.vocabulary == 100 && io.logits == Element::kFloat);
  EXPECT(io.cache[3].past == "past_key_values.1.value" && io.cache[3].present == "present.1.value");
  EXPECT(io.cache[2].kv_heads == 3 && io.cache[2].head_dim == 16 && io.cache[2].element == Element::kHalf);
  EXPECT(io.limits[kPrefill].sequence.max == 10 && io.limits[kPrefill].past.max == 0);
  EXPECT(io.limits[kDecode].batch.min == 2 && io.limits[kDecode].past.max == 20);

  const auto broken = [](const std::function<void(EngineDescription*)>& change) {
    EngineDescription engine = description();
    change(&engine);
    describe_decoder(engine);
  };
  const auto drop = [&](const std::string& name) {
    broken([&](EngineDescription* e) {
      e->tensors.erase(std::find_if(e->tensors.begin(), e->tensors.end(),
                                    [&](const Tensor& t) { return t.name == name; }));
    });
  };
  for (const Tensor& t : description().tensors)
    EXPECT_ERROR(RunError, drop(t.name), (t.is_input ? "input " : "output ") + t.name + " is missing");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "input_ids").element = Element::kOther; }),
               "input_ids is another type, not int64");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "logits").shape = {-1, 100}; }),
               "logits has 2 dimensions, not 3");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "present.1.key").shape[1] = 6; }),
               "present.1.key differs from input past_key_values.1.key");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "present.0.key").element = Element::kBFloat16; }),
               "present.0.key differs");
  EXPECT_ERROR(RunError,
               broken([](auto* e) { tensor(e, "past_key_values.0.key").element = Element::kFloat; }),
               "past_key_values.0.key is fp32, not fp16 or bf16");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "past_key_values.1.value").shape[3] = -1; }),
               "no fixed number of heads");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "logits").shape[2] = -1; }),
               "size of the vocabulary");
  EXPECT_ERROR(RunError, broken([](auto* e) { tensor(e, "position_ids").is_input = false; }),
               "input position_ids is missing", "output position_ids is not known");
  EXPECT_ERROR(RunError, broken([](auto* e) {
                 e->tensors.push_back({"token_type_ids", true, Element::kInt64, {}, {}});
               }),
               "input token_type_ids is not known");
  EXPECT_ERROR(RunError, broken([](auto* e) { e->profiles = 1; }), "has 1 optimisation profile, not 2");
  broken([](auto* e) { tensor(e, "present.0.key").shape = {-1, -1, -1, -1}; });  // unknown to the builder
}

void test_requests() {
  const DecoderIo io = describe_decoder(description());
  const auto request = [&](int64_t batch, int64_t prompt, int64_t new_tokens) {
    check_request(io, std::vector<Ids>(batch, Ids(prompt, 99)), new_tokens);
  };
  request(4, 10, 12);  // the last step reads a cache of 10 + 10 tokens
  request(1, 10, 1);   // never decodes
  EXPECT_ERROR(RunError, request(2, 11, 1), "prompt has 11 tokens", "profile 0 (prefill)", "1 to 10");
  EXPECT_ERROR(RunError, request(5, 1, 1), "5 prompts", "profile 0 (prefill)", "1 to 4");
  EXPECT_ERROR(RunError, request(1, 1, 2), "1 prompt,", "profile 1 (decode)", "2 to 4");
  EXPECT_ERROR(RunError, request(4, 10, 13), "10 prompt tokens and 13 new tokens", "cache of 21", "1 to 20");
  EXPECT_ERROR(RunError, check_request(io, {{1, 2}, {100}}, 1), "token 100", "vocabulary of 100");
}

void test_cache() {
  const std::vector<CacheTensor> tensors{{"a", "b", 3, 16, Element::kHalf}, {"c", "d", 1, 8, Element::kHalf}};
  const CacheLayout layout(tensors, 2, 5);  // 960 and 160 bytes
  EXPECT((layout.offsets == std::vector<size_t>{0, 1024}) && layout.bytes == 1024 + 256);
  char first[1280], second[1280];
  KvCache cache(layout, first, second);
  EXPECT(cache.past(0) == first && cache.present(0) == second && cache.present(1) == second + 1024);
  cache.swap();
  EXPECT(cache.past(1) == first + 1024 || cache.past(1) == second + 1024);
  EXPECT(cache.past(0) == second && cache.present(0) == first);
  cache.swap();
  EXPECT(cache.past(0) == first && cache.present(0) == second);
}

struct Inputs {
  Ids ids, positions, mask;
};
Inputs inputs_of(const Generation& g) {
  Inputs out{Ids(g.batch() * g.sequence()), Ids(g.batch() * g.sequence()), Ids(g.batch() * g.total())};
  g.write_inputs(out.ids.data(), out.positions.data(), out.mask.data());
  return out;
}

void test_generation() {
  Generation g({{5, 6, 7}, {8}}, 4, 9);
  EXPECT(g.batch() == 2 && g.sequence() == 3 && g.total() == 3 && !g.done());
  Inputs in = inputs_of(g);
  EXPECT((in.ids == Ids{5, 6, 7, 0, 0, 8}) && (in.positions == Ids{0, 1, 2, 0, 0, 0}));
  EXPECT((in.mask == Ids{1, 1, 1, 0, 0, 1}));
  g.accept({1, 2});
  EXPECT(g.sequence() == 1 && g.total() == 4);
  in = inputs_of(g);
  EXPECT((in.ids == Ids{1, 2}) && (in.positions == Ids{3, 1}) && (in.mask == Ids{1, 1, 1, 1, 0, 0, 1, 1}));
  g.accept({9, 3});  // the first row ends
  in = inputs_of(g);
  EXPECT((in.ids == Ids{9, 3}) && (in.positions == Ids{4, 2}) && !g.done());
  g.accept({4, 9});
  EXPECT(g.done() && (g.continuation(0) == Ids{1, 9}) && (g.continuation(1) == Ids{2, 3, 9}));

  Generation endless({{1}}, 2, std::nullopt);
  endless.accept({9});
  EXPECT(!endless.done());
  endless.accept({9});
  EXPECT(endless.done() && (endless.continuation(0) == Ids{9, 9}));
}

void test_sampling() {
  const uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0xfc00, 0x3555, 0x8000};
  const float values[] = {1, -2, 5.9604645e-8f, 65504, INFINITY, -INFINITY, 0.33325195f, 0};
  for (int i = 0; i < 8; ++i) EXPECT(value_at(Element::kHalf, half, i) == values[i]);
  EXPECT(std::isnan(value_at(Element::kHalf, std::vector<uint16_t>{0x7e00}.data(), 0)));
  const uint16_t bfloat[] = {0x3f80, 0xc000, 0x4049};
  EXPECT(value_at(Element::kBFloat16, bfloat, 0) == 1 && value_at(Element::kBFloat16, bfloat, 1) == -2);
  EXPECT(value_at(Element::kBFloat16, bfloat, 2) == 3.140625f);

  EXPECT(argmax(Element::kHalf, half, 4) == 3 && argmax(Element::kBFloat16, bfloat, 3) == 2);
  const float ties[] = {-3, -1, -1, -2}, infinite[] = {-INFINITY, -5};
  EXPECT(argmax(Element::kFloat, ties, 4) == 1 && argmax(Element::kFloat, infinite, 2) == 1);
  const float broken[] = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_ERROR(RunError, argmax(Element::kFloat, broken, 2), "token 1 is NaN");
}

void test_statistics() {
  const std::vector<float> ten{7, 1, 10, 4, 5, 6, 3, 8, 9, 2};
  EXPECT(percentile(ten, 0.5) == 5 && percentile(ten, 0.9) == 9 && percentile(ten, 1) == 10);
  EXPECT(percentile({3, 1, 2}, 0.5) == 2 && percentile({4}, 0.9) == 4 && percentile({}, 0.5) == 0);
}

}  // namespace

int main() {
  test_options();
  test_decoder();
  test_requests();
  test_cache();
  test_generation();
  test_sampling();
  test_statistics();
  if (failures) std::fprintf(stderr, "%d expectations failed\n", failures);
  return failures ? 1 : 0;
}
