// The types that rows are stored in, and what each is as float32. Kernels include this: see isa.h for why everything
// here is in an anonymous namespace.
#pragma once

#include <cstdint>
#include <cstring>

namespace helix {
namespace {

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

struct Float {
  using Stored = float;
  static float read(float stored) { return stored; }
  static float write(float value) { return value; }
};

struct BFloat {
  using Stored = uint16_t;
  static float read(uint16_t stored) { return float_of(static_cast<uint32_t>(stored) << 16); }
  static uint16_t write(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : nearest);
  }
};

struct Half {
  using Stored = uint16_t;
  static float read(uint16_t stored) {
    const uint32_t sign = static_cast<uint32_t>(stored & 0x8000) << 16, rest = stored & 0x7fff;
    const float finite = float_of(rest << 13) * 0x1p112f;  // moves the exponent, and makes denormals whole
    return float_of(sign | (rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : bits_of(finite)));
  }
  static uint16_t write(float value) {
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (rest >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
    // Below the smallest normal number the addition rounds to the place of its last bit.
    if (rest < 0x38800000) return static_cast<uint16_t>(sign | (bits_of(float_of(rest) + 0.5f) - bits_of(0.5f)));
    return static_cast<uint16_t>(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
  }
};

}  // namespace
}  // namespace helix
