// Drives the kernels under the sanitizers: products of every kind against a plain loop, many callers at once, changes
// of the number of threads, and a forked child. Built and run by sanitize.sh.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "isa.h"
#include "pool.h"
#include "qmm.h"

using namespace helix;

void sanitize_attention();  // in sanitize_attention.cpp
void sanitize_rows();       // in sanitize_rows.cpp

namespace {

// Operands in vectors of exactly their sizes, so that a read past an end is one.
struct Case {
  int64_t inputs, outputs, experts;
  int group, bits;
  std::vector<uint32_t> codes;
  std::vector<float> scales, biases;

  Case(int64_t inputs, int64_t outputs, int64_t experts, int group, int bits)
      : inputs(inputs), outputs(outputs), experts(experts), group(group), bits(bits),
        codes(experts * outputs * inputs * bits / 32), scales(experts * outputs * inputs / group), biases(scales.size()) {
    std::mt19937 random(7);
    for (uint32_t& c : codes) c = random();
    for (float& s : scales) s = static_cast<float>(random() % 1000) / 10000;
    for (float& b : biases) b = static_cast<float>(random() % 1000) / -5000;
  }

  Weights weights() const { return {codes.data(), scales.data(), biases.data(), outputs, inputs, group, bits}; }

  double weight(int64_t expert, int64_t n, int64_t k) const {
    const int64_t row = expert * outputs + n, per_word = 32 / bits;
    const uint32_t word = codes[row * inputs / per_word + k / per_word];
    const uint32_t code = word >> (k % per_word * bits) & ((1u << bits) - 1);
    const int64_t g = row * inputs / group + k / group;
    return double{scales[g]} * code + biases[g];
  }
};

void fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

std::vector<float> multiply(const Case& c, const std::vector<float>& x, int64_t count, const uint32_t* experts) {
  std::vector<float> y(count * c.outputs);
  quantized_matmul(c.weights(), {x.data(), y.data(), Scalar::float32, count, nullptr, 1, experts});
  return y;
}

void check(const Case& c, int64_t count) {
  std::vector<float> x(count * c.inputs);
  for (size_t i = 0; i < x.size(); i++) x[i] = static_cast<float>(i * 37 % 101) / 101 - 0.5f;
  std::vector<uint32_t> experts(count);
  for (int64_t i = 0; i < count; i++) experts[i] = static_cast<uint32_t>(i * 5 % c.experts);
  const std::vector<float> y = multiply(c, x, count, experts.data());
  for (int64_t i = 0; i < count; i++)
    for (int64_t n = 0; n < c.outputs; n += 17) {
      double sum = 0;
      for (int64_t k = 0; k < c.inputs; k++) sum += x[i * c.inputs + k] * c.weight(experts[i], n, k);
      if (std::abs(sum - y[i * c.outputs + n]) > 1e-3) fail("a product is wrong");
    }
  for (Scalar type : {Scalar::float16, Scalar::bfloat16}) {
    std::vector<uint16_t> narrow(count * c.inputs * 2, 0x3c00), result(count * c.outputs);
    quantized_matmul(c.weights(), {narrow.data(), result.data(), type, count, nullptr, 2, experts.data()});
  }
}

void all_kinds() {
  for (const char* form : {"portable", "avx2", "avx512", "neon"}) {
    if (!set_isa(form)) continue;
    for (int bits : {4, 8})
      for (int group : {32, 64, 128})
        for (int64_t count : {1, 2, 3, 4, 5, 6, 7, 8, 13}) check(Case(256, 131, 3, group, bits), count);
    check(Case(2048, 300, 1, 64, 4), 9);
  }
  set_isa("auto");
}

void many_callers() {
  const Case c(512, 1200, 1, 64, 4);
  const std::vector<float> x(2 * 512, 0.25f);
  const std::vector<float> expected = multiply(c, x, 2, nullptr);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; i++)
    callers.emplace_back([&, i] {
      for (int j = 0; j < 200; j++) {
        if (i == 0) set_threads(1 + j % 4);
        if (j % 50 == 0) usleep(2000);  // long enough for the threads to go to sleep
        if (multiply(c, x, 2, nullptr) != expected) fail("another caller made a difference");
      }
    });
  for (std::thread& caller : callers) caller.join();
}

void forked_child() {
  const Case c(512, 1200, 1, 64, 4);
  const std::vector<float> x(512, 0.25f);
  set_threads(3);
  const std::vector<float> expected = multiply(c, x, 1, nullptr);
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 20; i++)
      if (multiply(c, x, 1, nullptr) != expected) _exit(1);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail("a forked child cannot multiply");
  if (multiply(c, x, 1, nullptr) != expected) fail("the parent of a child cannot multiply");
}

}  // namespace

int main(int count, char**) {
  all_kinds();
  many_callers();
  sanitize_attention();
  sanitize_rows();
  if (count == 1) forked_child();  // any argument leaves it out: ThreadSanitizer allows no threads in a child
  std::puts("clean");
}
