// Drives norms, rotations and embeddings under the sanitizers: every type, strided rows, sizes that no vector divides, arrays that
// are shared out between threads, and many callers at once. Everything lies in vectors of exactly its size.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "embedding_job.h"
#include "rms_norm_job.h"
#include "rope_job.h"

using namespace helix;

namespace {

void require(bool right, const char* message) {
  if (right) return;
  std::fprintf(stderr, "%s\n", message);
  std::_Exit(1);
}

std::vector<float> numbers(int64_t count) {
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; i++) x[i] = static_cast<float>(i * 37 % 101) / 101 - 0.5f;
  return x;
}

// Rows lie `stride` apart element by element, or, with starts, in their reverse order.
void norm(int64_t count, int64_t size, int64_t stride, bool reversed) {
  const std::vector<float> x = numbers((count * size - 1) * stride + 1), weight(size, 2.0f);
  std::vector<float> y(count * size);
  std::vector<int64_t> starts;
  for (int64_t i = 0; i < count; i++) starts.push_back((reversed ? count - 1 - i : i) * size * stride);
  const bool dense = stride == 1 && !reversed;
  rms_norm({x.data(), weight.data(), y.data(), count, size, stride, dense ? nullptr : starts.data(), 1e-5f,
            Scalar::float32});
  for (int64_t row = 0; row < count; row++) {
    double squares = 0;
    for (int64_t i = 0; i < size; i++) squares += std::pow(x[starts[row] + i * stride], 2);
    for (int64_t i = 0; i < size; i++) {
      const double expected = 2 * x[starts[row] + i * stride] / std::sqrt(squares / size + 1e-5);
      require(std::abs(expected - y[row * size + i]) < 1e-4, "a norm is wrong");
    }
  }
  const std::vector<uint16_t> narrow((count * size - 1) * stride + 1, 0x3c00), ones(size, 0x3c00);
  std::vector<uint16_t> result(count * size);
  for (Scalar type : {Scalar::float16, Scalar::bfloat16})
    rms_norm({narrow.data(), ones.data(), result.data(), count, size, stride, dense ? nullptr : starts.data(), 1e-5f,
              type});
}

// Heads side by side in a row, as a product leaves them.
RopeJob rotation(const std::vector<float>& x, std::vector<float>& y, int64_t rows, int64_t turned, bool traditional) {
  static const std::vector<int32_t> offsets{5, 900};
  static const std::vector<float> frequencies(16, 0.25f);
  const int64_t heads = 3, dim = 37;
  y.assign(x.size(), NAN);
  RopeJob job{};
  job.x = x.data();
  job.y = y.data();
  job.batch = 2, job.heads = heads, job.rows = rows, job.dim = dim;
  job.strides[0] = rows * heads * dim, job.strides[1] = dim, job.strides[2] = heads * dim, job.strides[3] = 1;
  job.offsets = offsets.data();
  job.offset_each = true;
  job.frequencies = frequencies.data();
  job.turned = turned;
  job.traditional = traditional;
  job.scale = 1;
  job.type = Scalar::float32;
  return job;
}

void rotate(int64_t rows, int64_t turned, bool traditional) {
  const std::vector<float> x = numbers(2 * rows * 3 * 37);
  std::vector<float> y;
  const RopeJob job = rotation(x, y, rows, turned, traditional);
  rope(job);
  for (size_t i = 0; i < y.size(); i += 37) {  // a rotation leaves lengths as they are
    double before = 0, after = 0;
    for (int j = 0; j < 37; j++) before += x[i + j] * x[i + j], after += y[i + j] * y[i + j];
    require(std::abs(before - after) < 1e-3, "a rotation is wrong");
  }
  for (Scalar type : {Scalar::float16, Scalar::bfloat16}) {
    const std::vector<uint16_t> narrow(x.size(), 0x3c00);
    std::vector<uint16_t> result(x.size());
    RopeJob half = job;
    half.x = narrow.data(), half.y = result.data(), half.type = type, half.offset_each = false;
    rope(half);
  }
}

// Ids below 0 and out of range among them.
void embeds(int64_t outputs, int64_t inputs, int group, int bits, int64_t count) {
  const std::vector<uint32_t> codes(outputs * inputs * bits / 32, bits == 4 ? 0x33333333 : 0x03030303);
  std::vector<float> scales(outputs * inputs / group), biases(scales.size(), 1.0f), y(count * inputs);
  for (size_t i = 0; i < scales.size(); i++) scales[i] = static_cast<float>(i / (inputs / group));
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; i++) ids[i] = static_cast<int32_t>(i * 7 % (3 * outputs) - outputs - 1);
  embed({codes.data(), scales.data(), biases.data(), outputs, inputs, group, bits}, ids.data(), count, y.data());
  for (int64_t i = 0; i < count; i++) {
    const int64_t id = ids[i] < 0 ? ids[i] + outputs : ids[i];
    const int64_t row = id < 0 ? 0 : id >= outputs ? outputs - 1 : id;
    for (int64_t k = 0; k < inputs; k++) require(y[i * inputs + k] == 3.0f * row + 1, "an embedding is wrong");
  }
}

void many_callers() {
  const std::vector<float> x = numbers(2 * 400 * 3 * 37);
  std::vector<float> expected;
  rope(rotation(x, expected, 400, 32, false));
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; i++)
    callers.emplace_back([&] {
      for (int j = 0; j < 10; j++) {
        std::vector<float> y;
        rope(rotation(x, y, 400, 32, false));
        require(y == expected, "another caller made a difference");
        norm(700, 129, 1, false);
      }
    });
  for (std::thread& caller : callers) caller.join();
}

}  // namespace

void sanitize_rows() {
  for (int64_t size : {1, 15, 16, 33, 256})
    for (int64_t count : {1, 2, 7}) {
      norm(count, size, 1, false);
      norm(count, size, 1, true);
      norm(count, size, 3, false);
    }
  for (int64_t turned : {2, 10, 32})
    for (int64_t rows : {1, 5, 300}) {
      rotate(rows, turned, false);
      rotate(rows, turned, true);
    }
  for (int group : {32, 64, 128})
    for (int bits : {4, 8})
      for (int64_t count : {1, 9, 500}) embeds(11, 2 * group, group, bits, count);
  many_callers();
}
