//! Names as Kubernetes takes them. Which form a name has to have depends on what bears it.

/// The longest label of DNS, and the longest value of a label of Kubernetes.
const LABEL_CHARS_MAX: usize = 63;

/// RFC 1123: small letters, digits and `-`, neither first nor last a `-`. Namespaces are named so, and what only
/// goes into labels.
///
/// ```
/// use eagleray_spec::{is_dns_label, is_dns_service_label};
///
/// assert!(is_dns_label("2nd-team") && !is_dns_service_label("2nd-team", 63));
/// ```
pub fn is_dns_label(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty()
        && text.len() <= LABEL_CHARS_MAX
        && text.bytes().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1035: the same with a letter first. Services are named so, and so `KubeRay` wants it of clusters, whose names
/// begin with the run's.
pub fn is_dns_service_label(text: &str, chars_max: usize) -> bool {
    is_dns_label(text) && text.len() <= chars_max && text.starts_with(|c: char| c.is_ascii_lowercase())
}

/// Labels of RFC 1123 with dots between: most objects are named so. No longer than the value of a label, since
/// that is where queues and priorities are named by what uses them.
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= LABEL_CHARS_MAX && text.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_api_server_takes() {
        let long = "a".repeat(LABEL_CHARS_MAX);
        let longer = format!("{long}a");
        for (text, label, service, subdomain) in [
            ("a", true, true, true),
            ("training", true, true, true),
            ("a-1", true, true, true),
            ("1a", true, false, true),
            ("2026", true, false, true),
            ("a.b", false, false, true),
            (&long, true, true, true),
            (&longer, false, false, false),
            ("", false, false, false),
            ("-a", false, false, false),
            ("a-", false, false, false),
            ("a..b", false, false, false),
            (".a", false, false, false),
            ("A", false, false, false),
            ("a_b", false, false, false),
            ("a;b", false, false, false),
            ("é", false, false, false),
        ] {
            assert_eq!(is_dns_label(text), label, "{text}");
            assert_eq!(is_dns_service_label(text, LABEL_CHARS_MAX), service, "{text}");
            assert_eq!(is_dns_subdomain(text), subdomain, "{text}");
        }
        assert!(!is_dns_service_label("abc", 2));
    }
}
