// Numbers as they are stored: float16 and bfloat16 to and from float, to the nearest or rounded at random.
#pragma once
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

template <class To, class From>
INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "as wide");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

INLINE float from_bfloat16(uint16_t x) { return bits<float>(uint32_t(x) << 16); }

INLINE uint16_t to_bfloat16(float x) {
  uint32_t u = bits<uint32_t>(x);
  uint32_t nearest = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  return uint16_t(x != x ? 0x7fc0 : nearest);
}

// Random words and rounding as src/aida/backends/rounding.py specifies them.
constexpr uint32_t WEYL = 0x9E3779B9, M1 = 0x21F0AAAD, M2 = 0xD35A2D97;

INLINE uint32_t mix(uint32_t x) {
  x = (x ^ x >> 16) * M1;
  x = (x ^ x >> 15) * M2;
  return x ^ x >> 15;
}

INLINE uint16_t to_bfloat16_at_random(float x, uint32_t random) {
  return uint16_t(x != x ? 0x7fc0 : (bits<uint32_t>(x) + random) >> 16);
}

INLINE float from_float16(uint16_t x) {
  uint32_t magnitude = x & 0x7fff, sign = uint32_t(x & 0x8000) << 16;
  uint32_t normal = (magnitude << 13) + (112u << 23);
  uint32_t subnormal = bits<uint32_t>(float(int32_t(magnitude)) * 0x1p-24f);
  uint32_t special = magnitude << 13 | 0x7f800000;
  return bits<float>(sign | (magnitude < 0x400 ? subnormal : magnitude < 0x7c00 ? normal : special));
}

INLINE uint16_t to_float16(float x) {
  uint32_t u = bits<uint32_t>(x), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
  uint32_t normal = (a + 0xfff + (a >> 13 & 1) - (112u << 23)) >> 13;
  // Adding 0.5 rounds away all but a subnormal half's bits.
  uint32_t subnormal = bits<uint32_t>(bits<float>(a) + 0.5f) - bits<uint32_t>(0.5f);
  uint32_t special = a > 0x7f800000 ? 0x7e00 : 0x7c00;
  return uint16_t(sign | (a < 0x38800000 ? subnormal : a < 0x477ff000 ? normal : special));
}
