//! Vectors of f32 behind one trait, so that each kernel is written once.

use crate::types::Activation;

/// A set of vector instructions. Methods are `#[inline(always)]`: they compile to single
/// instructions in a caller that has them.
pub(crate) trait Simd: Copy + Send + Sync {
    /// Values in a vector, at most 16.
    const LANES: usize;
    /// Rows of a block of one, two and three vectors that fits the registers.
    const BLOCK_ROWS: [usize; 3];
    /// Vectors of a block at most. Three with AVX2 would take all sixteen registers, and compilers then keep
    /// a sum in memory.
    const MOST_VECTORS: usize;
    /// A vector.
    type V: Copy;

    /// Says that what lies there will be read soon; it may lie anywhere.
    fn ask_for(self, from: *const f32);
    fn splat(self, value: f32) -> Self::V;
    /// Loads `LANES` values.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Loads `count < LANES` values; the other lanes are 0.
    ///
    /// # Safety
    /// They must be readable.
    unsafe fn load_partial(self, from: *const f32, count: usize) -> Self::V;
    /// Stores `LANES` values.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store(self, to: *mut f32, vector: Self::V);
    /// Stores the first `count < LANES` values.
    ///
    /// # Safety
    /// They must be writable.
    unsafe fn store_partial(self, to: *mut f32, count: usize, vector: Self::V);
    fn add(self, left: Self::V, right: Self::V) -> Self::V;
    fn mul(self, left: Self::V, right: Self::V) -> Self::V;
    /// `left · right + addend`
    fn fma(self, left: Self::V, right: Self::V, addend: Self::V) -> Self::V;
    fn min(self, left: Self::V, right: Self::V) -> Self::V;
    fn max(self, left: Self::V, right: Self::V) -> Self::V;
    /// `yes` where `left > right`, else `no`.
    fn select_greater(self, left: Self::V, right: Self::V, yes: Self::V, no: Self::V) -> Self::V;

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Loads `count ≤ LANES` values.
    ///
    /// # Safety
    /// They must be readable.
    #[inline(always)]
    unsafe fn load_some(self, from: *const f32, count: usize) -> Self::V {
        // SAFETY: the caller's.
        unsafe {
            if count == Self::LANES {
                self.load(from)
            } else {
                self.load_partial(from, count)
            }
        }
    }

    /// Stores `count ≤ LANES` values.
    ///
    /// # Safety
    /// They must be writable.
    #[inline(always)]
    unsafe fn store_some(self, to: *mut f32, count: usize, vector: Self::V) {
        // SAFETY: the caller's.
        unsafe {
            if count == Self::LANES {
                self.store(to, vector);
            } else {
                self.store_partial(to, count, vector);
            }
        }
    }

    /// The first `count ≤ LANES` lanes; the others become 0.
    #[inline(always)]
    fn first_lanes(self, vector: Self::V, count: usize) -> Self::V {
        if count == Self::LANES {
            return vector;
        }
        let mut lanes = [0.0f32; 16];
        // SAFETY: no instruction set has more than 16 lanes.
        unsafe {
            self.store(lanes.as_mut_ptr(), vector);
            self.load_partial(lanes.as_ptr(), count)
        }
    }

    #[inline(always)]
    fn activate(self, activation: Activation, x: Self::V) -> Self::V {
        match activation {
            Activation::Identity => x,
            Activation::Relu => self.max(x, self.zero()),
            Activation::Relu6 => self.min(self.max(x, self.zero()), self.splat(6.0)),
            Activation::HardSwish => self.mul(x, self.hard_sigmoid(x)),
            Activation::HardSigmoid => self.hard_sigmoid(x),
        }
    }

    #[inline(always)]
    fn hard_sigmoid(self, x: Self::V) -> Self::V {
        let shifted = self.add(x, self.splat(3.0));
        let clamped = self.min(self.max(shifted, self.zero()), self.splat(6.0));
        self.mul(clamped, self.splat(1.0 / 6.0))
    }

    /// The derivative of the activation at `x`, times `gradient`. At a kink it is the left one.
    #[inline(always)]
    fn activation_gradient(self, activation: Activation, x: Self::V, gradient: Self::V) -> Self::V {
        let zero = self.zero();
        match activation {
            Activation::Identity => gradient,
            Activation::Relu => self.select_greater(x, zero, gradient, zero),
            Activation::Relu6 => {
                let below = self.select_greater(x, zero, gradient, zero);
                self.select_greater(x, self.splat(6.0), zero, below)
            }
            Activation::HardSwish => {
                let slope = self.fma(x, self.splat(1.0 / 3.0), self.splat(0.5));
                let inner = self.mul(gradient, slope);
                let upper = self.select_greater(x, self.splat(3.0), gradient, inner);
                self.select_greater(x, self.splat(-3.0), upper, zero)
            }
            Activation::HardSigmoid => {
                let inner = self.mul(gradient, self.splat(1.0 / 6.0));
                let upper = self.select_greater(x, self.splat(3.0), zero, inner);
                self.select_greater(x, self.splat(-3.0), upper, zero)
            }
        }
    }
}

/// Plain arrays.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    #[inline(always)]
    fn map2(left: [f32; 8], right: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
        std::array::from_fn(|lane| f(left[lane], right[lane]))
    }
}

impl Simd for Portable {
    const LANES: usize = 8;
    const BLOCK_ROWS: [usize; 3] = [4, 4, 4];
    const MOST_VECTORS: usize = 3;
    type V = [f32; 8];

    #[inline(always)]
    fn ask_for(self, _from: *const f32) {}
    #[inline(always)]
    fn splat(self, value: f32) -> [f32; 8] {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> [f32; 8] {
        // SAFETY: the caller's.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_partial(self, from: *const f32, count: usize) -> [f32; 8] {
        let mut vector = [0.0; 8];
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from, vector.as_mut_ptr(), count) };
        vector
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, vector: [f32; 8]) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(vector) };
    }
    #[inline(always)]
    unsafe fn store_partial(self, to: *mut f32, count: usize, vector: [f32; 8]) {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(vector.as_ptr(), to, count) };
    }
    #[inline(always)]
    fn add(self, left: [f32; 8], right: [f32; 8]) -> [f32; 8] {
        Self::map2(left, right, |left, right| left + right)
    }
    #[inline(always)]
    fn mul(self, left: [f32; 8], right: [f32; 8]) -> [f32; 8] {
        Self::map2(left, right, |left, right| left * right)
    }
    #[inline(always)]
    fn fma(self, left: [f32; 8], right: [f32; 8], addend: [f32; 8]) -> [f32; 8] {
        self.add(self.mul(left, right), addend)
    }
    #[inline(always)]
    fn min(self, left: [f32; 8], right: [f32; 8]) -> [f32; 8] {
        Self::map2(
            left,
            right,
            |left, right| if left < right { left } else { right },
        )
    }
    #[inline(always)]
    fn max(self, left: [f32; 8], right: [f32; 8]) -> [f32; 8] {
        Self::map2(
            left,
            right,
            |left, right| if left > right { left } else { right },
        )
    }
    #[inline(always)]
    fn select_greater(
        self,
        left: [f32; 8],
        right: [f32; 8],
        yes: [f32; 8],
        no: [f32; 8],
    ) -> [f32; 8] {
        std::array::from_fn(|lane| {
            if left[lane] > right[lane] {
                yes[lane]
            } else {
                no[lane]
            }
        })
    }
}

/// The vector instructions of x86-64.
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// AVX2 and FMA.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

    #[inline(always)]
    fn mask(count: usize) -> __m256i {
        debug_assert!(count <= 8);
        // SAFETY: 8 values from `8 - count` on lie within the 16 masks; `Avx2` methods run only
        // in callers compiled for AVX2.
        unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - count).cast()) }
    }

    // SAFETY of the blocks below: the methods are inlined into kernels that are compiled for these
    // instructions and run only on machines that have them; pointers are the caller's promise.
    impl Simd for Avx2 {
        const LANES: usize = 8;
        const BLOCK_ROWS: [usize; 3] = [8, 6, 4];
        const MOST_VECTORS: usize = 2;
        type V = __m256;

        #[inline(always)]
        fn ask_for(self, from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        fn splat(self, value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_partial(self, from: *const f32, count: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(from, mask(count)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, vector: __m256) {
            unsafe { _mm256_storeu_ps(to, vector) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, count: usize, vector: __m256) {
            unsafe { _mm256_maskstore_ps(to, mask(count), vector) }
        }
        #[inline(always)]
        fn add(self, left: __m256, right: __m256) -> __m256 {
            unsafe { _mm256_add_ps(left, right) }
        }
        #[inline(always)]
        fn mul(self, left: __m256, right: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(left, right) }
        }
        #[inline(always)]
        fn fma(self, left: __m256, right: __m256, addend: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(left, right, addend) }
        }
        #[inline(always)]
        fn min(self, left: __m256, right: __m256) -> __m256 {
            unsafe { _mm256_min_ps(left, right) }
        }
        #[inline(always)]
        fn max(self, left: __m256, right: __m256) -> __m256 {
            unsafe { _mm256_max_ps(left, right) }
        }
        #[inline(always)]
        fn select_greater(self, left: __m256, right: __m256, yes: __m256, no: __m256) -> __m256 {
            unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(left, right)) }
        }
    }

    /// AVX-512.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    #[inline(always)]
    fn mask16(count: usize) -> __mmask16 {
        debug_assert!(count < 16);
        ((1u32 << count) - 1) as __mmask16
    }

    // SAFETY of the blocks below: as for `Avx2`.
    impl Simd for Avx512 {
        const LANES: usize = 16;
        const BLOCK_ROWS: [usize; 3] = [16, 12, 8];
        const MOST_VECTORS: usize = 3;
        type V = __m512;

        #[inline(always)]
        fn ask_for(self, from: *const f32) {
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
        }
        #[inline(always)]
        fn splat(self, value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_partial(self, from: *const f32, count: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(mask16(count), from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, vector: __m512) {
            unsafe { _mm512_storeu_ps(to, vector) }
        }
        #[inline(always)]
        unsafe fn store_partial(self, to: *mut f32, count: usize, vector: __m512) {
            unsafe { _mm512_mask_storeu_ps(to, mask16(count), vector) }
        }
        #[inline(always)]
        fn add(self, left: __m512, right: __m512) -> __m512 {
            unsafe { _mm512_add_ps(left, right) }
        }
        #[inline(always)]
        fn mul(self, left: __m512, right: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(left, right) }
        }
        #[inline(always)]
        fn fma(self, left: __m512, right: __m512, addend: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(left, right, addend) }
        }
        #[inline(always)]
        fn min(self, left: __m512, right: __m512) -> __m512 {
            unsafe { _mm512_min_ps(left, right) }
        }
        #[inline(always)]
        fn max(self, left: __m512, right: __m512) -> __m512 {
            unsafe { _mm512_max_ps(left, right) }
        }
        #[inline(always)]
        fn select_greater(self, left: __m512, right: __m512, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(left, right), no, yes) }
        }
    }
}
