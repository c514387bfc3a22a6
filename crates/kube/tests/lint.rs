//! The rules of `eagleray lint`: each with manifests that it passes and manifests that it finds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "a test says why it is skipped")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use eagleray_kube::lint::{File, KubeRay, Options, Report, Severity, lint, rule, rules};
use proptest::prelude::*;

#[path = "lint/cases.rs"]
mod cases;

use cases::{CASES, Case, QUEUE};

const GOOD: &str = include_str!("lint/good.yaml");

fn look(text: &str) -> Report {
    lint(&[File { name: "all.yaml", text }], &Options::default()).unwrap()
}

fn found(report: &Report) -> BTreeSet<&'static str> {
    report.findings.iter().map(|finding| finding.rule).collect()
}

/// The good manifests with some of their text replaced, each piece where it stands first.
fn changed(changes: &[(&str, &str)]) -> String {
    let mut text = GOOD.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old}");
        text = text.replacen(old, new, 1);
    }
    text
}

#[test]
fn the_good_manifests_have_no_finding() {
    let report = look(GOOD);
    assert_eq!(report.text().lines().count(), 1, "{}", report.text());
    assert!(report.objects > 15);
}

#[test]
fn every_rule_finds_its_bad_manifest_and_passes_its_good_one() {
    let mut faults = String::new();
    for Case { rule: id, bad, good, also } in CASES {
        rule(id).unwrap();
        let bad = found(&look(&changed(bad)));
        if !bad.contains(id) {
            let _ = writeln!(faults, "{id} does not find its bad manifest, which has {bad:?}");
        }
        let more: Vec<_> = bad.iter().filter(|found| *found != id && !also.contains(found)).collect();
        if !more.is_empty() {
            let _ = writeln!(faults, "the bad manifest of {id} has {more:?} as well");
        }
        let good = found(&look(&changed(good)));
        if good.contains(id) {
            let _ = writeln!(faults, "{id} finds its good manifest");
        }
    }
    assert!(faults.is_empty(), "{faults}");
}

#[test]
fn every_rule_has_a_case() {
    let missing: Vec<_> =
        rules().map(|rule| rule.id).filter(|id| !CASES.iter().any(|case| case.rule == *id)).collect();
    assert!(missing.is_empty(), "rules without manifests: {missing:?}");
}

#[test]
fn ids_are_unique_and_texts_are_in_the_house_style() {
    let mut seen = BTreeSet::new();
    for rule in rules() {
        assert!(seen.insert(rule.id), "{}", rule.id);
        assert!(
            rule.id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        );
        for text in [rule.summary, rule.why, rule.remedy] {
            assert!(!text.is_empty() && !text.ends_with('.'), "{}: {text}", rule.id);
        }
    }
}

#[test]
fn an_accepted_rule_is_left_out_and_counted() {
    let text = changed(&[("solar-8b-1", "Solar_8b")]);
    let options = Options { accept: vec!["name-not-dns".into()], ..Options::default() };
    let report = lint(&[File { name: "a.yaml", text: &text }], &options).unwrap();
    assert_eq!((report.findings.len(), report.accepted), (0, 1));
    let options = Options { accept: vec!["name-not-dsn".into()], ..Options::default() };
    let error = lint(&[], &options).unwrap_err();
    assert_eq!(error.hint(), Some("did you mean `name-not-dns`?"));
}

#[test]
fn fields_are_those_of_the_version_that_is_named() {
    let text = changed(&[("groupName: od", "groupName: od\n        priority: 1")]);
    let file = [File { name: "a.yaml", text: &text }];
    let of = |kuberay| found(&lint(&file, &Options { kuberay, ..Options::default() }).unwrap());
    assert!(of(Some(KubeRay::V1_6)).contains("unknown-field"));
    assert!(of(Some(KubeRay::V1_7)).is_empty() && of(None).is_empty());
    // The label on an object says the same, and the option goes before it.
    let text = text.replace("team: nlp}\nspec:", "team: nlp, ray.io/kuberay-version: v1.6.2}\nspec:");
    let file = [File { name: "a.yaml", text: &text }];
    assert!(found(&lint(&file, &Options::default()).unwrap()).contains("unknown-field"));
    let options = Options { kuberay: Some(KubeRay::V1_7), ..Options::default() };
    assert!(found(&lint(&file, &options).unwrap()).is_empty());
}

#[test]
fn objects_of_several_files_are_seen_together() {
    let (job, rest) = GOOD.split_once("---\napiVersion: v1\nkind: PersistentVolumeClaim").unwrap();
    let rest = format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim{}",
        rest.replace("[ReadWriteMany]", "[ReadWriteOnce]")
    );
    let report = lint(
        &[File { name: "job.yaml", text: job }, File { name: "rest.yaml", text: &rest }],
        &Options::default(),
    )
    .unwrap();
    let finding = &report.findings[0];
    assert_eq!((finding.rule, finding.file.as_str()), ("rwo-volume", "job.yaml"));
    assert!(job.lines().nth(finding.line - 1).unwrap().contains("lustre"));
}

#[test]
fn items_of_a_list_are_objects_and_unknown_kinds_are_counted() {
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: ray.io/v1alpha1, kind: RayJob, metadata: {name: a}}\n\
                - {apiVersion: v1, kind: Service, metadata: {name: a}}\n";
    let report = look(text);
    assert!(found(&report).contains("api-v1alpha1"));
    assert_eq!((report.objects, report.passed_over), (1, 1));
}

/// A job with several faults, beside a file that is no YAML.
fn faulty() -> Report {
    let text = "apiVersion: ray.io/v1\nkind: RayJob\nmetadata: {name: a-job}\nspec:\n  entrypoint: python a.py\n  \
                submissionMode: HTTPModee\n  ttlSecondsAfterFinished: 600\n  shutdownAfterJobFinish: true\n---\n\
                apiVersion: v1\nkind: Service\n";
    let files = [
        File { name: "jobs/a job.yaml", text },
        File { name: "broken.yaml", text: "a: 1\n---\n\nb: [1\nc: {{ x }}\n" },
    ];
    lint(&files, &Options::default()).unwrap()
}

#[test]
fn findings_as_text() {
    insta::assert_snapshot!(faulty().text());
}

#[test]
fn findings_as_json() {
    insta::assert_snapshot!(format!("{:#}", faulty().json()));
}

#[test]
fn findings_as_sarif() {
    let mut sarif = faulty().sarif();
    let rules = sarif["runs"][0]["tool"]["driver"]["rules"].as_array_mut().unwrap();
    assert_eq!(rules.len(), eagleray_kube::lint::rules().count());
    rules.retain(|rule| ["unreadable", "sidecar-mode"].contains(&rule["id"].as_str().unwrap()));
    // Positions in the list of rules move when a rule is added.
    for result in sarif["runs"][0]["results"].as_array_mut().unwrap() {
        let index = result["ruleIndex"].take().as_u64().unwrap();
        assert_eq!(
            eagleray_kube::lint::rules().nth(index as usize).unwrap().id,
            result["ruleId"].as_str().unwrap()
        );
    }
    insta::assert_snapshot!(format!("{sarif:#}"));
}

#[test]
fn a_rule_explains_itself() {
    insta::assert_snapshot!(
        rule("do-not-disrupt-on-spot").unwrap().explain() + &rule("sidecar-mode").unwrap().explain()
    );
}

#[test]
fn five_hundred_objects_take_less_than_300_ms() {
    let text: Vec<String> = (0..32).map(|n| GOOD.replace("solar-8b-1", &format!("solar-{n}"))).collect();
    let text = text.join("\n---\n");
    let times = (0..3).map(|_| {
        let start = std::time::Instant::now();
        let report = look(&text);
        assert!(report.objects >= 500, "{}", report.objects);
        start.elapsed().as_millis()
    });
    let fastest = times.min().unwrap();
    assert!(fastest < 300, "{fastest} ms");
}

/// `KubeRay`'s own samples, where a Go module cache has them.
fn samples() -> Option<PathBuf> {
    let cache = std::env::var_os("GOMODCACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join("go/pkg/mod")))?;
    let samples = cache.join("github.com/ray-project/kuberay/ray-operator@v1.6.2/config/samples");
    samples.is_dir().then_some(samples)
}

fn yaml_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

/// What `docs/lint.md` says that the samples give: the rule, how many times, and why it is right there.
fn told_of_samples() -> Vec<(String, usize, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/lint.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once("<!-- samples -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- /samples -->").unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].parse().unwrap(), cells[2].to_owned())
    };
    table.lines().skip(2).map(row).collect()
}

#[test]
fn every_finding_in_the_samples_of_kuberay_is_told_with_its_reason() {
    let told = told_of_samples();
    for (id, count, why) in &told {
        rule(id).unwrap();
        assert!(*count > 0 && why.len() > 20, "{id}");
    }
    let Some(samples) = samples() else {
        eprintln!("skipped: no module cache with github.com/ray-project/kuberay/ray-operator@v1.6.2");
        return;
    };
    let mut paths = Vec::new();
    yaml_files(&samples, &mut paths);
    paths.sort();
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(&samples).unwrap().display().to_string();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    let files: Vec<File<'_>> = texts.iter().map(|(name, text)| File { name, text }).collect();
    let options = Options { kuberay: Some(KubeRay::V1_6), ..Options::default() };
    let report = lint(&files, &options).unwrap();
    assert!(report.objects > 70);
    assert_eq!(report.count(Severity::Error), 0, "{}", report.text());
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for finding in &report.findings {
        *counts.entry(finding.rule.to_owned()).or_default() += 1;
    }
    let told: BTreeMap<String, usize> = told.into_iter().map(|(id, count, _)| (id, count)).collect();
    assert_eq!(counts, told, "the table in docs/lint.md");
}

#[test]
fn bounds_that_nobody_wrote_are_no_range() {
    let both = "        minReplicas: 2\n        maxReplicas: 2\n";
    let of = |left: &str| found(&look(&changed(&[(QUEUE, ""), (both, left)])));
    assert!(of("").is_empty() && of("        minReplicas: 2\n").is_empty());
    for written in ["        minReplicas: 1\n", "        maxReplicas: 5\n"] {
        assert!(of(written).contains("min-max-without-autoscaler"), "{written}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        look(&text);
    }

    /// Pieces of YAML and of manifests in any order: nearer to what a tired person writes.
    #[test]
    fn arbitrary_pieces_never_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        look(&pieces.concat());
    }

    /// Good manifests with one value replaced by another kind of value.
    #[test]
    fn a_value_of_any_kind_never_panics(line in 0_usize..400, value in prop::sample::select(VALUES)) {
        let mut lines: Vec<String> = GOOD.lines().map(str::to_owned).collect();
        let index = line % lines.len();
        if let Some((key, _)) = lines[index].clone().split_once(':') {
            lines[index] = format!("{key}: {value}");
        }
        look(&lines.join("\n"));
    }
}

const VALUES: &[&str] = &[
    "",
    "[]",
    "{}",
    "-1",
    "99999999999999999999",
    "~",
    "\"\"",
    "[{}]",
    "{a: [1]}",
    "true",
    "0",
    "1e300",
    "é",
    "9223372036854775807",
    "$A",
];

fn piece() -> impl Strategy<Value = String> {
    let words = [
        "---\n",
        "apiVersion: ray.io/v1\n",
        "kind: RayJob\n",
        "kind: NodePool\n",
        "apiVersion: karpenter.sh/v1\n",
        "spec:\n",
        "  rayClusterSpec:\n",
        "    workerGroupSpecs:\n",
        "    - groupName: a\n",
        "      replicas: -5\n",
        "&a ",
        "*a ",
        "<<: ",
        "- ",
        "  ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        "\n",
        "...\n",
        "%YAML 1.2\n",
        "'",
        "\"",
        "|\n",
        "\t",
        "\u{feff}",
        "é",
        "#",
        "!!str ",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}
