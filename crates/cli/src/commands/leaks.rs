//! `eagleray runs --leaks`: what is held on a cluster and does nothing.

use std::collections::BTreeMap;
use std::path::Path;

use eagleray_base::units::format_seconds;
use eagleray_base::{Error, Result};
use eagleray_kube::render::SPEC_FILE;
use eagleray_launch::cluster::Cluster;
use eagleray_launch::leaks::{Driver, Holdings, Leak, ask_heads, holdings, leaks};
use eagleray_launch::resource::CONFIG_MAP;
use eagleray_run::runs;
use eagleray_spec::{Problems, Source};
use eagleray_store::Store;
use serde_json::{Value, json};

use super::live::{ClusterArgs, Patience, now, patience};
use crate::output::Output;

/// What is looked for, and where.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, clippy::struct_field_names, reason = "each is a flag")]
pub(crate) struct Leaks {
    /// Find what is held on a cluster and does nothing: refused and suspended launches with quota, launches without a
    /// living driver, clusters past their job, idle GPUs, pods that do not go on dead nodes, clusters for people that
    /// nobody uses
    #[arg(long, conflicts_with = "path")]
    leaks: bool,
    /// Delete what is found, asking nothing; never a cluster for people
    #[arg(long, requires = "leaks")]
    fix: bool,
    /// What is not of Eagle Ray too; with --fix it is deleted
    #[arg(long, requires = "leaks")]
    all: bool,
    /// Where to look; the namespace of the context
    #[arg(long, value_name = "NS", requires = "leaks", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Look everywhere
    #[arg(long, requires = "leaks")]
    all_namespaces: bool,
    /// How long a cluster for people may have no job, such as 90m, 12h or 3d
    #[arg(long, value_name = "TIME", value_parser = patience, requires = "leaks", default_value = "12h")]
    idle: Patience,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl Leaks {
    pub(crate) fn is_wanted(&self) -> bool {
        self.leaks
    }

    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let cluster = self.cluster.connect()?;
        let namespace = self.namespace.as_deref().unwrap_or(cluster.namespace()).to_owned();
        let namespace = (!self.all_namespaces).then_some(namespace.as_str());
        let mut held = holdings(&cluster, namespace)?;
        ask_stores(&cluster, &mut held);
        ask_heads(&cluster, &mut held, now(), self.idle.duration());
        for missing in &held.unseen {
            output.note(missing);
        }
        let found = leaks(&held, now(), self.all);
        let done: Vec<Option<Result<bool>>> =
            found.iter().map(|leak| (self.fix && leak.fix.is_safe()).then(|| leak.mend(&cluster))).collect();
        let left = done.iter().filter(|done| done.is_none()).count();
        if output.is_json() {
            let rows: Vec<Value> =
                found.iter().zip(&done).map(|(leak, done)| row(leak, done.as_ref())).collect();
            output.json(&json!({"namespace": namespace, "leaks": rows}));
        } else {
            output.print(&text(&found, &done, namespace, now(), self.fix));
        }
        let failed = done.into_iter().flatten().find_map(Result::err);
        match failed {
            Some(error) => Err(error),
            None if left == 0 => Ok(()),
            None => Err(output.reported(Error::invalid(format!("{left} leaks")))),
        }
    }
}

/// Asks the store of each launch whose driver should be alive. One that cannot be asked is alive, as far as anyone knows.
fn ask_stores(cluster: &Cluster, held: &mut Holdings) {
    let mut unseen = Vec::new();
    for job in held.jobs.iter_mut().filter(|job| job.has_driver()) {
        let name = &job.name;
        let asked = store_of(cluster, &name.namespace, &name.name).and_then(|store| runs::summary(&store));
        match asked {
            Ok(summary) => {
                job.driver = Some(Driver { state: summary.state, last: now() - summary.age_seconds as i64 });
            }
            Err(error) => unseen.push(format!(
                "cannot ask the store of `{}` whether its driver is alive: {}",
                name.name,
                error.message()
            )),
        }
    }
    held.unseen.extend(unseen);
}

/// The store that the spec of a launch names.
fn store_of(cluster: &Cluster, namespace: &str, launch: &str) -> Result<Store> {
    let missing = || Error::not_found(format!("no spec in ConfigMap `{launch}`"));
    let config = cluster.get(CONFIG_MAP, Some(namespace), launch)?.ok_or_else(missing)?;
    let text = config["data"][SPEC_FILE].as_str().ok_or_else(missing)?;
    let none = |_: &str| None;
    let overrides = [];
    let source =
        Source { name: launch, text, base: Path::new("/"), overrides: &overrides, environment: &none };
    let planned = eagleray_plan::resolve_reading(&source, &|_| None).map_err(Problems::into_error)?;
    Store::open(&planned.resolved.spec.store)
}

fn row(leak: &Leak, done: Option<&Result<bool>>) -> Value {
    let mut value = serde_json::to_value(leak).unwrap_or_default();
    value["remedy"] = json!(leak.remedy());
    value["fixed"] = json!(done.map(Result::is_ok));
    if let Some(Err(error)) = done {
        value["error"] = json!(error.message());
        value["hint"] = json!(error.hint());
    }
    value
}

fn text(
    found: &[Leak],
    done: &[Option<Result<bool>>],
    namespace: Option<&str>,
    now: i64,
    fix: bool,
) -> String {
    let place = namespace.map_or_else(|| "all namespaces".to_owned(), |name| format!("namespace `{name}`"));
    if found.is_empty() {
        return format!("nothing is held for nothing in {place}");
    }
    let mut lines = Vec::new();
    for (leak, done) in found.iter().zip(done) {
        let age = format_seconds((now - leak.since).max(0) as f64);
        lines.push(format!(
            "{}: {} GPUs for {age}: {} [{}]",
            leak.what(),
            leak.gpus,
            leak.why,
            leak.class.name()
        ));
        lines.push(match done {
            None if leak.fix.is_safe() => format!("    {}", leak.remedy()),
            None => format!("    by hand, as somebody may work on it (`--fix` leaves it): {}", leak.remedy()),
            Some(Ok(true)) => "    deleted".to_owned(),
            Some(Ok(false)) => "    gone already".to_owned(),
            Some(Err(error)) => match error.hint() {
                Some(hint) => format!("    not deleted: {}; {hint}", error.message()),
                None => format!("    not deleted: {}", error.message()),
            },
        });
    }
    // A job and what is left of its cluster hold the same machines.
    let mut by_run: BTreeMap<&str, u64> = BTreeMap::new();
    for leak in found {
        let run = leak.object.run.as_deref().unwrap_or(&leak.object.name);
        let most = by_run.entry(run).or_default();
        *most = (*most).max(leak.gpus);
    }
    let gpus: u64 = by_run.values().sum();
    let people = found.iter().filter(|leak| !leak.fix.is_safe()).count();
    let ends = match found.len() - people {
        0 => "people alone delete them".to_owned(),
        _ if people == 0 => "`--fix` deletes them".to_owned(),
        safe => format!("`--fix` deletes {safe} of them"),
    };
    if !fix {
        lines.push(format!("{} in {place}, {gpus} GPUs at least; {ends}", found.len()));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use eagleray_launch::leaks::{Class, Fix, Name};

    use super::*;

    fn leak(name: &str, gpus: u64, fix: Fix) -> Leak {
        let object = Name {
            namespace: "training".into(),
            name: name.into(),
            run: Some("solar".into()),
            ..Name::default()
        };
        let why = "its RayJob `solar-1` is gone".to_owned();
        Leak { class: Class::PastItsJob, object, gpus, since: 1_000, why, fix }
    }

    #[test]
    fn each_leak_has_its_cost_and_its_remedy() {
        let found = [leak("solar-1-x", 16, Fix::DeleteCluster), leak("p", 8, Fix::ForceDeletePod)];
        insta::assert_snapshot!(text(&found, &[None, None], Some("training"), 8_200, false));
        let done = [Some(Ok(true)), Some(Err(Error::invalid("pods is forbidden")))];
        insta::assert_snapshot!("fixed", text(&found, &done, None, 8_200, true));
        assert_eq!(row(&found[1], done[1].as_ref())["fixed"], false);
        assert_eq!(row(&found[0], None)["fixed"], Value::Null);
        assert_eq!(
            text(&[], &[], Some("training"), 0, false),
            "nothing is held for nothing in namespace `training`"
        );
    }

    #[test]
    fn a_cluster_for_people_is_left_to_them() {
        let mut standing = leak("notebook", 8, Fix::LeaveCluster);
        (standing.class, standing.why) = (Class::IdleCluster, "no job has run on it for 14 h 00 m".into());
        let alone = std::slice::from_ref(&standing);
        let by_hand = "    by hand, as somebody may work on it (`--fix` leaves it): kubectl -n training delete raycluster notebook";
        let told = text(alone, &[None], Some("training"), 8_200, false);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(
            lines,
            [
                "RayCluster training/notebook: 8 GPUs for 2 h 00 m: no job has run on it for 14 h 00 m [idle-cluster]",
                by_hand,
                "1 in namespace `training`, 8 GPUs at least; people alone delete them",
            ]
        );
        let both = [standing, leak("solar-1-x", 16, Fix::DeleteCluster)];
        let told = text(&both, &[None, None], None, 8_200, false);
        assert!(told.ends_with("2 in all namespaces, 16 GPUs at least; `--fix` deletes 1 of them"), "{told}");
        let told = text(&both, &[None, Some(Ok(true))], None, 8_200, true);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!((lines[1], lines[3], lines.len()), (by_hand, "    deleted", 4));
        let shown = row(&both[0], None);
        assert_eq!((&shown["fix"], &shown["class"]), (&json!("leave-cluster"), &json!("idle-cluster")));
    }
}
