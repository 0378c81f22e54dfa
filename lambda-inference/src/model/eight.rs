//! Eight values at once, looked up where each one says, by AVX-512.

use std::arch::x86_64::*;

/// Whether the processor can do it. Miri has no such loads.
pub(super) fn is_available() -> bool {
    !cfg!(miri) && std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512vl")
}

/// The values at these places.
///
/// # Safety
/// Each place is one of `values`.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(super) unsafe fn doubles(values: &[f64], places: __m256i) -> __m512d {
    debug_assert!(numbers(places).iter().all(|place| (*place as usize) < values.len()));
    // SAFETY: eight bytes are read at each place, by eight bytes a place, all of which the caller knows to lie within the values.
    unsafe { _mm512_i32gather_pd::<8>(places, values.as_ptr()) }
}

/// The numbers at these places, each of 16 bits.
///
/// # Safety
/// Each place is one of `shorts` before the last one, since four bytes are read there.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(super) unsafe fn shorts(shorts: &[u16], places: __m256i) -> __m256i {
    debug_assert!(numbers(places).iter().all(|place| (*place as usize) + 1 < shorts.len()));
    // SAFETY: four bytes are read at each place, by two bytes a place: a number and the next one, which the caller knows to be there.
    let found = unsafe { _mm256_i32gather_epi32::<2>(shorts.as_ptr().cast(), places) };
    _mm256_and_si256(found, _mm256_set1_epi32(0xffff))
}

/// The eight numbers of a vector.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(super) fn numbers(vector: __m256i) -> [u32; 8] {
    let mut numbers = [0; 8];
    // SAFETY: eight numbers of 32 bits are written where there is room for them.
    unsafe { _mm256_storeu_si256(numbers.as_mut_ptr().cast(), vector) };
    numbers
}
