// A cuBLASLt on the CPU for the tests: the functions the plugin uses, as cublasLt.h documents them, in
// float64, or of int8 in integers.  It refuses what the header does not allow, and what the plugin promised
// and does not keep.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr int kSuccess = 0, kAllocFailed = 3, kInvalid = 7, kUnsupported = 15;

struct Operation {
  int32_t compute, scale, transpose_a = 0, transpose_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  int32_t type;
  uint64_t rows, columns;
  int64_t leading;
};
struct Preference {
  uint64_t workspace = 0;
  uint32_t schemes = 7, a = 256, b = 256, c = 256, d = 256;
};
// What an algorithm was asked for; it lies in its 64 bytes.
struct Asked {
  uint64_t shape, workspace;
  uint32_t a, b, c, d;
};
static_assert(sizeof(Asked) <= 64);
struct Found {
  Asked asked;
  char rest[64 - sizeof(Asked)];
  size_t workspace;
  int32_t status;
  float waves;
  int32_t reserved[4];
};

size_t version = 130000;
std::map<std::string, int> calls, failing;
std::set<void*> alive;
const void* last_stream;
// Runs work on a stream that may be captured; null: at once.
int (*enqueue)(void* stream, const std::function<int()>& run) = nullptr;
// Allocates device memory; null: there is none.
int (*allocate)(void** p, size_t bytes) = nullptr;

// Counts a call; what it must return at once, or kSuccess.
int begin(const char* name) {
  ++calls[name];
  const auto found = failing.find(name);
  return found == failing.end() ? kSuccess : found->second;
}

template <class T>
int make(const char* name, T** out, const T& value) {
  if (const int s = begin(name)) return s;
  *out = new T(value);
  alive.insert(*out);
  return kSuccess;
}
template <class T>
int destroy(const char* name, T* object) {
  if (const int s = begin(name)) return s;
  if (!alive.erase(object)) return kInvalid;
  delete object;
  return kSuccess;
}
template <class T>
int store(T* to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return kInvalid;
  std::memcpy(to, value, bytes);
  return kSuccess;
}

uint64_t mix(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001b3u + 0x9e3779b97f4a7c15u; }
uint64_t shape_of(const Operation& o, std::initializer_list<const Layout*> layouts) {
  uint64_t hash = mix(mix(o.compute, o.epilogue), o.transpose_a * 2 + o.transpose_b);
  for (const Layout* l : layouts)
    hash = mix(mix(mix(mix(hash, l->type), l->rows), l->columns), static_cast<uint64_t>(l->leading));
  return hash;
}

// The combinations the header documents for 16-bit matrices and fp32 sums, and for int8 and int32, W
// transposed as the plugin has it.
bool supported(const Operation& o, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
  const bool integers = a.type == 3;
  const int32_t out = integers ? 10 : a.type;
  const bool types =
      (integers || a.type == 2 || a.type == 14) && b.type == a.type && c.type == out && d.type == out;
  const bool sizes = o.transpose_a == 1 && o.transpose_b == 0 && a.rows == b.rows && d.rows == a.columns &&
                     d.columns == b.columns && c.rows == d.rows && c.columns == d.columns;
  const bool epilogue = o.epilogue == 1 || (o.epilogue == 4 && o.bias);
  if (!integers) return types && sizes && epilogue && o.compute == 68 && o.scale == 0;
  const bool fours =
      a.rows % 4 == 0 && a.columns % 4 == 0 && a.leading % 4 == 0 && b.leading % 4 == 0 && d.leading % 4 == 0;
  return types && sizes && fours && o.epilogue == 1 && o.compute == 72 && o.scale == 10;
}

double widen(int32_t type, const void* base, int64_t at) {
  if (type == 3) return static_cast<const int8_t*>(base)[at];
  const uint16_t bits = static_cast<const uint16_t*>(base)[at];
  if (type == 2) {
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    return static_cast<double>(half);
  }
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float f;
  std::memcpy(&f, &wide, 4);
  return f;
}
uint16_t narrow(int32_t type, double v) {
  uint16_t bits;
  if (type == 2) {
    const auto half = static_cast<_Float16>(v);
    std::memcpy(&bits, &half, 2);
    return bits;
  }
  int exponent = 0;
  const double fraction = std::frexp(v, &exponent);
  const auto f = static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8));
  uint32_t wide;
  std::memcpy(&wide, &f, 4);
  return static_cast<uint16_t>(wide >> 16);
}

// What lies in the workspace is lost: NaNs at both of its ends.
void poison(void* workspace, size_t bytes) {
  const size_t first = std::min(bytes, size_t{1} << 20), last = std::min(bytes, size_t{1} << 16);
  std::memset(workspace, 0xff, first);
  std::memset(static_cast<uint8_t*>(workspace) + bytes - last, 0xff, last);
}

// Sums of int8 are below 2^53, and float64 adds them exactly.
void multiply(const Operation& o, float alpha, const void* a, const Layout& la, const void* b,
              const Layout& lb, float beta, const void* c, const Layout& lc, void* d, const Layout& ld) {
  const int32_t type = ld.type;
  const uint64_t depth = la.rows;
  const auto columns = [&](const void* base, const Layout& l) {
    std::vector<double> wide;
    for (uint64_t column = 0; column < l.columns; ++column)
      for (uint64_t k = 0; k < depth; ++k) wide.push_back(widen(l.type, base, k + column * l.leading));
    return wide;
  };
  const std::vector<double> wide_a = columns(a, la), wide_b = columns(b, lb);
  for (uint64_t j = 0; j < ld.columns; ++j)
    for (uint64_t i = 0; i < ld.rows; ++i) {
      double sum = 0;
      for (uint64_t k = 0; k < depth; ++k) sum += wide_a[i * depth + k] * wide_b[j * depth + k];
      if (type == 10) {
        static_cast<int32_t*>(d)[i + j * ld.leading] = static_cast<int32_t>(sum);
        continue;
      }
      sum *= alpha;
      if (beta != 0) sum += beta * widen(type, c, i + j * lc.leading);
      if (o.epilogue == 4) sum += widen(type, o.bias, i);
      static_cast<uint16_t*>(d)[i + j * ld.leading] = narrow(type, sum);
    }
}

bool aligned(const void* p, uint32_t bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

}  // namespace

extern "C" {

size_t cublasLtGetVersion() { return version; }
int cublasLtCreate(int** handle) {
  void* memory = nullptr;  // as long as the process
  return allocate && allocate(&memory, 256) ? kAllocFailed : make("create", handle, 1);
}

int cublasLtMatmulDescCreate(Operation** o, int32_t compute, int32_t scale) {
  return make("operation", o, Operation{compute, scale});
}
int cublasLtMatmulDescDestroy(Operation* o) { return destroy("operation_destroy", o); }
int cublasLtMatmulDescSetAttribute(Operation* o, int32_t attribute, const void* value, size_t bytes) {
  if (const int s = begin("operation_set")) return s;
  if (!alive.count(o)) return kInvalid;
  switch (attribute) {
    case 3:
      return store(&o->transpose_a, value, bytes);
    case 4:
      return store(&o->transpose_b, value, bytes);
    case 7:
      return store(&o->epilogue, value, bytes);
    case 8:
      return store(&o->bias, value, bytes);
    default:
      return kInvalid;
  }
}

int cublasLtMatrixLayoutCreate(Layout** l, int32_t type, uint64_t rows, uint64_t columns, int64_t leading) {
  if (leading < static_cast<int64_t>(rows) || rows == 0 || columns == 0) return kInvalid;
  return make("layout", l, Layout{type, rows, columns, leading});
}
int cublasLtMatrixLayoutDestroy(Layout* l) { return destroy("layout_destroy", l); }

int cublasLtMatmulPreferenceCreate(Preference** p) { return make("preference", p, Preference{}); }
int cublasLtMatmulPreferenceDestroy(Preference* p) { return destroy("preference_destroy", p); }
int cublasLtMatmulPreferenceSetAttribute(Preference* p, int32_t attribute, const void* value, size_t bytes) {
  if (const int s = begin("preference_set")) return s;
  if (!alive.count(p)) return kInvalid;
  uint32_t* const alignments[] = {&p->a, &p->b, &p->c, &p->d};
  if (attribute == 1) return store(&p->workspace, value, bytes);
  if (attribute == 3) return store(&p->schemes, value, bytes);
  return attribute >= 5 && attribute <= 8 ? store(alignments[attribute - 5], value, bytes) : kInvalid;
}

int cublasLtMatmulAlgoGetHeuristic(int* handle, Operation* o, Layout* a, Layout* b, Layout* c, Layout* d,
                                   Preference* p, int wanted, Found* found, int* count) {
  *count = 0;
  if (const int s = begin("heuristic")) return s;
  for (void* object :
       {static_cast<void*>(handle), static_cast<void*>(o), static_cast<void*>(a), static_cast<void*>(b),
        static_cast<void*>(c), static_cast<void*>(d), static_cast<void*>(p)})
    if (!alive.count(object)) return kInvalid;
  // Sums that are added in the order of arrival would not repeat.
  if (wanted < 1 || !supported(*o, *a, *b, *c, *d) || (p->schemes & 1)) return kUnsupported;
  *found = {};
  found->asked = {shape_of(*o, {a, b, c, d}), p->workspace, p->a, p->b, p->c, p->d};
  found->workspace = p->workspace;
  *count = 1;
  return kSuccess;
}

int cublasLtMatmul(int* handle, Operation* o, const void* alpha, const void* a, Layout* la, const void* b,
                   Layout* lb, const void* beta, const void* c, Layout* lc, void* d, Layout* ld,
                   const Asked* asked, void* workspace, size_t workspace_bytes, void* stream) {
  if (const int s = begin("matmul")) return s;
  if (!alive.count(handle) || !supported(*o, *la, *lb, *lc, *ld)) return kInvalid;
  if (asked->shape != shape_of(*o, {la, lb, lc, ld}) || workspace_bytes < asked->workspace) return kInvalid;
  if (!aligned(a, asked->a) || !aligned(b, asked->b) || !aligned(c, asked->c) || !aligned(d, asked->d) ||
      !aligned(workspace, 256) || !c || (o->epilogue == 4 && !aligned(o->bias, 16)))
    return kInvalid;
  // Those of integers are int32.
  const auto number = [integers = o->scale == 10](const void* p) {
    return integers ? static_cast<float>(*static_cast<const int32_t*>(p)) : *static_cast<const float*>(p);
  };
  const float of_product = number(alpha), of_c = number(beta);
  if (ld->type == 10 && (of_product != 1 || of_c != 0)) return kInvalid;
  last_stream = stream;
  // The objects and the host's scalars may change before a captured product runs.
  const auto run = [=, o = *o, la = *la, lb = *lb, lc = *lc, ld = *ld] {
    poison(workspace, workspace_bytes);
    multiply(o, of_product, a, la, b, lb, of_c, c, lc, d, ld);
    poison(workspace, workspace_bytes);
    return kSuccess;
  };
  return enqueue ? enqueue(stream, run) : run();
}

void stand_in_version(size_t v) { version = v; }
// From now on products run by patch_host_enqueue of plugins/host, and a handle allocates by its cudaMalloc.
void stand_in_on(int (*streams)(void*, const std::function<int()>&), int (*memory)(void**, size_t)) {
  enqueue = streams, allocate = memory;
}
// From now on the function returns this status; 0: it works again.
void stand_in_fail(const char* name, int status) {
  if (status)
    failing[name] = status;
  else
    failing.erase(name);
}
int stand_in_calls(const char* name) { return calls[name]; }
int stand_in_alive() { return static_cast<int>(alive.size()); }
const void* stand_in_stream() { return last_stream; }

}  // extern "C"
