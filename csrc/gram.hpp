// The inner products of a layer's gradient and updated momentum.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "blockwise.hpp"

// Sums have at most this many terms in the type of the computation, and are then added up in double; those of float
// that overflow are taken again in double.
constexpr int TERMS = 64;

// Sums of n elements, with the very m that apply will write: odd K subtracts nearly equal numbers. The sums of a tile
// stay in registers, each in two vectors of BYTES, so that an addition does not wait for the one before it.
template <int which, int BYTES, class T>
struct TileSums {
  typedef T V __attribute__((vector_size(BYTES)));
  static constexpr int WIDTH = BYTES / sizeof(T), MOST = std::min(TILE, 2 * WIDTH * TERMS);

  T b1, c1;
  V gg[2] = {}, gm[2] = {}, mm[2] = {}, dd[2] = {};

  __attribute__((always_inline)) TileSums(T b1, T c1, int n, const T* g, const T* m) : b1(b1), c1(c1) {
    int i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH)
      for (int j = 0; j < 2; j++) add(j, BYTES, g + i + j * WIDTH, m + i + j * WIDTH);
    for (; i < n; i += WIDTH) add(0, std::min(WIDTH, n - i) * int(sizeof(T)), g + i, m + i);
  }

  __attribute__((always_inline)) void add(int j, int bytes, const T* g, const T* m) {
    V gi{}, mi{};  // zeros add nothing
    std::memcpy(&gi, g, bytes);
    if (which & GG) gg[j] += gi * gi;
    if (which == GG) return;
    std::memcpy(&mi, m, bytes);
    mi = b1 * mi + c1 * gi;
    const V di = mi - gi;
    if (which & GM) gm[j] += gi * mi;
    if (which & MM) mm[j] += mi * mi;
    if (which & DD) dd[j] += di * di;
  }

  static __attribute__((always_inline)) double total(const V* x) {
    double lanes[WIDTH];
    for (int i = 0; i < WIDTH; i++) lanes[i] = double(x[0][i]) + double(x[1][i]);
    for (int half = WIDTH / 2; half; half /= 2)
      for (int i = 0; i < half; i++) lanes[i] += lanes[half + i];
    return lanes[0];
  }
};

template <class T>
INLINE void add_in_double(T b1, T c1, int n, const T* g, const T* m, double* sums) {
  for (int i = 0; i < n; i++) {
    const double gi = g[i], mi = T(b1 * m[i] + c1 * g[i]), di = mi - gi;
    sums[0] += gi * gi, sums[1] += gi * mi, sums[2] += mi * mi, sums[3] += di * di;
  }
}

template <int which, int BYTES, class T>
INLINE void gram_of(const Layer& layer, const Step& s, int64_t begin, int64_t end, double* sums) {
  using Of = TileSums<which, BYTES, T>;
  alignas(64) T g_buffer[TILE], m_buffer[TILE], p_buffer[TILE];
  const T b1 = T(s.b1), c1 = T(1 - s.b1);
  for (int64_t at = begin; at < end; at += Of::MOST) {
    const int n = int(std::min<int64_t>(Of::MOST, end - at));
    const T* g = gradient(layer, s, at, n, g_buffer, p_buffer);
    const T* m = which == GG ? g : load_m(layer, at, n, m_buffer);
    const Of x(b1, c1, n, g, m);
    double of_tile[] = {x.total(x.gg), x.total(x.gm), x.total(x.mm), x.total(x.dd)};
    if (sizeof(T) < sizeof(double) && !std::isfinite(of_tile[0] + of_tile[1] + of_tile[2] + of_tile[3])) {
      std::fill_n(of_tile, 4, 0.0);
      add_in_double(b1, c1, n, g, m, of_tile);
    }
    for (int j = 0; j < 4; j++) sums[j] += of_tile[j];
  }
}

template <int BYTES, class T>
INLINE void gram_any(const Layer& l, const Step& s, int64_t begin, int64_t end, double* sums) {
  if (s.sums == GG) return gram_of<GG, BYTES, T>(l, s, begin, end, sums);
  if (s.sums == DD) return gram_of<DD, BYTES, T>(l, s, begin, end, sums);
  if (!(s.sums & DD)) return gram_of<GG | GM | MM, BYTES, T>(l, s, begin, end, sums);
  gram_of<GG | GM | MM | DD, BYTES, T>(l, s, begin, end, sums);
}
