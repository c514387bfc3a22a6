//! One error type with a kind, a message, a hint and a source.

use std::fmt;

/// What the caller can do about an error; every crate maps its causes onto these, exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The input is wrong: change it and try again.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// Somebody else got there first: read the newer state, or stop.
    Conflict,
    /// A service or device did not answer: try again later.
    Unavailable,
    /// Stored bytes are not what was written: never use them; restore or rebuild.
    Corrupt,
    /// Space, memory or a limit has run out: free or raise it.
    Exhausted,
    /// A defect of this program.
    Internal,
}

impl Kind {
    /// The name used in messages and in Python.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Unavailable => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Exhausted => "exhausted",
            Self::Internal => "internal",
        }
    }

    /// The process exit code: 1 is for what the user or a failed check decides, 2 for the unexpected.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid | Self::NotFound | Self::Conflict | Self::Corrupt | Self::Exhausted => 1,
            Self::Unavailable | Self::Internal => 2,
        }
    }
}

/// An error: lower case, no full stop, names in backticks, always with the path or key.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! constructors {
    ($($name:ident => $kind:ident),*) => {$(
        #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`].")]
        pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) }
    )*};
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    constructors!(invalid => Invalid, not_found => NotFound, conflict => Conflict,
        unavailable => Unavailable, corrupt => Corrupt, exhausted => Exhausted, internal => Internal);

    /// Adds the next step that mends it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts the place in front of the message: `place: message`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The message, without hint and source.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The next step, where one is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The error as the command line shows it: `error: …`, its causes, `hint: …`.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}", self.message);
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str("\n  caused by: ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        if let Some(hint) = &self.hint {
            text.push_str("\n  hint: ");
            text.push_str(hint);
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => Kind::NotFound,
            Io::AlreadyExists => Kind::Conflict,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge | Io::OutOfMemory => Kind::Exhausted,
            Io::InvalidData | Io::UnexpectedEof => Kind::Corrupt,
            Io::TimedOut | Io::ConnectionRefused | Io::ConnectionReset | Io::ConnectionAborted => {
                Kind::Unavailable
            }
            _ => Kind::Invalid,
        };
        let hint =
            (kind == Kind::Exhausted).then_some("free space on the device, then run the same command again");
        let mut mapped = Self::new(kind, error.to_string()).with_source(error);
        mapped.hint = hint.map(str::to_owned);
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_place_cause_and_hint_once() {
        let cause = std::io::Error::other("device gone");
        let error = Error::unavailable("cannot read").with_source(cause).at("`a/b`").with_hint("plug it in");
        assert_eq!(error.render(), "error: `a/b`: cannot read\n  caused by: device gone\n  hint: plug it in");
    }

    #[test]
    fn a_full_disk_is_exhausted_and_says_what_to_do() {
        let error = Error::from(std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.hint().is_some());
    }
}
