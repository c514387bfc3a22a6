//! The Python beside the binary.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use eagleray_base::{Error, Result};
use eagleray_spec::Resolved;
use rustix::io::{FdFlags, fcntl_setfd};

use crate::output::Output;

/// Names the Python to use where it does not lie beside the binary.
const VARIABLE: &str = "EAGLERAY_PYTHON";

/// A resolved run, or another text, in a file without a name, which lives exactly as long as the process that reads it.
pub(crate) struct Handover(File);

impl Handover {
    /// Writes the run to where the process after [`exec`] can read it.
    pub(crate) fn new(resolved: &Resolved) -> Result<Self> {
        Self::text(&resolved.to_json())
    }

    /// The same for any text.
    pub(crate) fn text(text: &str) -> Result<Self> {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        fcntl_setfd(&file, FdFlags::empty()).map_err(std::io::Error::from)?;
        Ok(Self(file))
    }

    /// The path under which it can be opened.
    pub(crate) fn path(&self) -> String {
        format!("/dev/fd/{}", self.0.as_raw_fd())
    }
}

/// Replaces this process by `python -m eagleray.<module> <arguments>`, with the global flags behind;
/// returns only with an error.
pub(crate) fn exec(module: &str, arguments: &[String], output: &Output) -> Result<()> {
    let python = find()?;
    let mut command = Command::new(&python);
    command.arg("-m").arg(format!("eagleray.{module}")).args(arguments);
    command.args(["--format", output.format.name()]);
    if output.verbose {
        command.arg("--verbose");
    }
    let error = command.exec();
    Err(Error::invalid(format!("cannot start `{}`: {error}", python.to_string_lossy())).with_hint(hint()))
}

/// `$EAGLERAY_PYTHON`, else the one in the folder of the binary.
fn find() -> Result<OsString> {
    if let Some(python) = std::env::var_os(VARIABLE).filter(|python| !python.is_empty()) {
        return Ok(python);
    }
    let folder = std::env::current_exe()
        .ok()
        .and_then(|binary| binary.parent().map(PathBuf::from))
        .unwrap_or_default();
    let found = ["python3", "python"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    found.map(PathBuf::into_os_string).ok_or_else(|| {
        Error::invalid(format!(
            "this command needs the Python package, and there is no Python in `{}`",
            folder.display()
        ))
        .with_hint(hint())
    })
}

fn hint() -> String {
    format!(
        "run the `eagleray` that `pip install eagleray` puts into an environment, or name its Python in `{VARIABLE}`"
    )
}
