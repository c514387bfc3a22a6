//! What a backend's failure means to the caller.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eagleray_base::{Error, Kind, Result};

use crate::credentials;

/// Whether a backend has ever done what it was asked: then its bucket exists and credentials were found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered(Arc<AtomicBool>);

impl Answered {
    pub(crate) fn yes(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn note(&self) {
        // Only the first answer writes, so that threads do not fight over the word.
        if !self.yes() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Notes an answer, or says what a failure means.
    pub(crate) fn check<T>(&self, result: object_store::Result<T>) -> Result<T> {
        match result {
            Ok(value) => {
                self.note();
                Ok(value)
            }
            Err(error) => Err(self.failure(error)),
        }
    }

    pub(crate) fn failure(&self, error: object_store::Error) -> Error {
        from_object_store(error, self.yes())
    }
}

/// Whether a ranged read failed since the object ends before the range.
pub(crate) fn is_out_of_range(error: &object_store::Error) -> bool {
    let text = chain_text(error);
    // The second is said of an empty object, whose ranges some servers answer with the whole of it.
    ["status code: 416", "Received non-partial response", "Wanted range starting at"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether a request was found wrong; why, the answer to a HEAD does not say.
pub(crate) fn is_bad_request(error: &object_store::Error) -> bool {
    chain_text(error).contains("status code: 400")
}

/// Maps an `object_store` error, naming the usual causes: no bucket, no rights, no credentials, a wrong
/// region. Once the store has answered, credentials that fail to come are a failure that passes.
fn from_object_store(error: object_store::Error, answered: bool) -> Error {
    use object_store::Error as Cause;
    let text = chain_text(&error);
    let (kind, message, hint) = match &error {
        Cause::NotFound { .. } if text.contains("NoSuchBucket") => no_bucket(),
        Cause::NotFound { .. } => (Kind::NotFound, "does not exist".to_owned(), None),
        Cause::AlreadyExists { .. } | Cause::Precondition { .. } => {
            (Kind::Conflict, "exists already".to_owned(), None)
        }
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => denied(&text),
        _ if text.contains("NoSuchBucket") => no_bucket(),
        // The instance's metadata service is asked only where nothing else gives credentials.
        _ if text.contains("169.254.") || text.contains(credentials::REFUSED) => no_credentials(answered),
        _ if is_elsewhere(&text) => wrong_region(),
        _ if is_denied(&text) => denied(&text),
        _ if text.contains("SlowDown") => slow_down(),
        _ => (
            Kind::Unavailable,
            "the store did not answer".to_owned(),
            Some("look at the network and the endpoint, then try again"),
        ),
    };
    let mapped = Error::new(kind, message);
    let mapped = if let Some(hint) = hint { mapped.with_hint(hint) } else { mapped };
    if kind == Kind::NotFound && hint.is_none() { mapped } else { mapped.with_source(error) }
}

type Meaning = (Kind, String, Option<&'static str>);

fn no_bucket() -> Meaning {
    (
        Kind::NotFound,
        "no such bucket".to_owned(),
        Some("create the bucket, or correct its name or `AWS_ENDPOINT_URL`"),
    )
}

fn no_credentials(answered: bool) -> Meaning {
    if answered {
        let hint = "look at the instance's metadata service or the agent that gives the pod its identity, then try again";
        return (Kind::Unavailable, "the S3 credentials could not be renewed".to_owned(), Some(hint));
    }
    let hint = "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give the pod an identity (Pod Identity, IRSA)";
    (Kind::Invalid, "no S3 credentials were found".to_owned(), Some(hint))
}

fn wrong_region() -> Meaning {
    let hint = "set `AWS_REGION` to the bucket's region, or correct `AWS_ENDPOINT_URL`";
    (Kind::Invalid, "the bucket is in another region".to_owned(), Some(hint))
}

fn denied(text: &str) -> Meaning {
    let (message, hint) = if text.contains("kms:") || text.contains("KMS.") {
        (
            "access to the bucket's KMS key was denied",
            "look whether the key is enabled; allow kms:GenerateDataKey and kms:Decrypt on it, in the role's policy and in the key's own",
        )
    } else if text.contains("ExpiredToken") {
        (
            "the S3 credentials have expired",
            "sign in again, or take `AWS_SESSION_TOKEN` and its keys out of the environment of a pod that has an identity",
        )
    } else if text.contains("RequestTimeTooSkewed") {
        (
            "the clock of this machine is wrong by minutes",
            "set the clock: S3 refuses requests of another time",
        )
    } else {
        (
            "access was denied",
            "check the credentials, and that their policy allows s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket here",
        )
    };
    (Kind::Invalid, message.to_owned(), Some(hint))
}

fn slow_down() -> Meaning {
    let hint = "S3 divides a prefix as its load grows, within minutes: wait, or give runs and data prefixes of their own";
    (Kind::Unavailable, "the store asks for fewer requests a second".to_owned(), Some(hint))
}

/// A redirect that says no address, or a signature that was made for another region.
fn is_elsewhere(text: &str) -> bool {
    ["Received redirect without LOCATION", "status code: 301", "PermanentRedirect"]
        .iter()
        .any(|sign| text.contains(sign))
        || (text.contains("AuthorizationHeaderMalformed") && text.contains("region"))
}

fn is_denied(text: &str) -> bool {
    let signs = [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AccessDenied",
        "ExpiredToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "KMS.",
        "403 Forbidden",
        "401 Unauthorized",
    ];
    signs.iter().any(|sign| text.contains(sign))
}

fn chain_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push('\n');
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str, answered: bool) -> Error {
        let error = object_store::Error::Generic { store: "S3", source: text.to_owned().into() };
        from_object_store(error, answered)
    }

    #[test]
    fn what_the_servers_say_becomes_what_the_user_can_do() {
        let missing = generic("PUT http://169.254.169.254/latest/api/token: 403 Forbidden", false);
        assert!(missing.message().contains("no S3 credentials"), "{missing}");
        let wrong = generic("status: 403 Forbidden <Code>SignatureDoesNotMatch</Code>", false);
        assert!(wrong.message().contains("access was denied"), "{wrong}");
        assert_eq!(generic("<Code>NoSuchBucket</Code>", false).kind(), Kind::NotFound);
        assert_eq!(generic("connection reset", false).kind(), Kind::Unavailable);
        let region = generic(
            "Server returned non-2xx status code: 400 Bad Request: <Code>AuthorizationHeaderMalformed</Code>\
             <Message>the region 'us-east-1' is wrong; expecting 'eu-west-1'</Message>",
            false,
        );
        assert_eq!(region.kind(), Kind::Invalid);
        assert!(region.hint().is_some_and(|hint| hint.contains("AWS_REGION")));
        for (text, told) in [
            (
                "<Code>AccessDenied</Code> is not authorized to perform: kms:GenerateDataKey on resource",
                "KMS key",
            ),
            ("status code: 400 Bad Request: <Code>KMS.DisabledException</Code>", "KMS key"),
            ("<Code>ExpiredToken</Code>", "expired"),
            ("status: 403 Forbidden <Code>RequestTimeTooSkewed</Code>", "clock"),
            (
                "status: 503 <Code>SlowDown</Code><Message>Please reduce your request rate.</Message>",
                "fewer requests",
            ),
        ] {
            let error = generic(text, true);
            assert!(error.message().contains(told) && error.hint().is_some(), "{error}");
        }
        assert!([missing, wrong].iter().all(|error| error.hint().is_some()));
    }

    #[test]
    fn credentials_that_fail_to_come_stop_a_start_and_not_a_run() {
        for text in ["PUT http://169.254.169.254/latest/api/token: timed out", credentials::REFUSED] {
            assert_eq!(generic(text, false).kind(), Kind::Invalid);
            assert_eq!(generic(text, true).kind(), Kind::Unavailable);
        }
    }
}
