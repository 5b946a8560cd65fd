//! Claims are tried once, kept, and shown.

use super::*;

#[test]
fn claims_are_tried_kept_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let fixed = words("reproduce deep-architect --claim P6 --seeds 5 --full --out found");
    let said = succeed(path, &fixed);
    assert!(said.contains("deep-architect.P6: fact"), "{said}");
    let kept = fs::read(path.join("found/claims/deep-architect.P6.json")).unwrap();
    let said = succeed(path, &fixed);
    assert!(said.contains("kept from before"), "{said}");
    assert_eq!(
        fs::read(path.join("found/claims/deep-architect.P6.json")).unwrap(),
        kept
    );
    // The same seeds give the same numbers.
    let numbers = |out: &str| {
        let command = format!("reproduce deep-architect --claim P3 --seeds 6 --out {out}");
        succeed(path, &words(&command));
        let text =
            fs::read_to_string(path.join(out).join("claims/deep-architect.P3.json")).unwrap();
        let finding: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(finding["comparisons"].as_array().unwrap().len(), 4);
        (finding["comparisons"].clone(), finding["verdict"].clone())
    };
    assert_eq!(numbers("found"), numbers("again"));
    let said = succeed(path, &words("reproduce --list --out found"));
    assert!(
        said.contains("not yet run") && said.contains("fact"),
        "{said}"
    );
    succeed(path, &words("reproduce table --out found"));
    let page = fs::read_to_string(path.join("found/README.md")).unwrap();
    let (claims, facts) = page.split_once("## Facts").unwrap();
    assert!(facts.contains("deep-architect.P6") && !claims.contains("| deep-architect.P6"));
    assert!(
        claims.contains("(claims/pictures/deep-architect.P3.svg)"),
        "{claims}"
    );
    assert!(claims.contains("| ofa.1 |") && claims.contains("not yet run"));
    let picture = fs::read_to_string(path.join("found/claims/pictures/deep-architect.P3.svg"));
    assert_eq!(picture.unwrap().matches("class=\"seed\"").count(), 4 * 6);
}

#[test]
fn bad_requests_of_reproduction_are_answered_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (command, message) in [
        ("reproduce", "deep-architect"),
        ("reproduce bees", "none of: ofa, deps, deep-architect"),
        ("reproduce deep-architect --claim P99", "deep-architect.P1"),
        ("reproduce deep-architect --seeds 2", "at least 5"),
        (
            "reproduce deep-architect --claim P1 --nas nowhere",
            "ONCEFIT_NAS",
        ),
        ("reproduce table --quick", "takes no --claim"),
        ("reproduce onpro --quick --full", "cannot be used with"),
        ("reproduce --list --claim P1", "cannot be used with"),
    ] {
        let said = fail(path, &words(command), 2);
        assert!(said.contains(message), "{command}: {said}");
    }
    fs::create_dir_all(path.join("found/claims")).unwrap();
    fs::write(path.join("found/claims/deep-architect.P6.json"), "{").unwrap();
    let said = fail(
        path,
        &words("reproduce deep-architect --claim P6 --seeds 5 --out found"),
        2,
    );
    assert!(said.contains("is damaged"), "{said}");
    // A page of somebody else is not replaced.
    fs::write(path.join("README.md"), "# My project\n").unwrap();
    let said = fail(path, &words("reproduce table --out ."), 2);
    assert!(said.contains("README.md is no page of"), "{said}");
    let text = fs::read_to_string(path.join("README.md")).unwrap();
    assert_eq!(text, "# My project\n");
}
