/* Functions of sixteen floats, for the kernels whose file is compiled for AVX-512. */
#ifndef CNCLIP_MATH_AVX512_H
#define CNCLIP_MATH_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* The first `count` of sixteen lanes; all of them from sixteen on. */
static inline __mmask16 first_lanes(size_t count) {
  return count >= 16 ? 0xFFFF : (__mmask16)((1u << count) - 1);
}

static inline __m512 from_bf16(__m256i values) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(values), 16));
}

/* To the nearest, ties to even. */
static inline __m256i to_bf16(__m512 values) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(values);
#else
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
#endif
}

/* 1 / x within an ulp or two, for x that is neither 0 nor above 2^125. */
static inline __m512 reciprocal(__m512 x) {
  const __m512 estimate = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(estimate, _mm512_fnmadd_ps(x, estimate, _mm512_set1_ps(2)));
}

/* e^x within 2 ulp: Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]. 0 and infinity where a float32
 * ends, NaN for NaN. */
static inline __m512 exponential(__m512 x) {
  /* The operand that may be NaN comes second: min and max return that one. */
  x = _mm512_max_ps(_mm512_set1_ps(-110), _mm512_min_ps(_mm512_set1_ps(90), x));
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                            _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
  sum = _mm512_fmadd_ps(_mm512_mul_ps(sum, rest), rest, _mm512_add_ps(rest, _mm512_set1_ps(1)));
  return _mm512_scalef_ps(sum, whole);
}

/* 1 / (1 + e^-x); 0 below -80, where it is less than 2e-35. */
static inline __m512 sigmoid(__m512 x) {
  const __m512 limit = _mm512_set1_ps(-80);
  const __mmask16 above = _mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ);
  const __m512 power = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_max_ps(limit, x)));
  return _mm512_maskz_mov_ps(above, reciprocal(_mm512_add_ps(power, _mm512_set1_ps(1))));
}

/* x * Phi(x), Phi the normal distribution. Phi(-a) is exp(-a^2 / 2) t P(t) with
 * t = 1 / (1 + 0.21 a), the form of Abramowitz and Stegun 7.1.26; P was fitted to an error of
 * 2e-8 for all a >= 0. */
static inline __m512 gelu(__m512 x) {
  const __m512 one = _mm512_set1_ps(1);
  const __m512 a = _mm512_min_ps(_mm512_set1_ps(40), _mm512_abs_ps(x));
  const __m512 t = reciprocal(_mm512_fmadd_ps(a, _mm512_set1_ps(0.21f), one));
  __m512 sum = _mm512_set1_ps(-0.0716546990143901f);
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.28358077591465436f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.3302372245445874f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.34938226828303925f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-0.09391193409507631f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.12486685701968915f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.0691937517610868f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.08506862081618938f));
  sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(0.08371159079151473f));
  const __m512 half_square = _mm512_mul_ps(_mm512_mul_ps(a, a), _mm512_set1_ps(-0.5f));
  const __m512 below = _mm512_mul_ps(_mm512_mul_ps(sum, t), exponential(half_square));
  const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
  return _mm512_mul_ps(x, _mm512_mask_sub_ps(below, positive, one, below));
}

/* GELU's approximation x / 2 (1 + tanh u) = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static inline __m512 gelu_tanh(__m512 x) {
  const __m512 cubic =
      _mm512_fmadd_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.044715f), _mm512_set1_ps(1));
  return _mm512_mul_ps(
      x, sigmoid(_mm512_mul_ps(_mm512_mul_ps(x, cubic), _mm512_set1_ps(1.5957691216f))));
}

static inline __m512 swish(__m512 x) {
  return _mm512_mul_ps(x, sigmoid(x));
}

static inline __m512 quick_gelu(__m512 x) {
  return _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, _mm512_set1_ps(1.702f))));
}

/* What follows answers bfloat16, or what is brought to eight bits: within 2^-11, and in a third of
 * the time. */

/* 2^x within 1e-4 of itself; 0 and infinity where a float32 ends, NaN for NaN. */
static inline __m512 rough_power_of_two(__m512 x) {
  const __m512 rest = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 sum = _mm512_set1_ps(0.07802403f);
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.22606707f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.69583399f));
  sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(0.99992513f));
  return _mm512_scalef_ps(sum, x); /* which takes the whole part of x by itself */
}

/* x / (1 + 2^-power) */
static inline __m512 rough_gate(__m512 x, __m512 power) {
  const __m512 below = rough_power_of_two(_mm512_sub_ps(_mm512_setzero_ps(), power));
  return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(below, _mm512_set1_ps(1))));
}

/* x sigmoid(a x) */
static inline __m512 rough_swish(__m512 x, float a) {
  return rough_gate(x, _mm512_mul_ps(x, _mm512_set1_ps(a * 1.44269504f)));
}

/* Both of GELU's forms: x sigmoid(a x + b x^3), of which a and b were fitted to the exact one; it
 * is within 3e-4 of that, and within 6e-4 of the approximation by tanh. */
static inline __m512 rough_gelu(__m512 x) {
  const __m512 a = _mm512_set1_ps(1.6003138f * 1.44269504f);
  const __m512 b = _mm512_set1_ps(0.06940198f * 1.44269504f);
  return rough_gate(x, _mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(x, x), b, a)));
}

#endif
