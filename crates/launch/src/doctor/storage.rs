//! The store of a run and its data, as this identity reaches them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

use eagleray_base::{Error, Result};
use eagleray_store::Store;

use super::facts::{Facts, Tried};
use super::finding::Say;

const AREA: &str = "storage";

/// One byte more than a part of a multipart upload, so that there are two.
const UPLOAD_BYTES: usize = (16 << 20) + 1;

/// What is tried on a store, in this order.
const VERBS: [&str; 6] = ["put", "conditional put", "multipart upload", "ranged get", "list", "delete"];

/// Tries every verb of a run on its store, below a key of its own that is deleted after.
pub fn try_store(url: &str) -> Vec<Tried> {
    let store = match Store::open(url) {
        Ok(store) => store,
        Err(error) => return vec![tried("open", url, Err(error))],
    };
    // Two who look at once do not meet; keyed anew in every process.
    let scratch = store.child(&format!("doctor-{:016x}", RandomState::new().build_hasher().finish()));
    let done = VERBS.map(|verb| tried(verb, store.url(), attempt(&scratch, verb)));
    // Again, for what an attempt left whose verb is allowed and whose own step failed.
    let _ = scratch.delete_prefix("");
    done.into()
}

fn attempt(scratch: &Store, verb: &str) -> Result<()> {
    let wrong = |what: &str| Err(Error::internal(format!("`{}`: {what}", scratch.url())));
    match verb {
        "put" => scratch.put("a", "0123456789"),
        "conditional put" => {
            scratch.put_if_absent("b", "first")?;
            if scratch.put_if_absent("b", "second")? {
                return wrong(
                    "a conditional put went over an object that was there: the store ignores `If-None-Match`",
                );
            }
            Ok(())
        }
        "multipart upload" => {
            let mut writer = scratch.writer("c")?;
            writer.push(&vec![0; UPLOAD_BYTES])?;
            writer.finish().map(drop)
        }
        "ranged get" => {
            if scratch.get_range("a", 2, 3)?[..] == *b"234" {
                Ok(())
            } else {
                wrong("other bytes than were written")
            }
        }
        "list" => {
            if scratch.list("")?.iter().any(|object| object.path == "a") {
                Ok(())
            } else {
                wrong("what was written is not listed")
            }
        }
        _ => ["a", "b", "c"].iter().try_for_each(|path| scratch.delete(path)),
    }
}

/// Reads one byte of the first object of a text or dataset: a path, or a pattern of paths.
pub fn try_source(url: &str) -> Tried {
    let read = || -> Result<()> {
        let wild = url.find(['*', '?', '[', '{']);
        // Up to a whole folder: a listing goes by names, not by their beginnings.
        let whole = wild.map_or(url, |wild| url[..wild].rsplit_once('/').map_or(url, |(folder, _)| folder));
        let whole = whole.trim_end_matches('/');
        let (root, inner) = match whole.rsplit_once('/') {
            Some((root, inner)) if !root.ends_with('/') && !root.is_empty() => (root, inner),
            _ => (whole, ""),
        };
        let store = Store::open(root)?;
        let file = if wild.is_none() && !inner.is_empty() { store.head(inner)? } else { None };
        let first = match file {
            Some(file) => Some(file),
            None => store.first(inner)?,
        };
        let object =
            first.ok_or_else(|| Error::not_found(format!("nothing lies below `{}`", store.url_of(inner))))?;
        if object.bytes > 0 {
            store.get_range(&object.path, 0, 1)?;
        }
        Ok(())
    };
    tried("read", url, read())
}

fn tried(verb: &str, url: &str, outcome: Result<()>) -> Tried {
    let failure = outcome.err().map(|error| match error.hint() {
        Some(hint) => format!("{}; {hint}", error.message()),
        None => error.message().to_owned(),
    });
    Tried { verb: verb.into(), url: without_password(url), failure }
}

/// An address without what stands before its `@`.
pub(super) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit_once('@').map_or(&rest[..end], |(_, host)| host);
    format!("{scheme}://{host}{}", &rest[end..])
}

pub(super) fn judge(facts: &Facts, say: &mut Say) {
    if let Some(first) = facts.store.first() {
        let failed: Vec<&Tried> = facts.store.iter().filter(|tried| tried.failure.is_some()).collect();
        if failed.is_empty() {
            let verbs: Vec<&str> = facts.store.iter().map(|tried| tried.verb.as_str()).collect();
            say.ok("store", AREA, format!("`{}` takes {}, as this identity", first.url, verbs.join(", ")));
        }
        // After a put that was refused, what reads it back fails too: the cause is told, the rest named.
        if let Some(cause) = failed.first() {
            let verbs: Vec<&str> = failed.iter().map(|tried| tried.verb.as_str()).collect();
            let seen = format!(
                "`{}`: {} failed: {}",
                cause.url,
                verbs.join(", "),
                cause.failure.as_deref().unwrap_or_default()
            );
            say.error(
                "store",
                AREA,
                seen,
                "claims are conditional puts, checkpoints multipart uploads; retention lists and deletes",
                policy(&cause.url, true),
            );
        }
        say.info("store-identity", AREA, "the store was tried as whoever runs this, the pods reach it as their own account", "run it in a pod of that account to try that one: `eagleray doctor` finds the pod's credentials by itself");
    }
    for source in &facts.sources {
        match &source.failure {
            None => say.ok("data", AREA, format!("`{}` can be read, as this identity", source.url)),
            Some(failure) => say.error(
                "data",
                AREA,
                format!("`{}`: {failure}", source.url),
                "the build, or the first step, would fail after the nodes are paid for",
                policy(&source.url, false),
            ),
        }
    }
}

/// The command that gives a role what it needs.
fn policy(url: &str, writes: bool) -> String {
    let Some(rest) = url.strip_prefix("s3://") else { return format!("ls -ld {url}") };
    let rest = rest.find(['*', '?', '[', '{']).map_or(rest, |wild| &rest[..wild]);
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let below = if prefix.is_empty() { "*".to_owned() } else { format!("{prefix}/*") };
    let (name, actions): (_, &[&str]) = if writes {
        (
            "eagleray-store",
            &[
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
        )
    } else {
        ("eagleray-data", &["s3:GetObject"])
    };
    // A single file is read by its own name, and listed by nothing.
    let mut objects = vec![format!("arn:aws:s3:::{bucket}/{below}")];
    if !writes && !prefix.is_empty() {
        objects.push(format!("arn:aws:s3:::{bucket}/{prefix}"));
    }
    // No condition on prefixes: without the right to list its bucket a missing object is "forbidden", not missing.
    let document = serde_json::json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": actions, "Resource": objects},
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": format!("arn:aws:s3:::{bucket}")},
    ]});
    format!("aws iam put-role-policy --role-name ROLE --policy-name {name} --policy-document '{document}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policies_of_the_guide_are_those_of_the_remedies() {
        let guide = include_str!("../../../../docs/s3.md");
        for (url, writes) in [("s3://acme-llm/runs", true), ("s3://acme-corpus/web/**/*.jsonl", false)] {
            let command = policy(url, writes);
            let document = command.split('\'').nth(1).unwrap();
            let wanted: serde_json::Value = serde_json::from_str(document).unwrap();
            let shown = guide
                .lines()
                .filter(|line| line.starts_with("{\"Statement"))
                .any(|line| serde_json::from_str::<serde_json::Value>(line).unwrap() == wanted);
            assert!(shown, "docs/s3.md has no policy {document}");
        }
    }
}
