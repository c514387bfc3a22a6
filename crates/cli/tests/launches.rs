//! Commands on launches that there are, against an API server on a port of this machine: `launch --wait --rejoin`, as a
//! step of a pipeline gives it a second time, and what others do where the store is out of reach.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Output;

use common::{eagleray, run};
use serde_json::{Value, json};
use server::{Requests, hold, listen, refusal};

#[allow(dead_code, reason = "shared with tests that use more of it")]
mod common;
#[path = "../../launch/tests/common/mod.rs"]
mod server;

/// Of the tests of the Kubeflow pipeline, too.
const SPEC: &str = include_str!("data/launched.yaml");

fn spec_of(name: &str, text: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"run.yaml": text},
        "metadata": {"name": name, "namespace": "training", "labels": {"eagleray/run": "solar", "eagleray/launch": name}}})
}

/// The spec of a launch whose newest job was this one.
fn spec_that_made(job: &str, text: &str) -> Value {
    let mut spec = spec_of("solar-1", text);
    spec["metadata"]["annotations"] = json!({"eagleray/made": job});
    spec
}

fn job(name: &str, deployment: &str, status: &str) -> Value {
    json!({"apiVersion": "ray.io/v1", "kind": "RayJob", "spec": {},
        "metadata": {"name": name, "namespace": "training", "labels": {"eagleray/run": "solar"}},
        "status": {"jobDeploymentStatus": deployment, "jobStatus": status}})
}

/// A cluster that holds these objects, takes every other, and completes each launch that it does not hold.
fn cluster(spec: &str, objects: Vec<Value>) -> (tempfile::TempDir, Requests) {
    let answer = hold(objects);
    let (folder, _, requests) = listen(move |asked| {
        let path = asked.split([' ', '?']).nth(1).unwrap();
        let name = path.rsplit('/').next().unwrap();
        if asked.starts_with("PATCH ") {
            return (200, json!({"metadata": {"name": name}}));
        }
        match answer(asked) {
            (404, _) if path.contains("/rayjobs/") => (200, job(name, "Complete", "SUCCEEDED")),
            (404, _) if name.ends_with('s') => (200, json!({"metadata": {}, "items": []})),
            (404, _) => refusal(404, &format!("\"{name}\" not found")),
            found => found,
        }
    });
    std::fs::write(folder.path().join("run.yaml"), spec).unwrap();
    (folder, requests)
}

fn rejoined(objects: Vec<Value>, more: &[&str]) -> (Output, Requests) {
    rejoined_of(SPEC, objects, more)
}

fn rejoined_of(spec: &str, objects: Vec<Value>, more: &[&str]) -> (Output, Requests) {
    let (folder, requests) = cluster(spec, objects);
    let arguments = ["launch", "run.yaml", "--wait", "--rejoin", "--kubeconfig", "config"];
    (run(folder.path(), &[&arguments[..], more].concat()), requests)
}

fn applied(requests: &Requests) -> Vec<String> {
    let requests = requests.lock().unwrap();
    let applied = requests.iter().filter_map(|(asked, _)| asked.strip_prefix("PATCH "));
    applied.filter_map(|path| Some(path.split_once("/rayjobs/")?.1.split('?').next()?.to_owned())).collect()
}

/// The jobs that were noted as made.
fn noted(requests: &Requests) -> Vec<String> {
    let requests = requests.lock().unwrap();
    let noted =
        requests.iter().filter(|(asked, _)| asked.starts_with("PATCH ") && asked.contains("/configmaps/"));
    let made = noted.filter_map(|(_, body)| serde_json::from_str::<Value>(body).ok());
    made.filter_map(|body| Some(body["metadata"]["annotations"]["eagleray/made"].as_str()?.to_owned()))
        .collect()
}

#[track_caller]
fn assert_refused(objects: Vec<Value>, why: &str) {
    assert_refused_of(SPEC, objects, why);
}

#[track_caller]
fn assert_refused_of(spec: &str, objects: Vec<Value>, why: &str) {
    let (done, requests) = rejoined_of(spec, objects, &[]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains(why) && said.contains("hint: "), "{said}");
    assert!(applied(&requests).is_empty());
}

#[test]
fn the_first_time_it_launches() {
    let (done, requests) = rejoined(vec![], &["--format", "json"]);
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(applied(&requests), ["solar-1"]);
    assert_eq!(noted(&requests), ["solar-1"]);
    let result: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&result["run"], &result["launch"]), (&"solar".into(), &"solar-1".into()));
    assert_eq!(result["store"], "/fsx/runs/solar");
    assert_eq!(result["digest"].as_str().unwrap().len(), 64, "{result}");
}

#[test]
fn a_launch_that_is_complete_is_done_and_one_that_is_alive_is_waited_for() {
    let (done, requests) =
        rejoined(vec![spec_of("solar-1", SPEC), job("solar-1", "Complete", "SUCCEEDED")], &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(applied(&requests).is_empty());
    let alive = vec![spec_of("solar-1", SPEC), job("solar-1", "Running", "RUNNING")];
    let (done, requests) = rejoined(alive, &["--timeout", "1s"]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.code() == Some(2) && said.contains("waits for launch `solar-1`, which is running"),
        "{said}"
    );
    assert!(applied(&requests).is_empty());
}

#[test]
fn a_launch_that_failed_is_followed_by_the_next() {
    let failed = vec![spec_of("solar-1", SPEC), job("solar-1", "Failed", "FAILED")];
    let (done, requests) = rejoined(failed, &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(applied(&requests), ["solar-2"]);
}

#[test]
fn what_somebody_ended_stays_ended_and_another_spec_is_another_run() {
    assert_refused(vec![spec_of("solar-1", SPEC), job("solar-1", "Failed", "STOPPED")], "was stopped");
    assert_refused(vec![spec_that_made("solar-1", SPEC)], "launch `solar-1` of this run is gone");
    assert_refused(vec![job("solar-1", "Complete", "SUCCEEDED")], "the spec of launch `solar-1` is gone");
    let other = SPEC.replace("steps: 1000", "steps: 2000");
    let complete = job("solar-1", "Complete", "SUCCEEDED");
    assert_refused(vec![spec_of("solar-1", &other), complete], "has another spec");
}

#[test]
fn a_launch_that_was_cut_off_before_its_job_was_made_is_made() {
    let (done, requests) = rejoined(vec![spec_of("solar-1", SPEC)], &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(
        (applied(&requests), noted(&requests)),
        (vec!["solar-1".to_owned()], vec!["solar-1".to_owned()])
    );
}

#[test]
fn a_build_is_followed_by_its_training_once_and_stays_ended_too() {
    let spec = SPEC
        .replace("{tokens: /fsx/web}", "{documents: /fsx/web/*.jsonl}")
        .replace("    groups:", "    cpu: {instance: m7i.8xlarge, nodes: 4}\n    groups:");
    let built = || job("solar-1-build", "Complete", "SUCCEEDED");
    let (done, requests) = rejoined_of(&spec, vec![spec_that_made("solar-1-build", &spec), built()], &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(applied(&requests), ["solar-1"]);
    assert_refused_of(
        &spec,
        vec![spec_that_made("solar-1", &spec), built()],
        "launch `solar-1` of this run is gone",
    );
    assert_refused_of(
        &spec,
        vec![spec_that_made("solar-1-build", &spec)],
        "`solar-1-build` of this run is gone",
    );
    let (done, requests) = rejoined_of(&spec, vec![], &[]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(noted(&requests), ["solar-1-build", "solar-1"]);
}

#[test]
fn a_driver_that_was_asked_to_stop_has_not_failed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let spec = SPEC.replace("/fsx", folder);
    let store = eagleray_store::Store::open(&format!("{folder}/runs/solar")).unwrap();
    eagleray_run::claim::claim(&store, &eagleray_run::Claimant::of_this_process("head"), || Ok(None))
        .unwrap();
    eagleray_run::stop::ask(&store).unwrap().unwrap();
    let failed = vec![spec_of("solar-1", &spec), job("solar-1", "Failed", "FAILED")];
    assert_refused_of(&spec, failed, "launch `solar-1` of this run was stopped");
    // It has saved, and told KubeRay of no failure.
    let end = eagleray_run::claim::End { outcome: "stopped".into(), step: 40, ended_us: 2 };
    eagleray_run::claim::finish(&store, 1, &end).unwrap();
    let done = || vec![spec_of("solar-1", &spec), job("solar-1", "Complete", "SUCCEEDED")];
    assert_refused_of(&spec, done(), "launch `solar-1` of this run was stopped");
    let (waited, _) = rejoined_of(&spec, vec![], &[]);
    assert_eq!(waited.status.code(), Some(1));
    let told = String::from_utf8_lossy(&waited.stderr).into_owned();
    assert!(told.contains("launch `solar-1` has stopped"), "{told}");
}

#[test]
fn it_is_for_who_waits_and_takes_no_number() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| eagleray(Path::new(folder.path()), arguments).status().unwrap().code();
    assert_eq!(refused(&["launch", "run.yaml", "--rejoin"]), Some(1));
    assert_eq!(refused(&["launch", "run.yaml", "--wait", "--rejoin", "--launch", "2"]), Some(1));
}

#[test]
fn a_store_that_is_out_of_reach_stops_only_what_needs_it_and_hears_no_secret_repeated() {
    let spec = SPEC.replace("/fsx/runs/solar", "s3://acme/runs/solar");
    let said = |words: &[&str], deployment: &str, status: &str| {
        let (folder, requests) =
            cluster(&spec, vec![spec_of("solar-1", &spec), job("solar-1", deployment, status)]);
        let arguments = [words, &["run.yaml", "--kubeconfig", "config"]].concat();
        let done = eagleray(folder.path(), &arguments)
            .envs([
                ("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "pl4nted"),
                ("AWS_REGION", "us-east-2"),
            ])
            .envs([("AWS_ENDPOINT_URL", "http://127.0.0.1:9"), ("EAGLERAY_STORE_TIMEOUT", "1s")])
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(!said.contains("pl4nted"), "{said}");
        let deleted = requests.lock().unwrap().iter().any(|(asked, _)| asked.starts_with("DELETE "));
        assert!(!deleted, "{said}");
        (done.status.code(), said)
    };
    let (code, text) = said(&["resume"], "Failed", "FAILED");
    assert!(
        code == Some(0) && text.contains("cannot look at the store from here, the driver will"),
        "{text}"
    );
    let (code, text) = said(&["watch", "--once"], "Running", "RUNNING");
    assert!(code == Some(0) && text.contains("cannot look at the run's store: "), "{text}");
    let (code, text) = said(&["stop"], "Running", "RUNNING");
    assert!(code == Some(2) && text.contains("hint: nothing was deleted; `--no-save` deletes"), "{text}");
}

#[test]
fn doctor_takes_a_run_whose_data_is_built_as_its_launch_does() {
    let text = SPEC
        .replace("{tokens: /fsx/web}", "{documents: '/fsx/web/*.jsonl'}")
        .replace("model:", "  built: /fsx/tokens\nmodel:");
    let (folder, _, requests) = listen(|_| refusal(404, "404 page not found"));
    std::fs::write(folder.path().join("run.yaml"), text).unwrap();
    let asked = |more: &[&str]| {
        let arguments = ["doctor", "run.yaml", "--kubeconfig", "config", "--format", "json"];
        run(folder.path(), &[&arguments[..], more].concat())
    };
    let refused: Value = serde_json::from_slice(&asked(&[]).stdout).unwrap();
    let said = |key: &str| refused["error"][key].as_str().unwrap_or_default();
    assert!(
        said("message").contains("`cluster.eks.cpu` names no nodes") && said("hint").contains("`--built`"),
        "{refused}"
    );
    assert_eq!(requests.lock().unwrap().len(), 0);
    let looked = asked(&["--built"]);
    let report: Value = serde_json::from_slice(&looked.stdout).unwrap();
    assert!(report["findings"].as_array().is_some_and(|findings| !findings.is_empty()), "{report}");
    assert!(!requests.lock().unwrap().is_empty());
}
