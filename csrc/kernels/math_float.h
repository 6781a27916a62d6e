/* Functions of a vector of floats, for files that have included one of vector_<isa>.h. They are
 * those of math_avx512.h. */
#ifndef CNCLIP_MATH_FLOAT_H
#define CNCLIP_MATH_FLOAT_H

/* e^x within 2 ulp: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]. 0 and infinity where a float32
 * ends, NaN for NaN. */
static inline vector exponential(vector x) {
  /* The operand that may be NaN comes second: min and max return that one. */
  x = vector_max(vector_of(-110), vector_min(vector_of(90), x));
  const vector whole = vector_round(vector_multiply(x, vector_of(1.44269504f)));
  vector rest = vector_multiply_add(whole, vector_of(-0.693359375f), x);
  rest = vector_multiply_add(whole, vector_of(2.12194440e-4f), rest);
  vector sum = vector_of(1.9875691500e-4f);
  sum = vector_multiply_add(sum, rest, vector_of(1.3981999507e-3f));
  sum = vector_multiply_add(sum, rest, vector_of(8.3334519073e-3f));
  sum = vector_multiply_add(sum, rest, vector_of(4.1665795894e-2f));
  sum = vector_multiply_add(sum, rest, vector_of(1.6666665459e-1f));
  sum = vector_multiply_add(sum, rest, vector_of(5.0000001201e-1f));
  sum = vector_multiply_add(vector_multiply(sum, rest), rest, vector_add(rest, vector_of(1)));
  return vector_scale(sum, whole);
}

/* x / (1 + e^-y) */
static inline vector gate(vector x, vector y) {
  const vector power = exponential(vector_subtract(vector_of(0), y));
  return vector_divide(x, vector_add(power, vector_of(1)));
}

/* x * Phi(x), Phi the normal distribution. Phi(-a) is exp(-a^2 / 2) t P(t) with
 * t = 1 / (1 + 0.21 a), the form of Abramowitz and Stegun 7.1.26; P was fitted to an error of
 * 2e-8 for all a >= 0. */
static inline vector gelu(vector x) {
  const vector one = vector_of(1);
  const vector a = vector_min(vector_of(40), vector_absolute(x));
  const vector t = vector_divide(one, vector_multiply_add(a, vector_of(0.21f), one));
  vector sum = vector_of(-0.0716546990143901f);
  sum = vector_multiply_add(sum, t, vector_of(0.28358077591465436f));
  sum = vector_multiply_add(sum, t, vector_of(-0.3302372245445874f));
  sum = vector_multiply_add(sum, t, vector_of(0.34938226828303925f));
  sum = vector_multiply_add(sum, t, vector_of(-0.09391193409507631f));
  sum = vector_multiply_add(sum, t, vector_of(0.12486685701968915f));
  sum = vector_multiply_add(sum, t, vector_of(0.0691937517610868f));
  sum = vector_multiply_add(sum, t, vector_of(0.08506862081618938f));
  sum = vector_multiply_add(sum, t, vector_of(0.08371159079151473f));
  const vector half_square = vector_multiply(vector_multiply(a, a), vector_of(-0.5f));
  const vector below = vector_multiply(vector_multiply(sum, t), exponential(half_square));
  return vector_multiply(x, vector_if_positive(x, vector_subtract(one, below), below));
}

/* GELU's approximation x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static inline vector gelu_tanh(vector x) {
  const vector cubic =
      vector_multiply_add(vector_multiply(x, x), vector_of(0.044715f), vector_of(1));
  return gate(x, vector_multiply(vector_multiply(x, cubic), vector_of(1.5957691216f)));
}

static inline vector swish(vector x) {
  return gate(x, x);
}

static inline vector quick_gelu(vector x) {
  return gate(x, vector_multiply(x, vector_of(1.702f)));
}

#endif
