// Tiles of a layer's tensors, small enough for the first-level cache, in the type of the computation.
#pragma once
#include "chunks.hpp"
#include "types.hpp"

constexpr int TILE = 1024;

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
