//! Spaces written in Rust mean what their texts mean.

use oncefit_space::builder::{SpaceBuilder, Term, Values};
use oncefit_space::{Activation, Space, Value};

use super::family;

fn vgg_nano() -> Space {
    let mut vgg = SpaceBuilder::new("vgg-nano");
    let channels = vgg.parameter("channels", 1);
    let classes = vgg.parameter("classes", 10);
    let stage = vgg.define("stage", ["widest"], |stage, [widest]| {
        let width = stage.decide("width", [&widest / 2, &widest * 3 / 4, widest.clone()]);
        stage.label("block").repeat("depth", [1, 2]).of(|block| {
            block
                .choice("kernel")
                .branch("k3", |branch| {
                    branch.conv(&width).kernel(3);
                })
                .branch("k5", |branch| {
                    branch.conv(&width).kernel(5);
                });
            block.batch_norm();
            block.activation(Activation::Relu);
        });
        stage.max_pool(2).stride(2);
    });
    vgg.build(|net| {
        let resolution = net.decide("resolution", [20, 24, 28]);
        net.input(&resolution, &resolution, &channels);
        net.label("stage1").call(&stage, [8]);
        net.label("stage2").call(&stage, [16]);
        net.label("stage3").call(&stage, [32]);
        net.global_average_pool();
        net.label("hidden").seq(|hidden| {
            let features = hidden.decide("features", [32, 64]);
            hidden.linear(&features);
            hidden.activation(Activation::Relu);
        });
        net.linear(&classes);
    })
    .unwrap()
}

fn fm_nano() -> Space {
    let mut fm = SpaceBuilder::new("fm-nano");
    let channels = fm.parameter("channels", 1);
    let classes = fm.parameter("classes", 10);
    let names = ["out", "stride", "activation", "squeeze"];
    let mbconv = fm.define(
        "mbconv",
        names,
        |block, [out, stride, activation, squeeze]| {
            let kernel = block.decide("kernel", [3, 5, 7]);
            let expand = block.decide("expand", [3, 4, 6]);
            let arriving = oncefit_space::builder::Term::channels();
            let middle = block.name("middle", (arriving * &expand).round().divisible(8));
            block.residual(|body| {
                body.label("expand").seq(|part| {
                    part.conv(&middle);
                    part.batch_norm();
                    part.activate(&activation);
                });
                body.label("depthwise").seq(|part| {
                    part.depthwise(&kernel).stride(&stride).transform(true);
                    part.batch_norm();
                    part.activate(&activation);
                });
                body.when(&squeeze, |body| {
                    body.label("squeeze").gate(|gate| {
                        gate.global_average_pool();
                        gate.label("reduce")
                            .conv((&middle / 4).divisible(8))
                            .bias(true);
                        gate.activation(Activation::Relu);
                        gate.label("restore").conv(&middle).bias(true);
                        gate.activation(Activation::HardSigmoid);
                    });
                });
                body.label("project").seq(|part| {
                    part.conv(&out);
                    part.batch_norm();
                });
            });
        },
    );
    fm.build(|net| {
        let resolution = net.decide("resolution", [20, 24, 28]);
        net.input(&resolution, &resolution, &channels);
        net.label("stem").seq(|stem| {
            stem.conv(8).kernel(3).stride(2);
            stem.batch_norm();
            stem.activation(Activation::HardSwish);
        });
        net.label("first").residual(|first| {
            first.label("depthwise").seq(|part| {
                part.depthwise(3);
                part.batch_norm();
                part.activation(Activation::Relu);
            });
            first.label("project").seq(|part| {
                part.conv(8);
                part.batch_norm();
            });
        });
        net.label("unit1")
            .repeat("depth", [1, 2, 3])
            .of(|copy| copy.call(&mbconv, (8, 1, Activation::Relu, false)));
        for (label, out, activation) in [
            ("unit2", 16, Activation::Relu),
            ("unit3", 24, Activation::HardSwish),
        ] {
            net.label(label)
                .repeat("depth", [1, 2, 3])
                .of_each("i", |copy, i| {
                    let stride = i.equals(0).select(2, 1);
                    copy.call(&mbconv, (out, stride, activation, true));
                });
        }
        net.label("final").seq(|last| {
            last.conv(144);
            last.batch_norm();
            last.activation(Activation::HardSwish);
        });
        net.global_average_pool();
        net.label("mix").seq(|mix| {
            mix.conv(64);
            mix.activation(Activation::HardSwish);
        });
        net.dropout(0.1);
        net.linear(&classes);
    })
    .unwrap()
}

#[test]
fn families_written_in_rust_are_the_families() {
    for (built, name) in [(vgg_nano(), "vgg-nano"), (fm_nano(), "fm-nano")] {
        let family = family(name);
        assert_eq!(built.to_text(), family.to_text());
        assert_eq!(built.hash(), family.hash());
        assert_eq!(built.count().unwrap(), family.count().unwrap());
        assert_eq!(built.decisions(), family.decisions());
        assert_eq!(built.largest().unwrap(), family.largest().unwrap());
        let middle = built.count().unwrap() / 2u32;
        assert_eq!(
            built.unrank(&middle).unwrap(),
            family.unrank(&middle).unwrap()
        );
    }
}

/// Every kind of node and of domain that the two families do not have.
#[test]
fn the_text_of_a_built_space_is_that_space() {
    let mut builder = SpaceBuilder::new("every");
    let steps = builder.parameter("steps", 3);
    let grow = builder.define_recursive("grow", ["n"], |block, [n], grow| {
        block.when(n.above(0).and(n.at_most(3)), |body| {
            body.relu_and_conv();
            body.label("inner").call(grow, [&n - 1]);
        });
    });
    let space = builder
        .build(|net| {
            net.decide("rate", Values::log(0.001, 0.1, 3));
            let width = net.decide("width", Values::unordered([4, 8]));
            let size = net.decide("size", Values::steps(8, 12, 2));
            net.decide("count", Values::range(1, &steps));
            net.input(&size, &size, 2);
            net.call(&grow, [2]);
            net.sum()
                .branch(|side| {
                    side.conv(&width).kernel(3).bias(true);
                })
                .branch(|side| {
                    side.conv(&width);
                })
                .branch(|side| {
                    side.conv(&width).stride(1);
                });
            net.concat().branch(|_| ()).branch(|side| {
                side.conv(2 * &width);
            });
            net.dense(|layer| {
                layer.conv(4);
            });
            net.conv(8);
            net.permute("order")
                .branch(|part| part.activation(Activation::Relu6))
                .branch(|part| {
                    part.batch_norm().epsilon(0.001);
                });
            net.optional("more", |part| part.activation(Activation::Identity));
            net.repeat("copies", 1..=2).tied().of(|copy| {
                let kernel = copy.decide("kernel", vec![3, 5]);
                copy.depthwise(&kernel);
            });
            net.when(width.equals(4).or(size.below(9)).negated(), |then| {
                then.average_pool(3).stride(2).padding(1).ceil(true);
            })
            .otherwise(|otherwise| {
                otherwise.max_pool(3).stride(2).padding(1);
            });
            net.linear(width.max(5).min(size.at_least(10).select(6, 7)))
                .bias(false);
        })
        .unwrap();
    // 3 rates · 2 widths · 3 sizes · 3 counts · 2 orders · 2 · (2 copies · 2 kernels).
    assert_eq!(space.count().unwrap(), 864u32.into());
    let read = Space::parse(&space.to_text(), "every.space").unwrap();
    assert_eq!(
        (read.to_text(), read.hash()),
        (space.to_text(), space.hash())
    );
    assert_eq!(read.decisions(), space.decisions());
    assert_eq!(read.largest().unwrap(), space.largest().unwrap());
}

trait Parts {
    fn relu_and_conv(&mut self);
}

/// Functions of Rust are templates that leave no trace in the text.
impl Parts for oncefit_space::builder::Block {
    fn relu_and_conv(&mut self) {
        self.activation(Activation::Relu);
        self.conv(4);
    }
}

#[test]
fn families_lend_their_templates() {
    let text = "space own\nimport mbconv from fm-nano\ninput(8, 8, 4)\nmbconv(4, 1, relu, false)\nlinear(2)\n";
    let space = Space::parse(text, "own.space").unwrap();
    let mut builder = SpaceBuilder::new("own");
    let mbconv = builder.import("fm-nano", "mbconv").unwrap();
    let built = builder
        .build(|net| {
            net.input(8, 8, 4);
            net.call(&mbconv, (4, 1, Activation::Relu, false));
            net.linear(2);
        })
        .unwrap();
    assert_eq!(built.hash(), space.hash());
    assert_eq!(space.count().unwrap(), 9u32.into());
    assert_eq!(Space::parse(&space.to_text(), "own.space").unwrap(), space);
    for (text, expected) in [
        (
            "space s\nimport mbcnv from fm-nano\n",
            "2:8: space `fm-nano` has no template `mbcnv`; did you mean `mbconv`?",
        ),
        (
            "space s\nimport mbconv from fm-nono\n",
            "2:20: there is no family `fm-nono`; did you mean `fm-nano`?",
        ),
        (
            "space s\ndefine mbconv() { relu }\nimport mbconv from fm-nano\n",
            "3:8: `mbconv` is defined already, otherwise",
        ),
        (
            "space s\nseq { import mbconv from fm-nano }\n",
            "stands at the top level",
        ),
        (
            "space s\nimport mbconv from cifar-nano\ninput(8, 8, 4)\nmbconv(4, 1)\n",
            "takes",
        ),
    ] {
        let message = Space::parse(text, "s.space").unwrap_err().to_string();
        assert!(message.contains(expected), "{text}\n{message}");
    }
    let mut other = SpaceBuilder::new("other");
    let message = other
        .import::<2>("fm-nano", "mbconv")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("takes 4 arguments (out, stride, activation, squeeze), not 2"),
        "{message}"
    );
}

#[test]
fn errors_of_builders_name_the_decision_and_the_place() {
    let fails = |body: &dyn Fn(&mut oncefit_space::builder::Block)| {
        SpaceBuilder::new("s")
            .build(|net| {
                net.input(8, 8, 1);
                body(net);
            })
            .unwrap_err()
            .to_string()
    };
    let escaped = fails(&|net| {
        let mut kernel = None;
        net.label("unit")
            .seq(|unit| kernel = Some(unit.decide("kernel", [3, 5])));
        net.label("tail").seq(|tail| {
            tail.depthwise(kernel.unwrap());
        });
    });
    assert_eq!(
        escaped,
        "space `s`, in the network, `tail`: `kernel` is used outside of the block in which it is known"
    );
    let foreign = SpaceBuilder::new("other").define("unit", [], |unit, []| {
        unit.activation(Activation::Relu);
    });
    let message = fails(&|net| net.call(&foreign, ()));
    assert!(
        message.contains("template `unit` is one of another space"),
        "{message}"
    );
    let hidden = fails(&|net| {
        let outer = net.decide("width", [4, 8]);
        net.seq(|inner| {
            inner.decide("width", [4, 16]);
            inner.conv(&outer);
        });
    });
    assert!(
        hidden.contains("in the network, `seq`: `width` means something else here"),
        "{hidden}"
    );
    for (message, expected) in [
        (
            fails(&|net| {
                net.decide("my width", [1, 2]);
            }),
            "`my width` is no word",
        ),
        (
            fails(&|net| {
                net.decide("repeat", [1, 2]);
            }),
            "`repeat` is a word of the language",
        ),
        (
            fails(&|net| net.label("a.b").seq(|_| ())),
            "`a.b` is no label",
        ),
        (
            fails(&|net| {
                net.label("a");
            }),
            "nothing follows label `a`",
        ),
        (
            fails(&|net| {
                net.choice("c").branch("}", |_| ());
            }),
            "`}` is no label of a branch",
        ),
        // What the text's reader finds, with the line of the printed text.
        (
            fails(&|net| {
                net.conv(0);
            }),
            "s, as built:4:1: argument `out` of `conv` is an integer from 1",
        ),
        (
            fails(&|net| {
                net.conv(2).kernel(2);
            }),
            "an odd kernel",
        ),
        (
            fails(&|net| {
                net.decide("k", [3, 3]);
            }),
            "`3` stands twice in this domain\n  | decide k in (3, 3)",
        ),
        (
            fails(&|net| {
                net.sum().branch(|_| ());
            }),
            "expected `{`",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(Value::from("relu"), Value::Text("relu".into()));
}

#[test]
fn tensors_and_words_are_arguments_of_built_templates() {
    let mut cells = SpaceBuilder::new("cells");
    let cell = cells.define("cell", ["read before", "width"], |cell, [_, width]| {
        cell.label("now").conv(&width);
        cell.read("before");
        cell.sum()
            .branch(|branch| {
                branch.conv(&width);
            })
            .branch(|branch| branch.read("now"));
    });
    let built = cells.build(|net| {
        net.input(8, 8, 1);
        net.label("stem").conv(6);
        let size = net.decide("size", [Term::text("small"), Term::text("large")]);
        let width = size.equals(Term::text("small")).select(4, 8);
        net.call(&cell, (Term::tensor("stem"), width));
        net.linear(2);
    });
    let text = r#"
space cells
define cell(read before, width) {
  now: conv(width)
  read before
  sum { conv(width) } { read now }
}
input(8, 8, 1)
stem: conv(6)
decide size in ("small", "large")
cell(read stem, if size == "small" then 4 else 8)
linear(2)
"#;
    let written = Space::parse(text, "cells.space").unwrap();
    assert_eq!(built.unwrap().to_text(), written.to_text());
    let mut cells = SpaceBuilder::new("cells");
    cells.define("cell", ["read before"], |cell, [before]| {
        cell.conv(&before);
    });
    let error = cells.build(|net| net.input(8, 8, 1)).unwrap_err();
    assert!(
        error.to_string().contains("`before` is a tensor"),
        "{error}"
    );
}
