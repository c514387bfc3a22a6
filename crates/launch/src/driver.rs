//! What the driver of a launch says: its output, which Ray keeps on the head and gives out over its job API.
//!
//! It is reached through the API server, so no port has to be opened or forwarded.

use std::time::Duration;

use eagleray_base::{Error, Kind, Result};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::launches::Launch;
use crate::resource::{RAY_CLUSTER, SECRET};
use crate::watch::situation::{conditions, join, short};

/// Where Ray's job API listens.
const DASHBOARD_PORT: u16 = 8_265;

/// `KubeRay` names the secret of a cluster after it, and cuts longer names in front.
const SECRET_NAME_CHARS_MAX: usize = 50;

/// So long may an answer take. It is all that the driver has said, which may be much.
const PATIENCE: Duration = Duration::from_secs(30);

const HINT_WAITS: &str = "`eagleray watch` says what it waits for; `--follow` begins when it does";

/// All that the driver of a launch has said so far.
///
/// # Errors
/// `NotFound` where its cluster is gone, its head is not ready or the job has not begun; `Unavailable` where the head
/// does not answer; `Invalid` where the token may not be read.
pub fn output(cluster: &Cluster, launch: &Launch) -> Result<String> {
    let Launch { name, namespace, .. } = launch;
    if launch.cluster.is_empty() {
        let phase = launch.phase.name();
        return Err(Error::not_found(format!("launch `{name}` is {phase}, and has no cluster yet"))
            .with_hint(HINT_WAITS));
    }
    let ray = cluster.get(RAY_CLUSTER, Some(namespace), &launch.cluster)?.ok_or_else(|| {
        Error::not_found(format!("the cluster of launch `{name}` is gone, and its output with it"))
            .with_hint("`eagleray report STORE` tells what happened in the run")
    })?;
    if let Some(why) = unready(&ray) {
        return Err(Error::not_found(format!("the head of launch `{name}` is not ready: {why}"))
            .with_hint(HINT_WAITS));
    }
    let path = format!("/api/jobs/{name}/logs");
    let answer = ask_head(cluster, &ray, &path, PATIENCE).map_err(|error| match error.kind() {
        Kind::NotFound => {
            Error::not_found(format!("the driver of launch `{name}` has not begun")).with_hint(HINT_WAITS)
        }
        _ => error,
    })?;
    Ok(answer["logs"].as_str().unwrap_or_default().to_owned())
}

/// What the dashboard of a `RayCluster` answers. One whose head is [not ready](unready) takes requests before it can
/// answer them: asking it ends in time-outs.
///
/// # Errors
/// As [`Cluster::get_behind`]; `Invalid` or `NotFound` where its token cannot be read.
pub(crate) fn ask_head(cluster: &Cluster, ray: &Value, path: &str, patience: Duration) -> Result<Value> {
    let text = |key: &str| ray["metadata"][key].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let token = token(cluster, namespace, ray)?;
    let service = ray["status"]["head"]["serviceName"]
        .as_str()
        .map_or_else(|| format!("{name}-head-svc"), str::to_owned);
    let path = format!("/api/v1/namespaces/{namespace}/services/{service}:{DASHBOARD_PORT}/proxy{path}");
    cluster.get_behind(&path, token.as_deref(), patience)
}

/// Why the head is not ready, where `KubeRay` says so.
pub(crate) fn unready(ray: &Value) -> Option<String> {
    let found = conditions(ray).into_iter().find(|found| found.name == "HeadPodReady" && !found.holds)?;
    Some(short(&join(&found.reason, &found.message)))
}

/// The token of a cluster that asks for one. It goes into a header, and nowhere else.
fn token(cluster: &Cluster, namespace: &str, ray: &Value) -> Result<Option<String>> {
    let options = &ray["spec"]["authOptions"];
    if options["mode"] != "token" {
        return Ok(None);
    }
    let own = ray["metadata"]["name"].as_str().unwrap_or_default();
    let name = options["secretName"].as_str().map_or_else(|| secret_name(own), str::to_owned);
    let secret = cluster.get(SECRET, Some(namespace), &name)?;
    let encoded = secret.as_ref().and_then(|secret| secret["data"]["auth_token"].as_str());
    let decoded = encoded.and_then(decode);
    decoded.map(Some).ok_or_else(|| Error::not_found(format!("secret `{name}` holds no token of Ray")))
}

fn secret_name(cluster: &str) -> String {
    let cut = cluster.len().saturating_sub(SECRET_NAME_CHARS_MAX);
    let name = cluster.get(cut..).unwrap_or(cluster);
    match name.chars().next() {
        Some(first) if !first.is_ascii_alphabetic() => format!("r{}", &name[first.len_utf8()..]),
        _ => name.to_owned(),
    }
}

fn decode(text: &str) -> Option<String> {
    use base64::Engine as _;

    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_as_kuberay_names_it() {
        assert_eq!(secret_name("solar-1-abcde"), "solar-1-abcde");
        let long = format!("{}-1-abcde", "a".repeat(45));
        assert_eq!(secret_name(&long).len(), 50);
        assert!(long.ends_with(&secret_name(&long)));
        let digits = format!("xx7{}", "b".repeat(49));
        assert_eq!(secret_name(&digits), format!("r{}", "b".repeat(49)));
    }

    #[test]
    fn a_token_is_decoded_or_is_none() {
        assert_eq!(decode("c2VjcmV0Cg=="), Some("secret".to_owned()));
        assert_eq!(decode("not base64!"), None);
    }
}
