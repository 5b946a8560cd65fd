//! Vectors of 32-bit sums of products of bytes, behind one trait.

use crate::cpu::{Cpu, InstructionSet};
use crate::simd::{Portable, Simd};

/// Vector instructions on lanes of 32 bits that hold a sum, or four bytes. Methods are
/// `#[inline(always)]`, as those of [`Simd`].
pub(crate) trait Integers: Copy + Send + Sync {
    /// The vectors of f32 with as many lanes.
    type Floats: Simd;
    /// Lanes.
    const LANES: usize = <Self::Floats as Simd>::LANES;
    /// Rows of a block of one and two vectors of sums that fits the registers.
    const BLOCK_ROWS: [usize; 2];
    /// 32 bits a lane.
    type I: Copy;
    /// Four unsigned bytes a lane, ready to be multiplied.
    type Unsigned: Copy;
    /// Four signed bytes a lane, ready to be multiplied.
    type Signed: Copy;

    fn floats(self) -> Self::Floats;
    fn splat(self, value: i32) -> Self::I;
    /// Loads a vector.
    ///
    /// # Safety
    /// `4 · LANES` bytes must be readable.
    unsafe fn load(self, from: *const u8) -> Self::I;
    /// Stores a vector.
    ///
    /// # Safety
    /// `4 · LANES` bytes must be writable.
    unsafe fn store(self, to: *mut u8, vector: Self::I);
    /// `count ≤ LANES` bytes, each to a lane of its own; other lanes are 0.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn widen(self, from: *const u8, count: usize) -> Self::I;
    /// Forgets each lane's first byte and puts `next` (below 256) behind the others.
    fn slide(self, bytes: Self::I, next: Self::I) -> Self::I;
    fn unsigned(self, bytes: Self::I) -> Self::Unsigned;
    fn signed(self, bytes: Self::I) -> Self::Signed;
    /// Adds the products of four pairs of bytes to each lane's sum.
    fn dot(self, left: Self::Unsigned, right: Self::Signed, sum: Self::I) -> Self::I;
    fn to_floats(self, sums: Self::I) -> <Self::Floats as Simd>::V;
    /// The first `count ≤ LANES` values, rounded (ties to even) and clamped to a byte each.
    ///
    /// # Safety
    /// The bytes must be writable.
    unsafe fn store_bytes(self, to: *mut u8, count: usize, values: <Self::Floats as Simd>::V);
}

/// The arguments of a kernel on bytes, and its body for any instruction set.
pub(crate) trait IntegerKernel {
    /// The body; `#[inline(always)]`.
    fn run<S: Integers>(self, integers: S);
}

/// Lanes of the vectors that a processor works on.
pub(crate) fn lanes(cpu: Cpu) -> usize {
    if has_vnni(cpu) { 16 } else { 8 }
}

/// Runs a kernel compiled for a processor's instructions.
pub(crate) fn run<K: IntegerKernel>(cpu: Cpu, kernel: K) {
    #[cfg(target_arch = "x86_64")]
    {
        if has_vnni(cpu) {
            // SAFETY: the machine has the instructions.
            return unsafe { run_vnni(kernel) };
        }
        if cpu.instruction_set() != InstructionSet::Portable {
            // SAFETY: every x86 set but the portable one has AVX2 and FMA.
            return unsafe { run_avx2(kernel) };
        }
    }
    let _ = cpu;
    run_portable(kernel);
}

#[cfg(target_arch = "x86_64")]
fn has_vnni(cpu: Cpu) -> bool {
    cpu.instruction_set() == InstructionSet::Avx512 && is_x86_feature_detected!("avx512vnni")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_vnni(_: Cpu) -> bool {
    false
}

#[inline(never)]
fn run_portable<K: IntegerKernel>(kernel: K) {
    kernel.run(PortableIntegers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn run_avx2<K: IntegerKernel>(kernel: K) {
    kernel.run(x86::Avx2Integers);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
fn run_vnni<K: IntegerKernel>(kernel: K) {
    kernel.run(x86::Vnni);
}

/// Plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct PortableIntegers;

impl Integers for PortableIntegers {
    type Floats = Portable;
    const BLOCK_ROWS: [usize; 2] = [4, 4];
    type I = [i32; 8];
    type Unsigned = [i32; 8];
    type Signed = [i32; 8];

    #[inline(always)]
    fn floats(self) -> Portable {
        Portable
    }
    #[inline(always)]
    fn splat(self, value: i32) -> [i32; 8] {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const u8) -> [i32; 8] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut u8, vector: [i32; 8]) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[i32; 8]>().write_unaligned(vector) };
    }
    #[inline(always)]
    unsafe fn widen(self, from: *const u8, count: usize) -> [i32; 8] {
        let mut bytes = [0u8; 8];
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count) };
        bytes.map(i32::from)
    }
    #[inline(always)]
    fn slide(self, bytes: [i32; 8], next: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|lane| (bytes[lane] as u32 >> 8) as i32 | next[lane] << 24)
    }
    #[inline(always)]
    fn unsigned(self, bytes: [i32; 8]) -> [i32; 8] {
        bytes
    }
    #[inline(always)]
    fn signed(self, bytes: [i32; 8]) -> [i32; 8] {
        bytes
    }
    #[inline(always)]
    fn dot(self, left: [i32; 8], right: [i32; 8], sum: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|lane| {
            let pairs = left[lane].to_le_bytes().into_iter();
            let pairs = pairs.zip(right[lane].to_le_bytes());
            let products = pairs.map(|(left, right)| i32::from(left) * i32::from(right as i8));
            sum[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn to_floats(self, sums: [i32; 8]) -> [f32; 8] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, count: usize, values: [f32; 8]) {
        let bytes = values.map(|value| value.round_ties_even().clamp(0.0, 255.0) as u8);
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count) };
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Integers;
    use crate::simd::x86::{Avx2, Avx512};

    /// AVX2: products of bytes as products of 16 bits, which do not saturate.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2Integers;

    /// AVX-512 with VNNI.
    #[derive(Clone, Copy)]
    pub(crate) struct Vnni;

    // SAFETY of the blocks below: the methods are inlined into kernels that are compiled for these
    // instructions and run only on machines that have them; pointers are the caller's promise.
    impl Integers for Avx2Integers {
        type Floats = Avx2;
        const BLOCK_ROWS: [usize; 2] = [6, 4];
        type I = __m256i;
        /// Bytes 0 and 2, bytes 1 and 3, 16 bits each.
        type Unsigned = [__m256i; 2];
        type Signed = [__m256i; 2];

        #[inline(always)]
        fn floats(self) -> Avx2 {
            Avx2
        }
        #[inline(always)]
        fn splat(self, value: i32) -> __m256i {
            unsafe { _mm256_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8, vector: __m256i) {
            unsafe { _mm256_storeu_si256(to.cast(), vector) }
        }
        #[inline(always)]
        unsafe fn widen(self, from: *const u8, count: usize) -> __m256i {
            unsafe {
                if count == 8 {
                    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
                }
                let mut bytes = [0u8; 8];
                std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), count);
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))
            }
        }
        #[inline(always)]
        fn slide(self, bytes: __m256i, next: __m256i) -> __m256i {
            unsafe { _mm256_or_si256(_mm256_srli_epi32::<8>(bytes), _mm256_slli_epi32::<24>(next)) }
        }
        #[inline(always)]
        fn unsigned(self, bytes: __m256i) -> [__m256i; 2] {
            unsafe {
                let even = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
                [even, _mm256_srli_epi16::<8>(bytes)]
            }
        }
        #[inline(always)]
        fn signed(self, bytes: __m256i) -> [__m256i; 2] {
            unsafe {
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes));
                [even, _mm256_srai_epi16::<8>(bytes)]
            }
        }
        #[inline(always)]
        fn dot(self, left: [__m256i; 2], right: [__m256i; 2], sum: __m256i) -> __m256i {
            unsafe {
                let even = _mm256_madd_epi16(left[0], right[0]);
                let odd = _mm256_madd_epi16(left[1], right[1]);
                _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
            }
        }
        #[inline(always)]
        fn to_floats(self, sums: __m256i) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize, values: __m256) {
            unsafe {
                let least = _mm256_max_ps(values, _mm256_setzero_ps());
                let clamped = _mm256_min_ps(least, _mm256_set1_ps(255.0));
                let integers = _mm256_cvtps_epi32(clamped);
                let (low, high) = (
                    _mm256_castsi256_si128(integers),
                    _mm256_extracti128_si256::<1>(integers),
                );
                let words = _mm_packus_epi32(low, high);
                let bytes = _mm_packus_epi16(words, words);
                if count == 8 {
                    _mm_storel_epi64(to.cast(), bytes);
                } else {
                    let bytes = _mm_cvtsi128_si64(bytes).to_le_bytes();
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, count);
                }
            }
        }
    }

    // SAFETY of the blocks below: as above.
    impl Integers for Vnni {
        type Floats = Avx512;
        const BLOCK_ROWS: [usize; 2] = [16, 12];
        type I = __m512i;
        type Unsigned = __m512i;
        type Signed = __m512i;

        #[inline(always)]
        fn floats(self) -> Avx512 {
            Avx512
        }
        #[inline(always)]
        fn splat(self, value: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(from.cast()) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut u8, vector: __m512i) {
            unsafe { _mm512_storeu_si512(to.cast(), vector) }
        }
        #[inline(always)]
        unsafe fn widen(self, from: *const u8, count: usize) -> __m512i {
            unsafe {
                let bytes = match count {
                    16 => _mm_loadu_si128(from.cast()),
                    _ => _mm_maskz_loadu_epi8(mask(count), from.cast()),
                };
                _mm512_cvtepu8_epi32(bytes)
            }
        }
        #[inline(always)]
        fn slide(self, bytes: __m512i, next: __m512i) -> __m512i {
            unsafe { _mm512_or_si512(_mm512_srli_epi32::<8>(bytes), _mm512_slli_epi32::<24>(next)) }
        }
        #[inline(always)]
        fn unsigned(self, bytes: __m512i) -> __m512i {
            bytes
        }
        #[inline(always)]
        fn signed(self, bytes: __m512i) -> __m512i {
            bytes
        }
        #[inline(always)]
        fn dot(self, left: __m512i, right: __m512i, sum: __m512i) -> __m512i {
            unsafe { _mm512_dpbusd_epi32(sum, left, right) }
        }
        #[inline(always)]
        fn to_floats(self, sums: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(sums) }
        }
        #[inline(always)]
        unsafe fn store_bytes(self, to: *mut u8, count: usize, values: __m512) {
            unsafe {
                let least = _mm512_max_ps(values, _mm512_setzero_ps());
                let bytes = _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(least));
                match count {
                    16 => _mm_storeu_si128(to.cast(), bytes),
                    _ => _mm_mask_storeu_epi8(to.cast(), mask(count), bytes),
                }
            }
        }
    }

    #[inline(always)]
    fn mask(count: usize) -> __mmask16 {
        debug_assert!(count < 16);
        ((1u32 << count) - 1) as __mmask16
    }
}
