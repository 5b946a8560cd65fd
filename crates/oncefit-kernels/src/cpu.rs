//! Which instructions are used: a value, detected once, passed to each kernel.

use crate::simd::{Portable, Simd};

/// A family of vector instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// Whatever the compiler makes of plain arrays.
    Portable,
    /// AVX2 and FMA, 8 lanes.
    Avx2,
    /// AVX-512 F, BW, DQ and VL, 16 lanes.
    Avx512,
}

/// A processor that has the instructions it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    set: InstructionSet,
}

impl Cpu {
    /// The best that this machine has.
    pub fn detect() -> Self {
        [InstructionSet::Avx512, InstructionSet::Avx2]
            .into_iter()
            .find_map(Self::with)
            .unwrap_or(Self {
                set: InstructionSet::Portable,
            })
    }

    /// A given instruction set, if this machine has it.
    pub fn with(set: InstructionSet) -> Option<Self> {
        is_available(set).then_some(Self { set })
    }

    /// Every instruction set that this machine has.
    pub fn available() -> Vec<Self> {
        [
            InstructionSet::Portable,
            InstructionSet::Avx2,
            InstructionSet::Avx512,
        ]
        .into_iter()
        .filter_map(Self::with)
        .collect()
    }

    /// The instructions it stands for.
    pub fn instruction_set(self) -> InstructionSet {
        self.set
    }

    /// Runs a kernel compiled for these instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.set {
            InstructionSet::Portable => run_portable(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Cpu` is only made for instructions that the machine has.
            InstructionSet::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            InstructionSet::Avx512 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => run_portable(kernel),
        }
    }
}

/// The arguments of a kernel, and its body for any instruction set. `run` must be
/// `#[inline(always)]`, so that it is compiled with the instructions of its caller.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// The body.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
fn is_available(set: InstructionSet) -> bool {
    match set {
        InstructionSet::Portable => true,
        InstructionSet::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
        InstructionSet::Avx512 => {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("fma")
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn is_available(set: InstructionSet) -> bool {
    set == InstructionSet::Portable
}

#[inline(never)]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[inline(never)]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(crate::simd::x86::Avx2)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
#[inline(never)]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(crate::simd::x86::Avx512)
}
