//! Profiles, probes and their round trips.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use oncefit_export::OnnxModel;
use oncefit_random::Draws;
use oncefit_space::{Space, Value};
use oncefit_target::*;

fn nano() -> Space {
    let space = Space::builtin("fm-nano").unwrap();
    space.restrict("resolution", &[Value::Int(20)]).unwrap()
}

fn import_options() -> ImportOptions {
    ImportOptions {
        device: "phone".into(),
        engine_version: "test 1".into(),
        threads: 1,
        allow_incomplete: false,
    }
}

fn probe_options(networks: usize) -> ProbeOptions {
    ProbeOptions {
        networks,
        operators: 40,
        ..Default::default()
    }
}

/// Milliseconds on a made-up device.
fn made_up(key: &str) -> f64 {
    let operator: Operator = key.parse().unwrap();
    0.01 + operator.macs() as f64 * 1e-6 + operator.bytes() as f64 * 3e-7
}

/// A table of times; networks take what their operators take, and something more.
fn timings(manifest: &Manifest) -> String {
    let mut text = String::from("file,count,median_ms,mean_ms,std_ms\n");
    for probe in &manifest.probes {
        let sum: f64 = probe.operators.iter().map(|key| made_up(key)).sum();
        let time = match probe.kind {
            ProbeKind::Overhead => 0.02,
            ProbeKind::Network => 0.05 + 1.2 * sum,
            ProbeKind::Operator => 0.02 + sum,
        };
        text.push_str(&format!("{},10,{time},{time},0.0\n", probe.file));
    }
    text
}

#[test]
fn probes_of_a_made_up_device_give_its_times_back() {
    let folder = tempfile::tempdir().unwrap();
    let space = nano();
    let manifest = emit_probes(&space, folder.path(), &probe_options(60), &mut |_| {}).unwrap();
    let manifest_path = folder.path().join("manifest.json");
    assert_eq!(load_manifest(&manifest_path).unwrap(), manifest);
    let csv = folder.path().join("timings.csv");
    fs::write(&csv, timings(&manifest)).unwrap();
    // Probes are not written over those that have times.
    let again = emit_probes(&space, folder.path(), &probe_options(8), &mut |_| {});
    assert!(again.unwrap_err().to_string().contains("another folder"));
    let target = import_timings(&manifest_path, &csv, &import_options()).unwrap();
    assert_eq!(
        (target.engine, target.threads, target.batch),
        (Engine::Imported, 1, 1)
    );
    assert!(
        target.validation.median_error < 0.01,
        "{:?}",
        target.validation
    );
    assert!(target.validation.spearman > 0.99, "{:?}", target.validation);
    target.check_space(&space).unwrap();
    // A network that was no probe.
    let table = target.table_with_estimates().unwrap();
    let mut coster = Coster::with_table(&space, &table);
    for index in 0..50 {
        let subnet = space
            .sample(&mut Draws::new(9, "unseen", index, 0))
            .unwrap();
        let list = operators(subnet.graph(), Granularity::Operator);
        let truth = 0.05
            + 1.2
                * list
                    .iter()
                    .map(|one| made_up(&one.to_string()))
                    .sum::<f64>();
        let found = table.latency(subnet.graph()).unwrap();
        assert!(
            (found.milliseconds / truth - 1.0).abs() < 0.05,
            "{} {truth}",
            found.milliseconds
        );
        let indices = coster.indices(&subnet).unwrap();
        assert_eq!(
            coster.cost(&indices).unwrap().latency_ms,
            Some(found.milliseconds)
        );
    }
    // The file says the same.
    let path = folder.path().join("phone.toml");
    target.save(&path).unwrap();
    assert_eq!(Target::load(&path).unwrap(), target);
}

#[test]
fn probes_are_files_that_run() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = emit_probes(&nano(), folder.path(), &probe_options(8), &mut |_| {}).unwrap();
    assert!(manifest.probes.len() > 40);
    for probe in &manifest.probes {
        let [batch, channels, height, width] = probe.input;
        let model = OnnxModel::load(&folder.path().join(&probe.file), batch).unwrap();
        assert_eq!(model.input_shape(), [batch, channels, height, width]);
        let found = model
            .run(&vec![0.5; batch * channels * height * width])
            .unwrap();
        assert!(
            found.iter().all(|value| value.is_finite()),
            "{}",
            probe.file
        );
    }
    let template = fs::read_to_string(folder.path().join("probes.csv")).unwrap();
    assert_eq!(template.lines().count(), manifest.probes.len() + 1);
    // An empty table is a run that was cut short.
    let manifest_path = folder.path().join("manifest.json");
    let error = import_timings(
        &manifest_path,
        &folder.path().join("probes.csv"),
        &import_options(),
    );
    assert!(error.unwrap_err().to_string().contains("cut short"));
}

#[test]
fn bad_tables_of_times_are_answered_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = emit_probes(&nano(), folder.path(), &probe_options(12), &mut |_| {}).unwrap();
    let manifest_path = folder.path().join("manifest.json");
    let good = timings(&manifest);
    let import = |text: &str, allow_incomplete: bool| {
        let csv = folder.path().join("t.csv");
        fs::write(&csv, text).unwrap();
        let options = ImportOptions {
            allow_incomplete,
            ..import_options()
        };
        import_timings(&manifest_path, &csv, &options)
    };
    import(&good, false).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let with = |line: &str| format!("{}\n{line}\n{}\n", lines[0], lines[2..].join("\n"));
    let cases: HashMap<&str, (String, &str)> = HashMap::from([
        ("cut", (lines[..20].join("\n"), "cut short")),
        (
            "cut within a line",
            (good[..good.len() - 12].to_owned(), "fields instead of 5"),
        ),
        ("negative", (with("overhead.onnx,10,-1.0,1,0"), "negative")),
        ("nan", (with("overhead.onnx,10,NaN,1,0"), "not a number")),
        ("word", (with("overhead.onnx,10,fast,1,0"), "no number")),
        (
            "zero",
            (with("overhead.onnx,10,0,1,0"), "clock was too coarse"),
        ),
        (
            "unknown",
            (with("other.onnx,10,1,1,0"), "no probe `other.onnx`"),
        ),
        ("twice", (format!("{good}{}\n", lines[1]), "stands twice")),
        (
            "header",
            ("a,b\n1,2\n".to_owned(), "`median_ms` are needed"),
        ),
        ("empty", (String::new(), "`median_ms` are needed")),
    ]);
    for (name, (text, message)) in cases {
        let error = import(&text, false).unwrap_err().to_string();
        assert!(error.contains(message), "{name}: {error}");
    }
    import(&lines[..30].join("\n"), true).unwrap();
    let error = import(&lines[..5].join("\n"), true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("too few"), "{error}");
}

#[test]
fn profiles_with_both_engines_predict_unseen_networks() {
    for engine in [Engine::Tract, Engine::Oncefit] {
        let space = nano();
        let options = ProfileOptions {
            networks: 24,
            operators: 30,
            repetitions: 5,
            ..Default::default()
        };
        let mut last = None;
        let target = profile(&space, engine, &options, &mut |progress| {
            last = Some(progress)
        })
        .unwrap();
        assert_eq!(last.unwrap().stage, "operators");
        assert_eq!((target.engine, target.measured.networks), (engine, 24));
        // Not the quality of the machine, but that there is any relation.
        assert!(
            target.validation.median_error < 0.5,
            "{:?}",
            target.validation
        );
        let again = Target::parse(&target.to_text()).unwrap();
        assert_eq!(again, target);
        let subnet = space.largest().unwrap();
        let latency = target
            .table_with_estimates()
            .unwrap()
            .latency(subnet.graph())
            .unwrap();
        assert!(latency.milliseconds > 0.0);
    }
}

#[test]
fn impossible_profiles_are_errors() {
    let space = nano();
    let run = |engine, threads, batch| {
        let options = ProfileOptions {
            threads,
            batch,
            ..Default::default()
        };
        profile(&space, engine, &options, &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(run(Engine::Tract, 2, 1).contains("one thread"));
    assert!(run(Engine::Oncefit, 0, 1).contains("at least 1 thread"));
    assert!(run(Engine::Imported, 1, 1).contains("import their times"));
    let few = ProfileOptions {
        networks: 3,
        ..Default::default()
    };
    let error = profile(&space, Engine::Tract, &few, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("at least 8"), "{error}");
    #[cfg(not(feature = "onnxruntime"))]
    assert!(run(Engine::Onnxruntime, 1, 1).contains("run_probes.py"));
}

fn target() -> Target {
    let folder = tempfile::tempdir().unwrap();
    let manifest = emit_probes(&nano(), folder.path(), &probe_options(8), &mut |_| {}).unwrap();
    let csv = folder.path().join("timings.csv");
    fs::write(&csv, timings(&manifest)).unwrap();
    import_timings(
        &folder.path().join("manifest.json"),
        &csv,
        &import_options(),
    )
    .unwrap()
}

#[test]
fn damaged_targets_are_answered_clearly() {
    let target = target();
    let text = target.to_text();
    Target::parse(&text).unwrap();
    let changed = |change: &dyn Fn(&mut Target)| {
        let mut target = target.clone();
        change(&mut target);
        Target::parse(&target.to_text()).unwrap_err()
    };
    for (error, message) in [
        (changed(&|target| target.operators[0].ms = -1.0), "negative"),
        (
            changed(&|target| target.operators[0].ms = f64::NAN),
            "not a number",
        ),
        (
            changed(&|target| target.intercept_ms = f64::INFINITY),
            "more than an hour",
        ),
        (
            changed(&|target| target.operators[1].key = target.operators[0].key.clone()),
            "stands twice",
        ),
        (
            changed(&|target| target.operators[0].key = "conv".into()),
            "describes no operator",
        ),
        (changed(&|target| target.operators.clear()), "no operators"),
        (
            changed(&|target| target.format = "oncefit-target 9".into()),
            "this version reads",
        ),
        (
            changed(&|target| target.validation.spearman = 2.0),
            "spearman",
        ),
        (changed(&|target| target.batch = 0), "at least 1"),
        (Target::parse(&text[..text.len() / 2]).unwrap_err(), ""),
        (
            Target::parse(&text.replace("threads", "thread")).unwrap_err(),
            "thread",
        ),
        (Target::parse("").unwrap_err(), "missing field"),
    ] {
        assert!(error.contains(message), "{message}: {error}");
    }
    let error = Target::load(Path::new("/nowhere/t.toml"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot read"), "{error}");
}

#[test]
fn a_table_of_another_family_is_refused() {
    let target = target();
    let other = Space::builtin("ofa-mobilenet-v3").unwrap();
    let error = target.check_space(&other).unwrap_err().to_string();
    assert!(
        error.contains("fm-nano") && error.contains("profile the device"),
        "{error}"
    );
    // The same family at a resolution that was not measured: the operators are missing.
    let whole = Space::builtin("fm-nano").unwrap();
    target.check_space(&whole).unwrap();
    let larger = whole
        .parse_subnet("resolution=28:depth=1:kernel=3:expand=3")
        .unwrap();
    let error = target
        .table()
        .unwrap()
        .latency(larger.graph())
        .unwrap_err()
        .to_string();
    assert!(error.contains("has no time for"), "{error}");
    assert!(
        target
            .table_with_estimates()
            .unwrap()
            .latency(larger.graph())
            .unwrap()
            .is_estimated
    );
}
