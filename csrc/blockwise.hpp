// Moments of 8 bits, as src/aida/backends/blockwise.py specifies them. A tile begins at a whole block.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "elements.hpp"

constexpr int BLOCK = 256;
constexpr uint32_t NEAREST = 0x8000;
constexpr float TINY = std::numeric_limits<float>::min(), LARGEST = 3e38f;

// What the n codes from `at` on stand for: of m (int8_t) or of v (uint8_t).
template <class Code, class T>
INLINE T* decode(const void* codes, const float* scales, int64_t at, int n, T* buffer) {
  constexpr bool of_v = std::is_unsigned<Code>::value;
  auto* from = static_cast<const Code*>(codes) + at;
  for (int first = 0; first < n; first += BLOCK) {
    const T unit = T(scales[(at + first) / BLOCK]) / (of_v ? 255 * 255 : 127);
    const int last = std::min(first + BLOCK, n);
#pragma omp simd
    for (int i = first; i < last; i++) buffer[i] = (of_v ? T(from[i]) * T(from[i]) : T(from[i])) * unit;
  }
  return buffer;
}

// The n elements of m or v from `at` on, as load() gives them.
template <class T>
INLINE T* load_m(const Layer& layer, int64_t at, int n, T* buffer) {
  return layer.m_type == INT8 ? decode<int8_t>(layer.m, layer.m_scale, at, n, buffer)
                              : load(layer.m, layer.m_type, at, n, buffer);
}

template <class T>
INLINE T* load_v(const Layer& layer, int64_t at, int n, T* buffer) {
  return layer.v_type == UINT8 ? decode<uint8_t>(layer.v, layer.v_scale, at, n, buffer)
                               : load(layer.v, layer.v_type, at, n, buffer);
}

template <class T>
INLINE float scale_of(int n, const T* x) {
  float largest = 0;
#pragma omp simd reduction(max : largest)
  for (int i = 0; i < n; i++) {
    const float magnitude = std::fabs(float(x[i]));
    largest = magnitude > largest ? magnitude : largest;  // no nan is
  }
  return std::min(largest, LARGEST);
}

// x in units of its block's scale: from -1 to 1, 0 where it is no number.
INLINE float relative(float x, float inverse) {
  const float z = x * inverse;
  const float held = z > 1 ? 1 : z < -1 ? -1 : z;
  return z == z ? held : 0;
}

INLINE float inverse_of(float scale) { return 1 / std::max(scale, TINY); }

// The codes of x, from the inverse of its block's scale and 16 bits.
INLINE int32_t code_of_m(float x, float inverse, uint32_t bits) {
  const float y = 127 * relative(x, inverse), share = float(int32_t(bits)) * 0x1p-16f;
  const int32_t towards_0 = int32_t(y), low = towards_0 - (float(towards_0) > y);
  return low + (share < y - float(low));
}

INLINE int32_t code_of_v(float x, float inverse, uint32_t bits) {
  const float y = 255 * 255 * relative(x, inverse), share = float(int32_t(bits)) * 0x1p-16f;
  const int32_t low = int32_t(std::sqrt(y));
  const float k = float(low);
  const int32_t code = low + (share * (2 * k + 1) < y - k * k);
  return code == 0 && x > 0 ? 1 : code;
}

// Codes and scales of n elements from `at` on. words: their random ones; null: to the nearest.
template <class Code, class T>
INLINE void encode(void* codes, float* scales, int64_t at, int n, const T* x, const uint32_t* words) {
  constexpr bool of_v = std::is_unsigned<Code>::value;
  auto* to = static_cast<Code*>(codes) + at;
  for (int first = 0; first < n; first += BLOCK) {
    const int last = std::min(first + BLOCK, n);
    const float scale = scale_of(last - first, x + first), inverse = inverse_of(scale);
    scales[(at + first) / BLOCK] = scale;
#pragma omp simd
    for (int i = first; i < last; i++) {
      const uint32_t bits = words ? (of_v ? words[i] >> 16 : words[i] & 0xffff) : NEAREST;
      to[i] = Code(of_v ? code_of_v(float(x[i]), inverse, bits) : code_of_m(float(x[i]), inverse, bits));
    }
  }
}
