// power(a, p): pow() of float64 with the same bits on CPU and CUDA, which math libraries do not
// promise, in a form that compilers vectorise. Free of ATen.
//
// a^p = 2^(p log2(a)). The logarithm is a sum of two numbers, since p log2(a), up to 1074,
// multiplies its relative error. A product is exact if the lower 27 bits of both factors are zero
// (Dekker, 1971, doi.org/10.1007/BF01397083). The error is below 0.8 units in the last place for
// |p| up to 10 and below 4 for |p| up to 100; up to 10, a power that float64 can represent is
// exact.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/host_device.h"
#include "common/rounded.h"

namespace fastprune {

FASTPRUNE_HD uint64_t bits_of_double(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTPRUNE_HD double double_of_bits(uint64_t bits) {
  double x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// yes ? a : b, of which GCC would make branches, and not vectorise the loop.
FASTPRUNE_HD double select(bool yes, double a, double b) {
  const uint64_t mask = -static_cast<uint64_t>(yes);
  return double_of_bits((bits_of_double(a) & mask) | (bits_of_double(b) & ~mask));
}

// x without its lower 27 bits.
FASTPRUNE_HD Rounded upper_half(Rounded x) {
  return {double_of_bits(bits_of_double(x.value) & ~((uint64_t{1} << 27) - 1))};
}

// A number, high + low, of which high has no lower half.
struct Split {
  Rounded high;
  Rounded low;
};

FASTPRUNE_HD Split split(Rounded x) {
  const Rounded high = upper_half(x);
  return {high, x - high};
}

// c[0] x^11 + ... + c[11], as four polynomials of x^4, so that fewer steps wait for each other.
FASTPRUNE_HD Rounded polynomial(Rounded x, const double (&c)[12]) {
  const Rounded x2 = x * x;
  const Rounded x4 = x2 * x2;
  const auto part = [&](int i) {
    return (Rounded{c[i]} * x4 + Rounded{c[i + 4]}) * x4 + Rounded{c[i + 8]};
  };
  return (part(0) * x + part(1)) * x2 + (part(2) * x + part(3));
}

// log2(a) of a positive, finite a.
FASTPRUNE_HD Split split_log2(double a) {
  constexpr Split kTwoOverLn2{{0x1.715476p+1}, {0x1.4ae0bf85ddf44p-25}};
  constexpr double kAtanh[] = {1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15,
                               1.0 / 13, 1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
  const bool denormal = a < 0x1p-1022;
  const uint64_t bits = bits_of_double(a * select(denormal, 0x1p54, 1.0));

  // a = 2^k m with m from sqrt(1/2) to sqrt(2).
  constexpr uint64_t kBias = 1024;
  constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcdu;
  const uint64_t exponent = (bits - kSqrtHalf + (kBias << 52)) >> 52;
  const Rounded m{double_of_bits(bits - (exponent << 52) + (kBias << 52))};
  const Rounded k{double_of_bits(bits_of_double(0x1p52) + exponent) - (0x1p52 + kBias) -
                  select(denormal, 54, 0)};

  // ln(m) = 2 atanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with s = (m - 1) / (m + 1).
  const Rounded one{1};
  const Rounded numerator = m - one;
  const Rounded sum = upper_half(m + one);
  const Rounded rest = m - (sum - one);
  const Rounded inverse{1 / (m + one).value};
  const Rounded s = numerator * inverse;
  const Rounded s_high = upper_half(s);
  const Rounded s_low = (numerator - s_high * sum - s_high * rest) * inverse;
  const Rounded z = s * s;
  const Rounded cubic = s * z * polynomial(z, kAtanh);

  const Rounded high = kTwoOverLn2.high * s_high;  // exact
  const Rounded low =
      kTwoOverLn2.high * s_low + (kTwoOverLn2.low * s + Rounded{0x1.71547652b82fep+1} * cubic);
  const Rounded leading = k + high;
  const Rounded trailing = high - (leading - k) + low;
  const Rounded log = upper_half(leading + trailing);
  return {log, leading - log + trailing};
}

// 2^(high + low), where |low| is small beside |high| or 1.
FASTPRUNE_HD double exp2_of_sum(Rounded high, Rounded low) {
  constexpr Split kLn2{{0x1.62e42f8p-1}, {0x1.be8e7bcd5e4f2p-27}};
  constexpr double kExp[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                             1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                             1.0 / 120,        1.0 / 24,        1.0 / 6,        1.0 / 2};
  constexpr double kMost = 1100;  // beyond are 0 and infinity
  const double total = (high + low).value;
  const bool beyond = fabs(total) > kMost;
  high.value = select(beyond, copysign(kMost, total), high.value);
  low.value = select(beyond, 0, low.value);

  // 2^n e^x with x from -ln(2)/2 to ln(2)/2, as 1 + x + x^2/2 + ...
  const Rounded integers{0x1.8p52};  // numbers of this size are integers, in the lower bits
  const Rounded shifted = high + low + integers;
  const Rounded fraction = high - (shifted - integers);  // exact
  const Split f = split(fraction + low);
  const Rounded f_low = fraction - f.high + low;
  const Rounded x = f.high * kLn2.high;  // exact
  const Rounded x_low = f_low * Rounded{0x1.62e42fefa39efp-1} + f.high * kLn2.low;
  const Rounded one{1};
  const Rounded square = (x + x_low) * (x + x_low);
  const Rounded leading = one + x;
  const Rounded trailing = x - (leading - one) + (x_low + square * polynomial(x + x_low, kExp));
  const Rounded scaled = leading + trailing;

  // In two steps, as 2^n alone may overflow, and so that a denormal is rounded once.
  const uint64_t n = bits_of_double(shifted.value) - bits_of_double(integers.value) + 2 * 1200;
  const uint64_t half = n / 2;
  return scaled.value * double_of_bits((half - 1200 + 1023) << 52) *
         double_of_bits((n - half - 1200 + 1023) << 52);
}

// a^p of an `a` from 0 to infinity, or NaN; p is not 0.
FASTPRUNE_HD double power(double a, double p) {
  constexpr double kMost = 0x1p100;  // beyond it only 1 has a power that is neither 0 nor infinity
  const Split exponent = split({select(fabs(p) > kMost, copysign(kMost, p), p)});
  const Split log = split_log2(a);
  const double result = exp2_of_sum(exponent.high * log.high,
                                    exponent.low * (log.high + log.low) + exponent.high * log.low);
  const double number = select(p != p, p, result);
  const double not_zero = select(a == INFINITY, select(p > 0, INFINITY, 0.0), number);
  return select(a != a, a, select(a == 0.0, select(p > 0, 0.0, INFINITY), not_zero));
}

}  // namespace fastprune
