//! Running the binary, for all tests of it.

use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;

/// The binary, away from any Python and any setting of the machine.
pub(crate) fn eagleray(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo_bin("eagleray"));
    command.current_dir(folder).args(arguments).env_remove("EAGLERAY_PYTHON").env("COLUMNS", "100");
    command
}

/// What it did.
pub(crate) fn run(folder: &Path, arguments: &[&str]) -> Output {
    eagleray(folder, arguments).output().unwrap()
}

/// Exit code, stdout and stderr, with the folder's own path hidden.
pub(crate) fn shown(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let text = format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    text.replace(&folder.canonicalize().unwrap().display().to_string(), "[folder]")
}
