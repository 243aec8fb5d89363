// The fused step on a CPU: the contract of src/aida/backends/contract.py on a table of layers.
//
// Work is cut into chunks of a layer. Each chunk's sums are stored apart and added in order, so a result does
// not depend on who computed what, nor on the number of threads. Within a chunk, tiles small enough for the
// first-level cache are brought into the type of the computation; a tensor that has it already is worked on in
// place.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "blockwise.hpp"
#include "chunks.hpp"
#include "elements.hpp"
#include "gram.hpp"
#include "tensors.hpp"

namespace {

template <class T>
struct Numbers {
  T b1, c1, b2, c2, alpha, beta, inv_bias2, eps_in_root, eps_out, step_size, decay_factor, largest_v;
  Numbers(const Layer& l, const Step& s)
      : b1(T(s.b1)), c1(T(1 - s.b1)), b2(T(s.b2)), c2(T(1 - s.b2)), alpha(T(l.alpha)), beta(T(l.beta)),
        inv_bias2(T(l.inv_bias2)), eps_in_root(T(l.eps_in_root)), eps_out(T(l.eps_out)), step_size(T(l.step_size)),
        decay_factor(T(s.decay_factor)), largest_v(largest(l)) {}

  // What v*inv_bias2 may be made of: where inv_bias2 is 0, not of infinity.
  static T largest(const Layer& l) {
    return l.inv_bias2 == 0 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::infinity();
  }

  // 1/u.
  __attribute__((always_inline)) T inverse(T v) const {
    return std::sqrt((v > largest_v ? largest_v : v) * inv_bias2 + eps_in_root) + eps_out;
  }
};

template <class T>
INLINE void stepsize_of(const Layer& layer, const Step& s, int64_t begin, int64_t end, double* sums) {
  alignas(64) T g_buffer[TILE], m_buffer[TILE], v_buffer[TILE], p_buffer[TILE], counted[TILE];
  const Numbers<T> k(layer, s);
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    const T* m = load_m(layer, at, n, m_buffer);
    const T* v = load_v(layer, at, n, v_buffer);
    T* u = p_buffer;
#pragma omp simd
    for (int i = 0; i < n; i++) {
      const T mi = k.b1 * m[i] + k.c1 * g[i];
      const T r = k.beta * mi - k.alpha * g[i];
      const T vi = k.b2 * v[i] + k.c2 * (r * r);
      u[i] = 1 / k.inverse(vi);
      counted[i] = T(vi != 0);
    }
    double sum = 0, count = 0;
#pragma omp simd reduction(+ : sum, count)
    for (int i = 0; i < n; i++) sum += double(counted[i] == 0 ? 0 : u[i]), count += double(counted[i]);
    sums[0] += sum, sums[1] += count;
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
      if (mode == ELEMENTWISE) step = k.step_size / k.inverse(vi);
    }
    p[i] = k.decay_factor * p[i] - step * mi;
    m[i] = mi;
  }
}

// As apply_of in one loop, for what a bfloat16 state mostly is: float parameters and gradients, v elementwise.
template <bool decay>
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
      const float gi = decay ? sign * g[i] + weight_decay * p[i] : sign * g[i];
      const float mi = k.b1 * from_bfloat16(m[i]) + k.c1 * gi;
      const float r = k.beta * mi - k.alpha * gi;
      const float vi = k.b2 * from_bfloat16(v[i]) + k.c2 * (r * r);
      const float step = k.step_size / k.inverse(vi);
      const uint32_t word = mix(first + uint32_t(i) * WEYL);
      p[i] = k.decay_factor * p[i] - step * mi;
      m[i] = to_bfloat16_at_random(mi, word & 0xffff);
      v[i] = to_bfloat16_at_random(vi, word >> 16);
    }
  }
}

bool is_narrow(const Layer& l, const Step& s, Type m, Type v) {
  return s.mode == ELEMENTWISE && s.round_moments && l.p_type == FLOAT32 && l.g_type == FLOAT32 && l.m_type == m &&
         l.v_type == v;
}

// As apply_narrow, block by block, for m and v of 8 bits.
template <bool decay>
INLINE void apply_coded(const Layer& layer, const Step& s, int64_t begin, int64_t end) {
  alignas(64) float m_buffer[BLOCK], v_buffer[BLOCK];
  alignas(64) int32_t m_codes[BLOCK], v_codes[BLOCK];
  const Numbers<float> k(layer, s);
  const float sign = float(s.sign), weight_decay = float(s.weight_decay);
  for (int64_t at = begin; at < end; at += BLOCK) {
    const int n = int(std::min<int64_t>(BLOCK, end - at));
    const float* g = static_cast<const float*>(layer.g) + at;
    float* p = static_cast<float*>(layer.p) + at;
    auto* m = static_cast<int8_t*>(layer.m) + at;
    auto* v = static_cast<uint8_t*>(layer.v) + at;
    float &m_scale = layer.m_scale[at / BLOCK], &v_scale = layer.v_scale[at / BLOCK];
    const float m_unit = m_scale / 127, v_unit = v_scale / (255 * 255);
    float m_most = 0, v_most = 0;
#pragma omp simd
    for (int i = 0; i < n; i++) m_codes[i] = m[i], v_codes[i] = v[i];
#pragma omp simd reduction(max : m_most, v_most)
    for (int i = 0; i < n; i++) {
      const float gi = decay ? sign * g[i] + weight_decay * p[i] : sign * g[i];
      const float mi = k.b1 * (float(m_codes[i]) * m_unit) + k.c1 * gi;
      const float r = k.beta * mi - k.alpha * gi;
      const float vi = k.b2 * (float(v_codes[i] * v_codes[i]) * v_unit) + k.c2 * (r * r);
      p[i] = k.decay_factor * p[i] - k.step_size / k.inverse(vi) * mi;
      m_buffer[i] = mi;
      v_buffer[i] = vi;
      m_most = std::fabs(mi) > m_most ? std::fabs(mi) : m_most;
      v_most = vi > v_most ? vi : v_most;
    }
    m_scale = std::min(m_most, LARGEST);
    v_scale = std::min(v_most, LARGEST);
    const float of_m = inverse_of(m_scale), of_v = inverse_of(v_scale);
    const uint32_t first = uint32_t(at) * WEYL + layer.key;
#pragma omp simd
    for (int i = 0; i < n; i++) {
      const uint32_t word = mix(first + uint32_t(i) * WEYL);
      m_codes[i] = code_of_m(m_buffer[i], of_m, word & 0xffff);
      v_codes[i] = code_of_v(v_buffer[i], of_v, word >> 16);
    }
#pragma omp simd
    for (int i = 0; i < n; i++) m[i] = int8_t(m_codes[i]), v[i] = uint8_t(v_codes[i]);
  }
}

template <class T>
INLINE void apply_of(const Layer& layer, const Step& s, int64_t begin, int64_t end) {
  alignas(64) T g_buffer[TILE], m_buffer[TILE], v_buffer[TILE], p_buffer[TILE];
  alignas(64) uint32_t words[TILE];
  const Numbers<T> k(layer, s);
  const T step_of_layer = T(layer.step_size * layer.mean);
  const bool elementwise_v = s.mode != PRE;
  const bool coded_m = layer.m_type == INT8, coded_v = layer.v_type == UINT8;
  const bool random_m = s.round_moments && (coded_m || layer.m_type == BFLOAT16);
  const bool random_v = s.round_moments && (coded_v || layer.v_type == BFLOAT16) && elementwise_v;
  const bool random_p = s.round_p && layer.p_type == BFLOAT16;
  for (int64_t at = begin; at < end; at += TILE) {
    const int n = int(std::min<int64_t>(TILE, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    T* m = load_m(layer, at, n, m_buffer);
    T* v = elementwise_v ? load_v(layer, at, n, v_buffer) : v_buffer;
    T* p = load(layer.p, layer.p_type, at, n, p_buffer);
    if (s.mode == ELEMENTWISE) update<ELEMENTWISE>(k, step_of_layer, n, g, p, m, v);
    if (s.mode == PRE) update<PRE>(k, step_of_layer, n, g, p, m, v);
    if (s.mode == POST) update<POST>(k, step_of_layer, n, g, p, m, v);
    if (random_m || random_v || random_p) {
#pragma omp simd
      for (int i = 0; i < n; i++) words[i] = mix((uint32_t(at) + uint32_t(i)) * WEYL + layer.key);
    }
    if (coded_m) encode<int8_t>(layer.m, layer.m_scale, at, n, m, random_m ? words : nullptr);
    else random_m ? store_at_random(layer.m, at, n, m, words, 'm') : store(layer.m, layer.m_type, at, n, m);
    random_p ? store_at_random(layer.p, at, n, p, words, 'p') : store(layer.p, layer.p_type, at, n, p);
    if (coded_v) encode<uint8_t>(layer.v, layer.v_scale, at, n, v, random_v ? words : nullptr);
    else if (elementwise_v)
      random_v ? store_at_random(layer.v, at, n, v, words, 'v') : store(layer.v, layer.v_type, at, n, v);
  }
}

bool is_wide(const Layer& l) { return l.p_type == FLOAT64 || l.g_type == FLOAT64 || l.m_type == FLOAT64; }

// The loops above, compiled once for each instruction set; bytes: of its vectors.
struct Variant {
  void (*gram)(const Layer&, const Step&, int64_t, int64_t, double*);
  void (*stepsize)(const Layer&, const Step&, int64_t, int64_t, double*);
  void (*apply)(const Layer&, const Step&, int64_t, int64_t);
};

#define VARIANT(name, bytes, target)                                                                     \
  target void gram_##name(const Layer& l, const Step& s, int64_t begin, int64_t end, double* sums) {     \
    is_wide(l) ? gram_any<bytes, double>(l, s, begin, end, sums) : gram_any<bytes, float>(l, s, begin, end, sums);     \
  }                                                                                                      \
  target void stepsize_##name(const Layer& l, const Step& s, int64_t begin, int64_t end, double* sums) { \
    is_wide(l) ? stepsize_of<double>(l, s, begin, end, sums) : stepsize_of<float>(l, s, begin, end, sums); \
  }                                                                                                      \
  target void apply_##name(const Layer& l, const Step& s, int64_t begin, int64_t end) {                  \
    const bool decay = s.weight_decay != 0;                                                              \
    if (is_wide(l)) return apply_of<double>(l, s, begin, end);                                           \
    if (is_narrow(l, s, BFLOAT16, BFLOAT16))                                                             \
      return decay ? apply_narrow<true>(l, s, begin, end) : apply_narrow<false>(l, s, begin, end);       \
    if (is_narrow(l, s, INT8, UINT8))                                                                    \
      return decay ? apply_coded<true>(l, s, begin, end) : apply_coded<false>(l, s, begin, end);         \
    apply_of<float>(l, s, begin, end);                                                                   \
  }                                                                                                      \
  constexpr Variant name{gram_##name, stepsize_##name, apply_##name};

VARIANT(baseline, 16, )
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
VARIANT(avx2, 32, __attribute__((target("avx2,fma"))))
VARIANT(avx512, 64, __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))))
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

}  // namespace

extern "C" {

// What the Python side must agree on before it calls anything else.
int64_t aida_layer_bytes() { return sizeof(Layer); }
int64_t aida_step_bytes() { return sizeof(Step); }
int64_t aida_chunk() { return CHUNK; }
int64_t aida_best_variant() { return best_variant(); }

// As in tensors.hpp; called with the lock of Python's interpreter.
int64_t aida_describe(const TensorApi* api, void* list, void* dicts, void* keys, int64_t moving, int64_t still,
                      int64_t* addresses, int64_t* facts, int64_t room) {
  return describe(*api, list, dicts, keys, moving, still, addresses, facts, room);
}
bool aida_bump_versions(const TensorApi* api, void* list) { return bump_versions(*api, list); }
bool aida_counts(const TensorApi* api, void* list, double* out) { return counts(*api, list, out); }
bool aida_advance(const TensorApi* api, void* list) { return advance(*api, list); }

// sums [count, 4]; partial [chunks, 4] is room to work in.
void aida_gram(const Layer* layers, int64_t count, const Step* s, int threads, double* partial, double* sums) {
  const auto gram = chosen(*s).gram;
  for_chunks({layers, count}, threads, [=](const Layer& layer, int64_t c, int64_t begin, int64_t end) {
    std::fill_n(partial + 4 * c, 4, 0.0);
    gram(layer, *s, begin, end, partial + 4 * c);
  });
  add_chunks(layers, count, 4, partial, sums);
}

// sums [count, 2]; partial [chunks, 2] is room to work in.
void aida_stepsize_sum(const Layer* layers, int64_t count, const Step* s, int threads, double* partial,
                       double* sums) {
  const auto stepsize = chosen(*s).stepsize;
  for_chunks({layers, count}, threads, [=](const Layer& layer, int64_t c, int64_t begin, int64_t end) {
    std::fill_n(partial + 2 * c, 2, 0.0);
    stepsize(layer, *s, begin, end, partial + 2 * c);
  });
  add_chunks(layers, count, 2, partial, sums);
}

void aida_apply(Layer* layers, int64_t count, const Step* s, int threads) {
  if (s->mode == PRE)
    for (Layer* l = layers; l != layers + count; l++) {
      auto update = [&](auto* v) {
        const double vi = s->b2 * double(*v) + (1 - s->b2) * l->mean;
        *v = static_cast<std::remove_reference_t<decltype(*v)>>(vi);
        l->mean = 1 / Numbers<double>(*l, *s).inverse(vi);
      };
      l->v_type == FLOAT64 ? update(static_cast<double*>(l->v)) : update(static_cast<float*>(l->v));
    }
  const auto apply = chosen(*s).apply;
  for_chunks({layers, count}, threads, [=](const Layer& layer, int64_t, int64_t begin, int64_t end) {
    apply(layer, *s, begin, end);
  });
}
}
