//! The binary as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::BufRead as _;
use std::path::Path;
use std::process::{Command, Stdio};

use assert_cmd::cargo::cargo_bin;
use common::{eagleray, run, shown};

mod common;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn initialised() -> tempfile::TempDir {
    let folder = folder();
    assert!(run(folder.path(), &["init", "first"]).status.success());
    folder
}

/// Writes a script by a process of its own: a file that this one has open for writing while another
/// thread forks cannot be executed.
fn stub(path: &Path, body: &str) {
    let script = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$2\" && chmod 755 \"$2\"";
    assert!(Command::new("sh").args(["-c", script, "sh", body]).arg(path).status().unwrap().success());
}

/// A copy of the binary, with nothing beside it.
fn bare(folder: &Path) -> std::path::PathBuf {
    let copy = folder.join("eagleray");
    assert!(Command::new("cp").arg(cargo_bin("eagleray")).arg(&copy).status().unwrap().success());
    copy
}

#[test]
fn init_writes_a_spec_that_check_accepts() {
    let folder = folder();
    insta::assert_snapshot!("init", shown(folder.path(), &["init", "first"]));
    insta::assert_snapshot!("check", shown(folder.path(), &["check", "first/run.yaml"]));
    insta::assert_snapshot!(
        "template",
        std::fs::read_to_string(folder.path().join("first/run.yaml")).unwrap()
    );
}

#[test]
fn init_takes_names_with_blanks_and_globs_with_braces() {
    let folder = folder();
    let arguments = [
        "init",
        "My 1st Run!",
        "--documents",
        "texts with blank/{a,b}/*.txt",
        "--tokenizer",
        "${HOME}/tok.json",
    ];
    assert!(run(folder.path(), &arguments).status.success());
    let output = eagleray(folder.path(), &["check", "My 1st Run!/run.yaml", "--format", "json"])
        .env("HOME", "/home/someone")
        .output()
        .unwrap();
    let checked: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(checked["spec"]["name"], "my-1st-run");
    assert_eq!(checked["spec"]["data"]["tokenizer"], "/home/someone/tok.json");
    let documents = checked["spec"]["data"]["sources"]["text"]["documents"][0].as_str().unwrap();
    assert!(documents.ends_with("My 1st Run!/texts with blank/{a,b}/*.txt"), "{documents}");
}

#[test]
fn init_never_replaces_a_spec_unless_forced() {
    let folder = initialised();
    let path = folder.path().join("first/run.yaml");
    std::fs::write(&path, "mine").unwrap();
    insta::assert_snapshot!("init_again", shown(folder.path(), &["init", "first"]));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    assert!(run(folder.path(), &["init", "first", "--force"]).status.success());
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("# A run of Eagle Ray"));
    assert_eq!(std::fs::read_dir(folder.path().join("first")).unwrap().count(), 1);
}

#[test]
fn init_refuses_a_bad_name_before_it_writes() {
    let folder = folder();
    let output = run(folder.path(), &["init", "first", "--name", "No Such_Name"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!folder.path().join("first").exists());
}

#[test]
fn check_points_at_each_error_and_exits_with_1() {
    let folder = initialised();
    let path = folder.path().join("first/run.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("global_batch", "global_bacth").replace("50 steps", "50 stops"))
        .unwrap();
    insta::assert_snapshot!("check_errors", shown(folder.path(), &["check", "first/run.yaml"]));
    insta::assert_snapshot!(
        "check_errors_json",
        shown(folder.path(), &["check", "first/run.yaml", "--format", "json"])
    );
}

#[test]
fn a_build_of_a_run_without_data_is_refused_before_python_is_asked() {
    let folder = folder();
    let text = "version: 1\nname: own\nstore: runs/own\ntrain: {script: {path: mine.py}}\n";
    std::fs::write(folder.path().join("run.yaml"), text).unwrap();
    let output = run(folder.path(), &["tokens", "build", "run.yaml"]);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("the run has no `data`: there is nothing to build"), "{message}");
}

#[test]
fn check_says_what_cannot_run_yet_and_train_refuses_it() {
    let folder = initialised();
    let check = ["check", "first/run.yaml", "--set", "data.packing=best_fit", "--set", "data.order=era"];
    insta::assert_snapshot!("check_unavailable", shown(folder.path(), &check));
    let train = ["train", "first/run.yaml", "--set", "data.packing=best_fit", "--set", "data.order=era"];
    insta::assert_snapshot!("train_unavailable", shown(folder.path(), &train));
}

#[test]
fn a_spec_that_is_not_there_says_how_to_get_one() {
    let folder = folder();
    insta::assert_snapshot!("no_such_file", shown(folder.path(), &["check", "run.yaml"]));
    std::fs::write(folder.path().join("run.yaml"), [0xff, 0xfe, b'a']).unwrap();
    insta::assert_snapshot!("not_utf8", shown(folder.path(), &["check", "run.yaml"]));
    insta::assert_snapshot!(
        "no_such_file_json",
        shown(folder.path(), &["train", "no.yaml", "--format", "json"])
    );
}

#[test]
fn without_python_beside_it_train_says_what_it_needs() {
    let folder = initialised();
    let output = Command::new(bare(folder.path()))
        .args(["train", "first/run.yaml"])
        .current_dir(folder.path())
        .env_remove("EAGLERAY_PYTHON")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("needs the Python package") && text.contains("hint: "), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");
}

#[test]
fn with_python_beside_it_train_becomes_that_python() {
    let folder = initialised();
    let bare = bare(folder.path());
    // What stands in for Python shows its arguments and the run that it was handed, and fails its own way.
    stub(&folder.path().join("python3"), "echo \"$1 $2 $3 $5 $6 $7 $8\"\ncat \"$4\"\nexit 7");
    let output = Command::new(&bare)
        .args(["train", "first/run.yaml", "--take-over", "--verbose", "--set", "train.steps=50"])
        .current_dir(folder.path())
        .env_remove("EAGLERAY_PYTHON")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (arguments, resolved) = text.split_once('\n').unwrap();
    assert_eq!(arguments, "-m eagleray.train --resolved --take-over --format text --verbose");
    let resolved: serde_json::Value = serde_json::from_str(resolved).unwrap();
    assert_eq!(resolved["spec"]["train"]["steps"], 50);
    assert_eq!(resolved["overrides"][0], "train.steps=50");
}

#[test]
fn shell_and_exec_hand_over_what_they_were_asked() {
    let folder = folder();
    let python = folder.path().join("python");
    stub(&python, "for a in \"$@\"; do echo \"$a\"; done");
    let handed = |arguments: &[&str]| {
        let output = eagleray(folder.path(), arguments).env("EAGLERAY_PYTHON", &python).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap().replace('\n', " "))
    };
    assert_eq!(
        handed(&[
            "exec",
            "store",
            "--ranks",
            "0,2-5",
            "--once-per-node",
            "--",
            "ls",
            "-l",
            "--format",
            "a b"
        ]),
        (
            Some(0),
            "-m eagleray.shell exec store --ranks=0,2-5 --once-per-node --argument=ls --argument=-l \
            --argument=--format --argument=a b --format text "
                .to_owned()
        )
    );
    assert_eq!(
        handed(&["shell", "run.yaml", "--verbose"]),
        (Some(0), "-m eagleray.shell prompt run.yaml --format text --verbose ".to_owned())
    );
    assert_eq!(handed(&["exec", "store", "ls"]).0, Some(1));
    assert_eq!(handed(&["exec", "store", "--"]).0, Some(1));
    let (code, shown) = handed(&["shell", "store", "--format", "json"]);
    assert!(code == Some(1) && shown.contains("a prompt has no JSON form"), "{shown}");
}

#[test]
fn the_help_of_shell_and_exec_is_frozen() {
    let folder = folder();
    insta::assert_snapshot!("shell_help", shown(folder.path(), &["shell", "--help"]));
    insta::assert_snapshot!("exec_help", shown(folder.path(), &["exec", "--help"]));
}

#[test]
fn the_variable_names_another_python() {
    let folder = initialised();
    let other = folder.path().join("other");
    stub(&other, "echo other");
    let train = ["train", "first/run.yaml"];
    let output = eagleray(folder.path(), &train).env("EAGLERAY_PYTHON", &other).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "other\n");
    let output = eagleray(folder.path(), &train).env("EAGLERAY_PYTHON", "/no/such/python").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot start `/no/such/python`"));
}

#[test]
fn a_wrong_command_line_exits_with_1_and_help_with_0() {
    let folder = folder();
    for arguments in [&["chek"][..], &["train"], &["check", "--no-such-flag"], &[]] {
        assert_eq!(run(folder.path(), arguments).status.code(), Some(1), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["train", "--help"]] {
        let output = run(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(output.stderr.is_empty());
    }
}

#[test]
fn a_closed_pipe_ends_the_output_and_nothing_else() {
    let folder = folder();
    for arguments in [&["check", "--schema"][..], &["check", "--show-defaults"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = eagleray(folder.path(), arguments).stdout(Stdio::from(writer)).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_schema_and_the_defaults_come_out_without_a_spec() {
    let folder = folder();
    let schema = run(folder.path(), &["check", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert_eq!(schema["title"], "RunSpec");
    let defaults = run(folder.path(), &["check", "--show-defaults"]);
    assert!(
        String::from_utf8_lossy(&defaults.stdout).contains("train.micro_batch (whole number; default 1)")
    );
}

#[test]
fn an_interrupt_ends_the_process_by_its_signal() {
    use std::os::unix::process::ExitStatusExt;

    let folder = initialised();
    stub(&folder.path().join("sleeping"), "echo ready; exec sleep 60");
    // Whoever runs the tests in the background may have them ignore interrupts, and children inherit that.
    let mut child = Command::new("env")
        .arg("--default-signal=INT")
        .arg(cargo_bin("eagleray"))
        .args(["train", "first/run.yaml"])
        .current_dir(folder.path())
        .env("EAGLERAY_PYTHON", folder.path().join("sleeping"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    // A shell reports this as 130.
    assert_eq!(child.wait().unwrap().signal(), Some(2));
}
