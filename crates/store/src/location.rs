//! Where a store lies, parsed from what a user wrote.

use std::fmt;
use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result};

/// A parsed root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Local(PathBuf),
    S3 { bucket: String, prefix: String },
    Memory { name: String, prefix: String },
}

impl Location {
    /// Parses a path or URL; a relative path is taken from the current folder.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Self::local(text);
        };
        if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return Err(Error::invalid(format!("a `{scheme}://` address must not hold a user or password"))
                .with_hint("give credentials by the `AWS_…` environment variables or a pod's identity"));
        }
        match scheme {
            "file" => Self::local(rest),
            "memory" => {
                let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                Ok(Self::Memory { name: name.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(Error::invalid(format!("`{text}` names no bucket"))
                        .with_hint("write `s3://bucket/prefix`"));
                }
                Ok(Self::S3 { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
            }
            _ => Err(Error::invalid(format!("`{scheme}://` is not a store this build knows"))
                .with_hint("use a local path or `s3://bucket/prefix`")),
        }
    }

    fn local(path: &str) -> Result<Self> {
        if path.is_empty() {
            return Err(Error::invalid("the path of a store is empty"));
        }
        Ok(Self::Local(std::path::absolute(Path::new(path))?))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => f.write_str(path.to_string_lossy().trim_end_matches('/')),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Self::Memory { name, prefix } if prefix.is_empty() => write!(f, "memory://{name}"),
            Self::Memory { name, prefix } => write!(f, "memory://{name}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_bucket_and_prefix_and_loses_slashes() {
        let location = Location::parse("s3://bucket/a/b/").unwrap();
        assert_eq!(location, Location::S3 { bucket: "bucket".into(), prefix: "a/b".into() });
        assert_eq!(location.to_string(), "s3://bucket/a/b");
        assert_eq!(Location::parse("file:///data/x").unwrap().to_string(), "/data/x");
    }

    #[test]
    fn what_cannot_be_opened_is_refused_without_showing_a_secret() {
        let error = Location::parse("s3://key:secret@bucket/x").unwrap_err();
        assert!(!error.render().contains("secret@"));
        assert!(Location::parse("gs://bucket").is_err());
        assert!(Location::parse("s3://").is_err());
        assert!(Location::parse("").is_err());
    }
}
