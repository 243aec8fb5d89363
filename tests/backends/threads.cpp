// The kernel's threads under ThreadSanitizer (`make sanitize-threads`), without Python and without libgomp: the
// sanitizer cannot see into that library's own locks. So GOMP_parallel is given here, on std::thread.
#include <cstdio>
#include <thread>
#include <vector>

#include "../../csrc/step_cpu.cpp"

static thread_local int me = 0, all = 1;

extern "C" int omp_get_thread_num() { return me; }
extern "C" int omp_get_num_threads() { return all; }

extern "C" void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> others;
  for (unsigned i = 1; i < threads; i++)
    others.emplace_back([=] {
      me = int(i), all = int(threads);
      body(data);
    });
  all = int(threads);
  body(data);
  all = 1;
  for (auto& other : others) other.join();
}

int main(int count, char**) {
  const bool shared = count > 1;  // a control: two layers on one memory, which must be reported
  const int64_t sizes[] = {5, 3 * CHUNK + 7, 0, 2 * CHUNK, 100};
  for (Mode mode : {ELEMENTWISE, PRE, POST}) {
    std::vector<std::vector<float>> memory;
    std::vector<Layer> layers;
    int64_t chunks = 0;
    for (int64_t n : sizes) {
      for (int i = 0; i < 4; i++) memory.emplace_back(n + 1, 0.5f);
      auto* last = &memory[memory.size() - 4];
      Layer layer{};
      layer.p = last[0].data(), layer.g = last[1].data(), layer.m = last[2].data(), layer.v = last[3].data();
      layer.numel = n, layer.first_chunk = chunks;
      layer.alpha = layer.beta = layer.inv_bias2 = layer.step_size = 1, layer.eps_in_root = 1e-5;
      chunks += chunks_of(layer);
      layers.push_back(layer);
    }
    if (shared) layers[3].p = layers[1].p;
    std::vector<double> partial(4 * chunks), sums(4 * layers.size());
    Step s{};
    s.b1 = 0.9, s.b2 = 0.99, s.decay_factor = s.sign = 1, s.mode = mode, s.sums = GG | GM | MM | DD;
    for (int step = 0; step < 20; step++) {
      const int64_t n = int64_t(layers.size());
      aida_gram(layers.data(), n, &s, 4, partial.data(), sums.data());
      if (mode == POST) aida_stepsize_sum(layers.data(), n, &s, 4, partial.data(), sums.data());
      for (auto& layer : layers) layer.mean = 1;
      aida_apply(layers.data(), n, &s, 4);
    }
  }
  std::puts("no data race");
}
