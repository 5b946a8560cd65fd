//! Which values of a supernet's weights a subnet reads.
//!
//! A step adds up the gradients of several subnets, and the leading channels are in more of them
//! than the last. DepS' aggregation modes "avg" and "avg_sqrt" (the authors' `deps.py`)
//! divide each value's gradient by the (root of the) sum of the weights of the subnets that hold
//! it: [`Plan::add_coverage`] takes that sum, [`Gradients::divide`] divides.

use crate::channels::{Channels, WeightPart};
use crate::parameters::Gradients;
use crate::plan::{Plan, Step};

impl Plan {
    /// Adds `weight` to `coverage` at every value that this plan reads.
    pub fn add_coverage(&self, weight: f32, coverage: &mut Gradients) {
        let mut add = |position: usize, start: usize, length: usize| {
            let values = &mut coverage.at_mut(position)[start..start + length];
            values.iter_mut().for_each(|value| *value += weight);
        };
        for step in &self.steps {
            match step {
                Step::Convolution {
                    source,
                    window,
                    weight,
                    out_stride,
                    in_stride,
                    gather,
                    bias,
                    out,
                } => {
                    let whole = WeightPart {
                        channels: Channels::first(self.tensors[source.tensor].shape.channels),
                        stored_kernel: window.kernel,
                        kernel: window.kernel,
                    };
                    let part = gather.as_ref().unwrap_or(&whole);
                    let outputs = self.tensors[*out].shape.channels;
                    for output in 0..outputs {
                        for tap in part.taps() {
                            let start = output * out_stride + tap * in_stride;
                            for range in part.channels.ranges() {
                                add(*weight, start + range.start, range.len());
                            }
                        }
                    }
                    if let Some(bias) = bias {
                        add(*bias, 0, outputs);
                    }
                }
                Step::Depthwise {
                    window,
                    weight,
                    stored_kernel,
                    stored_channels,
                    channels,
                    links,
                    ..
                } => {
                    // The first link reads the centre of the stored kernel, the next its result.
                    let kernel = links.first().map_or(window.kernel, |link| link.kernel);
                    let border = (stored_kernel - kernel) / 2;
                    for row in border..border + kernel {
                        for column in border..border + kernel {
                            let tap = row * stored_kernel + column;
                            for range in channels.ranges() {
                                add(*weight, tap * stored_channels + range.start, range.len());
                            }
                        }
                    }
                    for link in links {
                        let area = link.kernel * link.kernel;
                        if let Some(transform) = link.transform {
                            add(transform, 0, area * area);
                        }
                    }
                }
                _ => {}
            }
        }
        for norm in &self.norms {
            let first = Channels::first(norm.channels);
            for range in norm.gather.as_ref().unwrap_or(&first).ranges() {
                add(norm.scale, range.start, range.len());
                add(norm.shift, range.start, range.len());
            }
        }
    }
}
