//! Whatever text comes in, what comes out is a run or problems: never a panic, never a secret.

use std::fmt::Write as _;
use std::path::Path;

use eagleray_spec::{Source, resolve};

const EVERYTHING: &str = include_str!("data/everything.yaml");

fn shown(text: &str, overrides: &[String]) -> String {
    let environment = |_: &str| None;
    let base = Path::new("/srv");
    match resolve(&Source { name: "run.yaml", text, base, overrides, environment: &environment }) {
        Ok(resolved) => resolved.to_json(),
        Err(problems) => problems.into_error().render(),
    }
}

/// A small generator (Steele, Lea and Flood 2014), enough to pick places.
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)) as usize
}

#[test]
fn mangled_specs_never_panic() {
    let pieces = [
        "\t", "{", "}", "[", "- ", ": ", "&a ", "*a", "<<", "|", "\"", "'", "#", "é", "0", "-1", "1e999",
        "\n", "!!str ", "%",
    ];
    let mut state = 7;
    for _ in 0..1500 {
        let mut text: Vec<char> = EVERYTHING.chars().collect();
        for _ in 0..=next(&mut state) % 4 {
            let place = next(&mut state) % text.len();
            let end = (place + next(&mut state) % 12).min(text.len());
            text.splice(place..end, pieces[next(&mut state) % pieces.len()].chars());
        }
        shown(&text.into_iter().collect::<String>(), &[]);
    }
}

#[test]
fn every_key_of_the_spec_may_hold_the_wrong_thing() {
    for key in eagleray_spec::explain::keys() {
        let path = key.path.replace("[]", ".0").replace("NAME", "web-ko");
        for wrong in
            ["null", "[]", "{}", "-1", "1e400", "text", "'8'", "[[1]]", "{a: {b: c}}", "18446744073709551616"]
        {
            shown(EVERYTHING, &[format!("{path}={wrong}")]);
        }
    }
}

#[test]
fn aliases_that_multiply_are_stopped() {
    let mut text = "version: 1\na: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        let _ = writeln!(text, "b{level}: &a{level} [{alias}]");
    }
    assert!(shown(&text, &[]).contains("more than 200000 values"));
}

#[test]
fn deep_nesting_is_stopped() {
    let text = format!("version: {}1{}", "[".repeat(100), "]".repeat(100));
    assert!(shown(&text, &[]).contains("nested deeper than 64 levels"));
}

#[test]
fn a_secret_in_a_location_or_a_variable_is_never_shown() {
    let places = [
        "store=s3://key:hunter2@bucket/x",
        "data.built=s3://key:hunter2@bucket",
        "train.steps=s3://key:hunter2@b",
        "cluster.eks.env.API_TOKEN=hunter2",
    ];
    for place in places {
        assert!(!shown(EVERYTHING, &[place.to_owned()]).contains("hunter2"), "{place}");
    }
    let inline = EVERYTHING.replace("s3://acme-llm/runs/solar-70b ", "s3://key:hunter2@acme-llm/runs ");
    let shown_inline = shown(&inline.replace("steps: 100_000", "steps: none"), &[]);
    assert!(shown_inline.contains("credentials") && !shown_inline.contains("hunter2"), "{shown_inline}");
    let variable = EVERYTHING.replace("{NCCL_DEBUG: WARN}", "{WANDB_API_KEY: hunter2}");
    assert!(!shown(&variable, &[]).contains("hunter2"));
}
