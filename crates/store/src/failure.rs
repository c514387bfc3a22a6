//! What a backend's failure means to the caller.

use eagleray_base::{Error, Kind};

/// Maps an `object_store` error, naming the usual causes: no bucket, no rights, no credentials.
pub(crate) fn from_object_store(error: object_store::Error) -> Error {
    use object_store::Error as Cause;
    let text = chain_text(&error);
    let (kind, message, hint) = match &error {
        Cause::NotFound { .. } if text.contains("NoSuchBucket") => no_bucket(),
        Cause::NotFound { .. } => (Kind::NotFound, "does not exist".to_owned(), None),
        Cause::AlreadyExists { .. } | Cause::Precondition { .. } => {
            (Kind::Conflict, "exists already".to_owned(), None)
        }
        Cause::PermissionDenied { .. } | Cause::Unauthenticated { .. } => denied(),
        _ if text.contains("NoSuchBucket") => no_bucket(),
        // The instance's metadata service is asked only where nothing else gives credentials.
        _ if text.contains("169.254.") => no_credentials(),
        _ if is_denied(&text) => denied(),
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

fn no_credentials() -> Meaning {
    let hint = "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or give the pod an identity (Pod Identity, IRSA)";
    (Kind::Invalid, "no S3 credentials were found".to_owned(), Some(hint))
}

fn denied() -> Meaning {
    let hint = "check the credentials, and that their policy allows s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket here";
    (Kind::Invalid, "access was denied".to_owned(), Some(hint))
}

fn is_denied(text: &str) -> bool {
    ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403 Forbidden", "401 Unauthorized"]
        .iter()
        .any(|sign| text.contains(sign))
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

    fn generic(text: &str) -> Error {
        from_object_store(object_store::Error::Generic { store: "S3", source: text.to_owned().into() })
    }

    #[test]
    fn what_the_servers_say_becomes_what_the_user_can_do() {
        let missing = generic("PUT http://169.254.169.254/latest/api/token: 403 Forbidden");
        assert!(missing.message().contains("no S3 credentials"), "{missing}");
        let wrong = generic("status: 403 Forbidden <Code>SignatureDoesNotMatch</Code>");
        assert!(wrong.message().contains("access was denied"), "{wrong}");
        assert_eq!(generic("<Code>NoSuchBucket</Code>").kind(), Kind::NotFound);
        assert_eq!(generic("connection reset").kind(), Kind::Unavailable);
        assert!([missing, wrong].iter().all(|error| error.hint().is_some()));
    }
}
