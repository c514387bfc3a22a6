//! What a command says: results on stdout, everything else on stderr.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use eagleray_base::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    // For code scanners; one command knows it, so that the help of the others does not list it.
    #[value(hide = true)]
    Sarif,
}

impl Format {
    /// The name, as typed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Sarif => "sarif",
        }
    }
}

/// Where a command says what it has to say.
pub(crate) struct Output {
    /// How results are printed.
    pub(crate) format: Format,
    /// Whether tracebacks and foreign logs are wanted.
    pub(crate) verbose: bool,
    quiet: bool,
    tty: bool,
    /// Set once the reader of stdout is gone: nothing is printed from then on.
    closed: Cell<bool>,
    /// Set once the failure has been printed as a result.
    reported: Cell<bool>,
}

#[allow(dead_code, reason = "each noun uses what it needs")]
impl Output {
    pub(crate) fn new(format: Format, quiet: bool, verbose: bool) -> Self {
        let tty = io::stderr().is_terminal();
        Self { format, verbose, quiet, tty, closed: Cell::new(false), reported: Cell::new(false) }
    }

    /// Whether results are wanted as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.format != Format::Text
    }

    /// Whether nothing but results and errors is wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a person watches stderr.
    pub(crate) fn is_tty(&self) -> bool {
        self.tty
    }

    /// Prints a result, with a line end where it has none.
    pub(crate) fn print(&self, text: &str) {
        if self.closed.get() {
            return;
        }
        let mut stdout = io::stdout().lock();
        let end = if text.ends_with('\n') { "" } else { "\n" };
        let written = write!(stdout, "{text}{end}").and_then(|()| stdout.flush());
        if written.is_err() {
            self.closed.set(true);
        }
    }

    /// Prints a result as JSON.
    pub(crate) fn json(&self, value: &Value) {
        self.print(&format!("{value:#}"));
    }

    /// Says something on the side, unless `--quiet`.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Marks a failure that has been printed as the result: it is not rendered again.
    pub(crate) fn reported(&self, error: Error) -> Error {
        self.reported.set(true);
        error
    }

    /// Renders an error, once.
    pub(crate) fn error(&self, error: &Error) {
        if self.reported.get() {
            return;
        }
        if self.is_json() {
            let (kind, message, hint) = (error.kind().name(), error.message(), error.hint());
            self.json(&json!({"error": {"kind": kind, "message": message, "hint": hint}}));
        } else {
            let _ = writeln!(io::stderr(), "{}", error.render());
        }
    }

    /// A bar on a terminal, and nothing elsewhere; `bytes` shows sizes, else counts.
    pub(crate) fn progress(&self, what: &str, total: u64, bytes: bool) -> ProgressBar {
        let shown = self.is_tty() && !self.quiet && !self.is_json();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let template = if bytes {
            "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left"
        } else {
            "{msg} [{bar:30}] {pos}/{len} {per_sec} {eta} left"
        };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::with_draw_target(Some(total), target).with_style(style).with_message(what.to_owned())
    }
}
