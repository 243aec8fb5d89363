// The table of layers that src/aida/backends/cpu.py fills, and its work cut into chunks for threads.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#ifdef _OPENMP
#include <omp.h>
#else
#include <system_error>
#include <thread>
#endif

enum Type : int32_t { FLOAT32, FLOAT64, BFLOAT16, FLOAT16, INT8, UINT8 };  // the last two: codes, blockwise.hpp
enum Mode : int32_t { ELEMENTWISE, PRE, POST };
enum Sums : int32_t { GG = 1, GM = 2, MM = 4, DD = 8 };

// One row of the table that src/aida/backends/cpu.py fills; the fields are equal in order and type.
struct Layer {
  void* p;
  const void* g;
  void* m;
  void* v;
  float* m_scale;
  float* v_scale;
  int64_t numel;
  int64_t first_chunk;
  double alpha, beta;
  double inv_bias2, eps_in_root, eps_out, step_size;
  double mean;  // of r^2 ("pre"; then, within apply, of u) or of u ("post")
  Type p_type, g_type, m_type, v_type;
  uint32_t key;  // of src/aida/backends/rounding.py
  uint32_t unused;
};

struct Step {
  double b1, b2, weight_decay, decay_factor, sign;
  Mode mode;
  int32_t variant;  // 0: every machine, 1: AVX2, 2: AVX-512; never more than the machine has
  int32_t round_moments, round_p;  // whether what is narrow is stored by random rounding
  int32_t sums;                    // those of gram that are asked for; others may stay 0
  int32_t unused;
};

constexpr int64_t CHUNK = 32768;  // elements: 128 KiB a tensor

inline int64_t chunks_of(const Layer& layer) { return (layer.numel + CHUNK - 1) / CHUNK; }

// The table's rows, cut into chunks.
struct Run {
  const Layer* layers;
  int64_t count, chunks;
  Run(const Layer* layers, int64_t count)
      : layers(layers), count(count),
        chunks(count ? layers[count - 1].first_chunk + chunks_of(layers[count - 1]) : 0) {}

  template <class Body>
  void chunk(int64_t number, Body body) const {
    auto after = [](int64_t chunk, const Layer& layer) { return chunk < layer.first_chunk; };
    const Layer& layer = *(std::upper_bound(layers, layers + count, number, after) - 1);
    const int64_t begin = (number - layer.first_chunk) * CHUNK;
    body(layer, number, begin, std::min(begin + CHUNK, layer.numel));
  }
};

// body(layer, number of the chunk, begin, end) for every chunk. Each thread has an equal share of them, the same
// ones whenever these layers come again: memory that another core holds in its cache costs more than one that
// none holds (1.2 against 0.36 ns an element, measured). A thread that is done takes what others have left, so
// that one that is kept from running does not hold up the step.
template <class Body>
void for_chunks(const Run& run, int threads, Body body) {
  constexpr int MOST = 128;
  struct alignas(64) Share {
    std::atomic<int64_t> taken{0};
  };
  threads = std::min(threads, MOST);
  Share shares[MOST];
  auto work = [&](int me, int all) {
    for (int i = 0; i < all; i++) {
      const int64_t owner = (me + i) % all;
      const int64_t first = owner * run.chunks / all, mine = (owner + 1) * run.chunks / all - first;
      for (int64_t c; (c = shares[owner].taken++) < mine;) run.chunk(first + c, body);
    }
  };
  if (threads <= 1) return work(0, 1);  // without OpenMP, whose threads a forked child does not have
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work(omp_get_thread_num(), omp_get_num_threads());
#else
  std::thread others[MOST];
  int started = 0;
  try {
    for (; started < threads - 1; started++) others[started] = std::thread(work, started + 1, threads);
  } catch (const std::system_error&) {  // those that are there take the shares of those that are not
  }
  work(0, threads);
  for (int i = 0; i < started; i++) others[i].join();
#endif
}

// A layer's sums are its chunks' sums, added in order.
inline void add_chunks(const Layer* layers, int64_t count, int columns, const double* partial, double* sums) {
  for (int64_t i = 0; i < count; i++)
    for (int j = 0; j < columns; j++) {
      double sum = 0;
      const int64_t first = layers[i].first_chunk;
      for (int64_t c = first; c < first + chunks_of(layers[i]); c++) sum += partial[c * columns + j];
      sums[i * columns + j] = sum;
    }
}
