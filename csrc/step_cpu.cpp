// The fused step on a CPU: the contract of src/aida/backends/contract.py on a table of layers.
//
// Work is cut into chunks of a layer. Each chunk's sums are stored apart and added in order, so a result does
// not depend on who computed what, nor on the number of threads. Within a chunk, tiles small enough for the
// first-level cache are brought into the type of the computation; a tensor that has it already is worked on in
// place.
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "types.hpp"

namespace {

constexpr int64_t CHUNK = 32768;  // elements: 128 KiB a tensor, so that g and m of a chunk fit a second-level cache
constexpr int TILE = 1024;
// Sums of a tile run in this many lanes of at most 64 terms, so products of 1e36 do not overflow a float.
constexpr int LANES = 16;

enum Type : int32_t { FLOAT32, FLOAT64, BFLOAT16, FLOAT16 };
enum Mode : int32_t { ELEMENTWISE, PRE, POST };

// One row of the table that src/aida/backends/cpu.py fills; the fields are equal in order and type.
struct Layer {
  void* p;
  const void* g;
  void* m;
  void* v;
  int64_t numel;
  int64_t first_chunk;
  double alpha, beta;
  double inv_bias2, floor, eps_out, step_size;
  double mean;  // of r^2 ("pre"; then, within apply, of u) or of u ("post")
  Type p_type, g_type, m_type, v_type;
  uint32_t key;  // of src/aida/backends/rounding.py
  uint32_t unused;
};

struct Step {
  double b1, b2, weight_decay, shrink, sign;
  Mode mode;
  int32_t variant;  // 0: every machine, 1: AVX2, 2: AVX-512; never more than the machine has
  int32_t round_moments, round_p;  // whether bfloat16 is stored by random rounding
};

// The n elements from `at` on as T: in place where they are T, else in `buffer`.
template <class T>
INLINE T* load(const void* tensor, Type type, int64_t at, int n, T* buffer) {
  constexpr Type own = sizeof(T) == 8 ? FLOAT64 : FLOAT32;
  if (type == own) return static_cast<T*>(const_cast<void*>(tensor)) + at;
  if (type == BFLOAT16) {
    auto* x = static_cast<const uint16_t*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) buffer[i] = T(from_bfloat16(x[i]));
  } else if (type == FLOAT16) {
    auto* x = static_cast<const uint16_t*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) buffer[i] = T(from_float16(x[i]));
  } else if (type == FLOAT32) {
    auto* x = static_cast<const float*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) buffer[i] = T(x[i]);
  } else {
    auto* x = static_cast<const double*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) buffer[i] = T(x[i]);
  }
  return buffer;
}

// What load() gave, written to, goes back; nothing is left to do where it was in place.
template <class T>
INLINE void store(void* tensor, Type type, int64_t at, int n, const T* x) {
  constexpr Type own = sizeof(T) == 8 ? FLOAT64 : FLOAT32;
  if (type == own) return;
  if (type == BFLOAT16) {
    auto* to = static_cast<uint16_t*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] = to_bfloat16(float(x[i]));
  } else if (type == FLOAT16) {
    auto* to = static_cast<uint16_t*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] = to_float16(float(x[i]));
  } else if (type == FLOAT32) {
    auto* to = static_cast<float*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] = float(x[i]);
  } else {
    auto* to = static_cast<double*>(tensor) + at;
#pragma omp simd
    for (int i = 0; i < n; i++) to[i] = double(x[i]);
  }
}

// As store(), into bfloat16, with 16 random bits an element: for m the low and for v the high ones of `words`,
// for p those of words*M2.
template <class T>
INLINE void store_at_random(void* tensor, int64_t at, int n, const T* x, const uint32_t* words, char which) {
  auto* to = static_cast<uint16_t*>(tensor) + at;
  const uint32_t factor = which == 'p' ? M2 : 1, shift = which == 'm' ? 0 : 16;
#pragma omp simd
  for (int i = 0; i < n; i++) to[i] = to_bfloat16_at_random(float(x[i]), words[i] * factor >> shift & 0xffff);
}

// g with sign and coupled decay; p is not touched where there is no coupled decay.
template <class T>
INLINE const T* gradient(const Layer& layer, const Step& s, int64_t at, int n, T* buffer, T* p_buffer) {
  const T* g = load(layer.g, layer.g_type, at, n, buffer);
  const T sign = T(s.sign), weight_decay = T(s.weight_decay);
  if (weight_decay != 0) {
    const T* p = load(layer.p, layer.p_type, at, n, p_buffer);
#pragma omp simd
    for (int i = 0; i < n; i++) buffer[i] = sign * g[i] + weight_decay * p[i];
    return buffer;
  }
  if (sign == 1) return g;
#pragma omp simd
  for (int i = 0; i < n; i++) buffer[i] = sign * g[i];
  return buffer;
}

template <class T>
INLINE double total(const T* lanes) {
  double sum = 0;
  for (int j = 0; j < LANES; j++) sum += double(lanes[j]);
  return sum;
}

template <class T>
INLINE void gram_of(const Layer& layer, const Step& s, int64_t begin, int64_t end, double* sums) {
  alignas(64) T g_buffer[TILE], m_buffer[TILE], p_buffer[TILE];
  const T b1 = T(s.b1), c1 = T(1 - s.b1);
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    const T* m = load(layer.m, layer.m_type, at, n, m_buffer);
    alignas(64) T gg[LANES] = {}, gm[LANES] = {}, mm[LANES] = {}, dd[LANES] = {};
    const int whole = n / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
#pragma omp simd
      for (int j = 0; j < LANES; j++) {
        const T gi = g[i + j], mi = b1 * m[i + j] + c1 * gi, di = mi - gi;
        gg[j] += gi * gi, gm[j] += gi * mi, mm[j] += mi * mi, dd[j] += di * di;
      }
    }
    for (int i = whole; i < n; i++) {
      const T gi = g[i], mi = b1 * m[i] + c1 * gi, di = mi - gi;
      const int j = i - whole;
      gg[j] += gi * gi, gm[j] += gi * mi, mm[j] += mi * mi, dd[j] += di * di;
    }
    sums[0] += total(gg), sums[1] += total(gm), sums[2] += total(mm), sums[3] += total(dd);
  }
}

template <class T>
struct Numbers {
  T b1, c1, b2, c2, alpha, beta, inv_bias2, floor, eps_out, step_size, shrink;
  Numbers(const Layer& l, const Step& s)
      : b1(T(s.b1)), c1(T(1 - s.b1)), b2(T(s.b2)), c2(T(1 - s.b2)), alpha(T(l.alpha)), beta(T(l.beta)),
        inv_bias2(T(l.inv_bias2)), floor(T(l.floor)), eps_out(T(l.eps_out)), step_size(T(l.step_size)),
        shrink(T(s.shrink)) {}
};

template <class T>
INLINE void stepsize_of(const Layer& layer, const Step& s, int64_t begin, int64_t end, double* sums) {
  alignas(64) T g_buffer[TILE], m_buffer[TILE], v_buffer[TILE], p_buffer[TILE];
  const Numbers<T> k(layer, s);
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    const T* m = load(layer.m, layer.m_type, at, n, m_buffer);
    const T* v = load(layer.v, layer.v_type, at, n, v_buffer);
    T* u = p_buffer;
#pragma omp simd
    for (int i = 0; i < n; i++) {
      const T mi = k.b1 * m[i] + k.c1 * g[i];
      const T r = k.beta * mi - k.alpha * g[i];
      const T vi = k.b2 * v[i] + k.c2 * (r * r);
      u[i] = 1 / (std::sqrt(vi * k.inv_bias2 + k.floor) + k.eps_out);
    }
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < n; i++) sum += double(u[i]);
    sums[0] += sum;
  }
}

// The update of n elements in place; step_of_layer: its factor of m where u is one number a layer.
template <Mode mode, class T>
INLINE void update(const Numbers<T>& k, T step_of_layer, int n, const T* g, T* p, T* m, T* v) {
#pragma omp simd
  for (int i = 0; i < n; i++) {
    const T gi = g[i];
    const T mi = k.b1 * m[i] + k.c1 * gi;
    T step = step_of_layer;
    if (mode != PRE) {
      const T r = k.beta * mi - k.alpha * gi;
      const T vi = k.b2 * v[i] + k.c2 * (r * r);
      v[i] = vi;
      if (mode == ELEMENTWISE) step = k.step_size / (std::sqrt(vi * k.inv_bias2 + k.floor) + k.eps_out);
    }
    p[i] = k.shrink * p[i] - step * mi;
    m[i] = mi;
  }
}

// As apply_of in one loop, for what a bfloat16 state mostly is: float parameters and gradients, v elementwise.
INLINE void apply_narrow(const Layer& layer, const Step& s, int64_t begin, int64_t end) {
  const Numbers<float> k(layer, s);
  const float sign = float(s.sign), weight_decay = float(s.weight_decay);
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const float* g = static_cast<const float*>(layer.g) + at;
    float* p = static_cast<float*>(layer.p) + at;
    uint16_t* m = static_cast<uint16_t*>(layer.m) + at;
    uint16_t* v = static_cast<uint16_t*>(layer.v) + at;
    const uint32_t first = uint32_t(at) * WEYL + layer.key;
#pragma omp simd
    for (int i = 0; i < n; i++) {
      const float gi = sign * g[i] + weight_decay * p[i];
      const float mi = k.b1 * from_bfloat16(m[i]) + k.c1 * gi;
      const float r = k.beta * mi - k.alpha * gi;
      const float vi = k.b2 * from_bfloat16(v[i]) + k.c2 * (r * r);
      const float step = k.step_size / (std::sqrt(vi * k.inv_bias2 + k.floor) + k.eps_out);
      const uint32_t word = mix(first + uint32_t(i) * WEYL);
      p[i] = k.shrink * p[i] - step * mi;
      m[i] = to_bfloat16_at_random(mi, word & 0xffff);
      v[i] = to_bfloat16_at_random(vi, word >> 16);
    }
  }
}

bool is_narrow(const Layer& l, const Step& s) {
  return s.mode == ELEMENTWISE && s.round_moments && l.p_type == FLOAT32 && l.g_type == FLOAT32 &&
         l.m_type == BFLOAT16 && l.v_type == BFLOAT16;
}

template <class T>
INLINE void apply_of(const Layer& layer, const Step& s, int64_t begin, int64_t end) {
  alignas(64) T g_buffer[TILE], m_buffer[TILE], v_buffer[TILE], p_buffer[TILE];
  alignas(64) uint32_t words[TILE];
  const Numbers<T> k(layer, s);
  const T step_of_layer = T(layer.step_size * layer.mean);
  const bool elementwise_v = s.mode != PRE;
  const bool random_m = s.round_moments && layer.m_type == BFLOAT16;
  const bool random_v = s.round_moments && layer.v_type == BFLOAT16 && elementwise_v;
  const bool random_p = s.round_p && layer.p_type == BFLOAT16;
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    T* m = load(layer.m, layer.m_type, at, n, m_buffer);
    T* v = elementwise_v ? load(layer.v, layer.v_type, at, n, v_buffer) : v_buffer;
    T* p = load(layer.p, layer.p_type, at, n, p_buffer);
    if (s.mode == ELEMENTWISE) update<ELEMENTWISE>(k, step_of_layer, n, g, p, m, v);
    if (s.mode == PRE) update<PRE>(k, step_of_layer, n, g, p, m, v);
    if (s.mode == POST) update<POST>(k, step_of_layer, n, g, p, m, v);
    if (random_m || random_v || random_p) {
#pragma omp simd
      for (int i = 0; i < n; i++) words[i] = mix((uint32_t(at) + uint32_t(i)) * WEYL + layer.key);
    }
    random_m ? store_at_random(layer.m, at, n, m, words, 'm') : store(layer.m, layer.m_type, at, n, m);
    random_p ? store_at_random(layer.p, at, n, p, words, 'p') : store(layer.p, layer.p_type, at, n, p);
    if (elementwise_v)
      random_v ? store_at_random(layer.v, at, n, v, words, 'v') : store(layer.v, layer.v_type, at, n, v);
  }
}

bool is_wide(const Layer& l) { return l.p_type == FLOAT64 || l.g_type == FLOAT64 || l.m_type == FLOAT64; }

// The loops above, compiled once for each instruction set.
struct Variant {
  void (*gram)(const Layer&, const Step&, int64_t, int64_t, double*);
  void (*stepsize)(const Layer&, const Step&, int64_t, int64_t, double*);
  void (*apply)(const Layer&, const Step&, int64_t, int64_t);
};

#define VARIANT(name, target)                                                                            \
  target void gram_##name(const Layer& l, const Step& s, int64_t begin, int64_t end, double* sums) {     \
    is_wide(l) ? gram_of<double>(l, s, begin, end, sums) : gram_of<float>(l, s, begin, end, sums);       \
  }                                                                                                      \
  target void stepsize_##name(const Layer& l, const Step& s, int64_t begin, int64_t end, double* sums) { \
    is_wide(l) ? stepsize_of<double>(l, s, begin, end, sums) : stepsize_of<float>(l, s, begin, end, sums); \
  }                                                                                                      \
  target void apply_##name(const Layer& l, const Step& s, int64_t begin, int64_t end) {                  \
    if (is_wide(l)) return apply_of<double>(l, s, begin, end);                                           \
    if (is_narrow(l, s)) return apply_narrow(l, s, begin, end);                                          \
    apply_of<float>(l, s, begin, end);                                                                   \
  }                                                                                                      \
  constexpr Variant name{gram_##name, stepsize_##name, apply_##name};

VARIANT(baseline, )
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
VARIANT(avx2, __attribute__((target("avx2,fma"))))
VARIANT(avx512, __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))))
constexpr Variant VARIANTS[] = {baseline, avx2, avx512};

int best_variant() {
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return wide ? 2 : 1;
}
#else
constexpr Variant VARIANTS[] = {baseline};

int best_variant() { return 0; }
#endif

const Variant& chosen(const Step& s) { return VARIANTS[std::min<int>(s.variant, best_variant())]; }

int64_t chunks_of(const Layer& layer) { return (layer.numel + CHUNK - 1) / CHUNK; }

// A run of a table's rows, cut into chunks.
struct Run {
  const Layer* layers;
  int64_t count, chunks;
  Run(const Layer* layers, int64_t count)
      : layers(layers), count(count),
        chunks(count ? layers[count - 1].first_chunk + chunks_of(layers[count - 1]) - layers[0].first_chunk : 0) {}

  // body(layer, begin, end) for the chunk of this number, counted from 0.
  template <class Body>
  void chunk(int64_t number, Body body) const {
    const int64_t at = layers[0].first_chunk + number;
    auto after = [](int64_t chunk, const Layer& layer) { return chunk < layer.first_chunk; };
    const Layer& layer = *(std::upper_bound(layers, layers + count, at, after) - 1);
    const int64_t begin = (at - layer.first_chunk) * CHUNK;
    body(layer, begin, std::min(begin + CHUNK, layer.numel));
  }
};

// body(run, number of the chunk) for every chunk of both runs, mixed. The chunks of a run belong to the threads
// in equal shares, and to the same threads when the run comes again: what gram has read, apply finds in its own
// core's cache, where another core's costs more than memory. A thread that is done takes what others have left,
// so that one that is kept from running does not hold up the step.
template <class Body>
void for_chunks(const Run& first, const Run& second, int threads, Body body) {
  constexpr int MOST = 128;
  struct alignas(64) Share {
    std::atomic<int64_t> taken{0};
  };
  threads = std::min(threads, MOST);
  Share shares[MOST];
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const int me = omp_get_thread_num(), all = omp_get_num_threads();
    for (int i = 0; i < all; i++) {
      const int64_t owner = (me + i) % all;
      const int64_t begin = owner * first.chunks / all, ones = (owner + 1) * first.chunks / all - begin;
      const int64_t begin2 = owner * second.chunks / all, twos = (owner + 1) * second.chunks / all - begin2;
      const int64_t most = ones + twos;
      for (int64_t c; (c = shares[owner].taken++) < most;) {
        const int64_t before = c * twos / most;
        if ((c + 1) * twos / most > before)
          body(second, begin2 + before);
        else  // backwards: what the sums read last is still in the cache
          body(first, begin + ones - 1 - (c - before));
      }
    }
  }
}

// A layer's sums are its chunks' sums, added in order.
void add_chunks(const Layer* layers, int64_t count, int columns, const double* partial, double* sums) {
  for (int64_t i = 0; i < count; i++)
    for (int j = 0; j < columns; j++) {
      double sum = 0;
      const int64_t first = layers[i].first_chunk - layers[0].first_chunk;
      for (int64_t c = first; c < first + chunks_of(layers[i]); c++) sum += partial[c * columns + j];
      sums[i * columns + j] = sum;
    }
}

}  // namespace

extern "C" {

// What the Python side must agree on before it calls anything else.
int64_t aida_layer_bytes() { return sizeof(Layer); }
int64_t aida_step_bytes() { return sizeof(Step); }
int64_t aida_chunk() { return CHUNK; }
int64_t aida_best_variant() { return best_variant(); }

// Adds 1 to each counter; `counts` gets the new values.
void aida_advance(float* const* counters, int64_t count, double* counts) {
  for (int64_t i = 0; i < count; i++) counts[i] = double(*counters[i] += 1);
}

// sums [count]; partial [chunks] is room to work in.
void aida_stepsize_sum(const Layer* layers, int64_t count, const Step* s, int threads, double* partial,
                       double* sums) {
  const auto stepsize = chosen(*s).stepsize;
  for_chunks({nullptr, 0}, {layers, count}, threads, [=](const Run& run, int64_t c) {
    partial[c] = 0;
    run.chunk(c, [=](const Layer& layer, int64_t begin, int64_t end) {
      stepsize(layer, *s, begin, end, partial + c);
    });
  });
  add_chunks(layers, count, 1, partial, sums);
}

// Applies the first layers and sums up the second, either of which may be none: sums [summed, 4], with
// partial [chunks, 4] as room to work in. Their chunks are mixed, since apply waits for memory to be written
// and gram for it to be read, and the two hardly hinder each other.
void aida_apply_and_gram(Layer* to_apply, int64_t applied, const Step* s, const Layer* to_sum, int64_t summed,
                         const Step* s_sum, int threads, double* partial, double* sums) {
  if (applied && s->mode == PRE)
    for (Layer* l = to_apply; l != to_apply + applied; l++) {
      auto update = [&](auto* v) {
        const double vi = s->b2 * double(*v) + (1 - s->b2) * l->mean;
        *v = static_cast<std::remove_reference_t<decltype(*v)>>(vi);
        l->mean = 1 / (std::sqrt(vi * l->inv_bias2 + l->floor) + l->eps_out);
      };
      l->v_type == FLOAT64 ? update(static_cast<double*>(l->v)) : update(static_cast<float*>(l->v));
    }
  const Variant& variant = chosen(applied ? *s : *s_sum);
  const Run apply(to_apply, applied), gram(to_sum, summed);
  for_chunks(apply, gram, threads, [&](const Run& run, int64_t c) {
    run.chunk(c, [&](const Layer& layer, int64_t begin, int64_t end) {
      if (&run == &apply) return variant.apply(layer, *s, begin, end);
      std::fill_n(partial + 4 * c, 4, 0.0);
      variant.gram(layer, *s_sum, begin, end, partial + 4 * c);
    });
  });
  if (summed) add_chunks(to_sum, summed, 4, partial, sums);
}
}
