//! Whether a cluster, an identity and a store have what a launch needs.
//!
//! [`gather`] asks; [`judge`] decides, a pure function from what was answered. What could not be asked is said to be
//! unknown, with the right that is missing, and never taken for fine.
//!
//! ```
//! use eagleray_launch::doctor::{Answer, Facts, Level, judge};
//!
//! let facts = Facts { version: Answer::Failed("`https://k8s` does not answer".into()), ..Facts::default() };
//! let findings = judge(&facts);
//! assert_eq!((findings[0].id, findings[0].level), ("api-server", Level::Error));
//! ```
//!
//! Map: `facts` what was answered · `gather` asking · `finding` what is said of it · `rights` what an account may do ·
//! `need` what a launch asks for · `operator` `KubeRay` · `queue` Kueue · `nodes` device plugins and Karpenter ·
//! `namespace` quotas and admission · `storage` the store and the data.

mod facts;
mod finding;
pub(crate) mod gather;
mod namespace;
mod need;
mod nodes;
pub(crate) mod operator;
mod queue;
pub mod rights;
mod storage;

pub(crate) use facts::amount;
pub use facts::{Answer, Facts, Granted, Tried};
pub use finding::{Finding, Level, Report};
pub use gather::{Wanted, gather};
pub use storage::{try_source, try_store};

/// What there is to say of the facts, by area, the worst of each area first.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut say = finding::Say::default();
    api_server(facts, &mut say);
    if facts.version.found().is_some() {
        rights::judge(facts, &mut say);
        operator::judge(facts, &mut say);
        queue::judge(facts, &mut say);
        nodes::judge(facts, &mut say);
        namespace::judge(facts, &mut say);
    }
    storage::judge(facts, &mut say);
    say.sorted()
}

/// Whether there is anybody to ask.
fn api_server(facts: &Facts, say: &mut finding::Say) {
    let why = "everything else is asked of the API server";
    match &facts.version {
        Answer::Found(found) => {
            let version = found.first().and_then(|version| version.as_str()).unwrap_or("of no version");
            say.ok("api-server", "cluster", format!("`{}` answers, Kubernetes {version}", facts.server));
        }
        Answer::NotAsked => {}
        Answer::Refused(said) | Answer::Failed(said) => {
            let remedy =
                "aws sts get-caller-identity\naws eks update-kubeconfig --name CLUSTER\nkubectl cluster-info";
            say.error("api-server", "cluster", said.clone(), why, remedy);
        }
        Answer::Missing => say.error(
            "api-server",
            "cluster",
            "the server has no version: it is no API server",
            why,
            "kubectl cluster-info",
        ),
    }
}

#[cfg(test)]
mod tests;
