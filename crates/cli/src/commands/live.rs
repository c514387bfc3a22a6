//! What the commands that talk to a cluster have in common.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use eagleray_base::units::parse_duration;
use eagleray_base::{Error, Result};
use eagleray_launch::cluster::{Cluster, Connection};
use eagleray_launch::launches::{Launch, launches, newest_number};
use eagleray_spec::Resolved;

use super::SpecArgs;

/// Which cluster.
#[derive(clap::Args)]
pub(crate) struct ClusterArgs {
    /// How to reach the cluster; $KUBECONFIG, ~/.kube/config, or the account of the pod that this runs in
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A context of that file; its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// How long the API server may take over one answer, such as 10s or 2m; 30s
    #[arg(long, value_name = "TIME", value_parser = patience)]
    request_timeout: Option<Patience>,
}

impl ClusterArgs {
    pub(crate) fn connect(&self) -> Result<Cluster> {
        Cluster::connect(&Connection {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            answer_max: self.request_timeout.map(Patience::duration),
        })
    }
}

/// What stands for a cluster where a file or a folder could stand.
pub(crate) const LIVE: &str = "live";

/// Which objects of a cluster, for commands that take files or `live`.
#[derive(clap::Args)]
pub(crate) struct LiveArgs {
    /// Where `live` looks; the namespace of the context
    #[arg(short = 'n', long, value_name = "NS", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// `live` looks everywhere
    #[arg(long)]
    all_namespaces: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl LiveArgs {
    /// The cluster, and the namespace, none for all.
    pub(crate) fn connect(&self) -> Result<(Cluster, Option<String>)> {
        let cluster = self.cluster.connect()?;
        let namespace = self.namespace.clone().unwrap_or_else(|| cluster.namespace().to_owned());
        Ok((cluster, (!self.all_namespaces).then_some(namespace)))
    }

    /// Refuses what says where in a cluster, where files are read.
    pub(crate) fn refuse_beside_files(&self) -> Result<()> {
        let given = [
            ("--namespace", self.namespace.is_some()),
            ("--all-namespaces", self.all_namespaces),
            ("--kubeconfig", self.cluster.kubeconfig.is_some()),
            ("--context", self.cluster.context.is_some()),
            ("--request-timeout", self.cluster.request_timeout.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((option, _)) => {
                Err(Error::invalid(format!("`{option}` is of a cluster, and files are read"))
                    .with_hint("`live` in the place of files looks at a cluster"))
            }
            None => Ok(()),
        }
    }
}

/// One launch of a run.
#[derive(clap::Args)]
pub(crate) struct LaunchArgs {
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The number of the launch; the newest
    #[arg(long)]
    launch: Option<u32>,
}

impl LaunchArgs {
    /// The run, and the launch that is named.
    pub(crate) fn open(&self) -> Result<(Run, Launch)> {
        let run = Run::open(&self.spec, &self.cluster)?;
        let launch = run.named(self.launch)?.clone();
        Ok((run, launch))
    }
}

/// A run and its launches on a cluster.
pub(crate) struct Run {
    pub(crate) resolved: Resolved,
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    pub(crate) launches: Vec<Launch>,
    /// The newest number that a launch has had, of those that are deleted too; 0 where there was none.
    pub(crate) newest: u32,
}

impl Run {
    /// Reads the spec and asks the cluster for the launches of its run.
    pub(crate) fn open(spec: &SpecArgs, cluster: &ClusterArgs) -> Result<Self> {
        let resolved = spec.resolve()?;
        let namespace = namespace(&resolved)?;
        let cluster = cluster.connect()?;
        let launches = launches(&cluster, Some(&namespace), Some(&resolved.spec.name))?;
        let newest = newest_number(&cluster, &namespace, &resolved.spec.name)?;
        let newest = launches.iter().map(|launch| launch.number).max().unwrap_or(0).max(newest);
        Ok(Self { resolved, cluster, namespace, launches, newest })
    }

    /// The number of the next launch.
    pub(crate) const fn next(&self) -> u32 {
        self.newest + 1
    }

    /// The launches that are not over, or are still being taken down.
    pub(crate) fn alive(&self) -> impl Iterator<Item = &Launch> {
        self.launches.iter().filter(|launch| !launch.phase.is_over() || launch.deleting)
    }

    /// The launch of this number, that which trains before that which builds; the newest.
    fn named(&self, number: Option<u32>) -> Result<&Launch> {
        let found = match number {
            Some(number) => self.find(number, false).or_else(|| self.find(number, true)),
            None => self.launches.last(),
        };
        found.ok_or_else(|| {
            let (name, namespace) = (&self.resolved.spec.name, &self.namespace);
            Error::not_found(format!("`{name}` has no such launch in `{namespace}`"))
                .with_hint("`eagleray launch` makes one")
        })
    }

    /// The launch of this number that trains, or builds.
    pub(crate) fn find(&self, number: u32, builds: bool) -> Option<&Launch> {
        self.launches.iter().find(|launch| launch.number == number && launch.builds == builds)
    }
}

/// The namespace of a run on EKS.
pub(crate) fn namespace(resolved: &Resolved) -> Result<String> {
    let namespace = resolved.spec.cluster.eks.as_ref().and_then(|eks| eks["namespace"].as_str());
    namespace.map(str::to_owned).ok_or_else(|| {
        Error::invalid("`cluster.eks` is missing: this run is on no cluster")
            .with_hint("`eagleray train` runs it here; docs/eks.md has an example of `cluster.eks`")
    })
}

/// Seconds since the epoch.
#[expect(clippy::disallowed_methods, reason = "ages are told against the clock of whoever asks")]
pub(crate) fn now() -> i64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH);
    age.map_or(0, |age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
}

/// What is longer is a mistake.
const PATIENCE_MAX: Duration = Duration::from_hours(366 * 24);

/// `30m`, as a point in time from now on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(Duration);

impl Patience {
    pub(crate) const fn of_seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub(crate) const fn duration(self) -> Duration {
        self.0
    }

    pub(crate) fn deadline(self) -> Instant {
        Instant::now() + self.0
    }
}

/// `90s`, `30m`, `1.5h`, `3d`; a bare number is seconds.
pub(crate) fn patience(text: &str) -> Result<Patience, String> {
    let bare = text.ends_with(|last: char| last.is_ascii_digit());
    let read = parse_duration(&if bare { format!("{text}s") } else { text.to_owned() });
    let duration = read.map_err(|_| "such as 90s, 30m or 2h".to_owned())?;
    if duration > PATIENCE_MAX {
        return Err("a year at most".to_owned());
    }
    Ok(Patience(duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_read_with_its_unit() {
        let seconds = |text| patience(text).map(|patience| patience.0.as_secs());
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("30m"), Ok(1_800));
        assert_eq!(seconds("1.5h"), Ok(5_400));
        for wrong in ["", "m", "-1s", "1w", "inf", "99999999999999999999", "400d", "ü"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
